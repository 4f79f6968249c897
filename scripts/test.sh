#!/usr/bin/env bash
# Set-up, build and every test.
#
#   scripts/test.sh [PRESET] [CTEST OPTION...]     PRESET: cpu (default), asan, tsan; e.g. scripts/test.sh cpu -R lora
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=cpu
if [[ ${1:--} != -* ]]; then
  preset=$1
  shift
fi
start=$SECONDS
scripts/setup.sh
scripts/build.sh "$preset" --target all
built=$SECONDS
status=0
# Tests side by side have more threads than cores: one that spins at a barrier keeps the core from the one it waits for.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
ctest --preset "$preset" --output-on-failure --parallel 2 "$@" || status=$?
echo "test: set-up and build $((built - start)) s, tests $((SECONDS - built)) s"
exit "$status"
