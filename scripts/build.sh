#!/usr/bin/env bash
# Configures and builds: the program is build/<preset>/tailor afterwards. Tests are built with --target all alone.
#
#   scripts/build.sh [PRESET] [--target NAME] [CMAKE OPTION...]    PRESET: cpu (default), asan, tsan
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=cpu
if [[ ${1:--} != -* ]]; then
  preset=$1
  shift
fi
target=tailor
if [[ ${1:-} == --target ]]; then
  target=${2:?build: --target needs a name}
  shift 2
fi
torch_dir=$(scripts/setup.sh --torch-dir)
if [[ ! -d $torch_dir/lib ]]; then
  echo "build: no libtorch in $torch_dir; run scripts/setup.sh first" >&2
  exit 1
fi
cmake --preset "$preset" -DTAILOR_TORCH="$torch_dir" "$@" >/dev/null
cmake --build --preset "$preset" --target "$target" --parallel "$(nproc)"
echo "build: $PWD/build/$preset/tailor"
