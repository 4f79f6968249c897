#!/usr/bin/env bash
# Builds the program with CUDA, on a machine with or without a GPU: build/cuda/tailor afterwards.
#
#   scripts/build_cuda.sh [CMAKE OPTION...]
#
# Needs the CUDA 13 toolkit (nvcc), in CUDA_HOME, /usr/local/cuda-13* or /usr/local/cuda, and what
# scripts/setup.sh installs.
# TAILOR_TORCH=DIR   the folder torch/ of a whole wheel, CUDA half included; else it is fetched, with
#                    the libraries that it is linked with (5 GB)
# TAILOR_CACHE=DIR   where fetched things lie, instead of ~/.cache/tailor
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cpu_root=$(dirname "$(env -u TAILOR_TORCH scripts/setup.sh --torch-dir)") # .../torch-VERSION
torch_version=${cpu_root##*/torch-}
torch_root=${cpu_root%/*}/torch-cuda-$torch_version

toolkit=""
for folder in "${CUDA_HOME:-}" /usr/local/cuda-13* /usr/local/cuda; do
  if [[ -n $folder && -x $folder/bin/nvcc ]]; then
    toolkit=$folder
    break
  fi
done
if [[ -z $toolkit ]]; then
  echo "build_cuda: no nvcc in CUDA_HOME, /usr/local/cuda-13* or /usr/local/cuda; install the CUDA 13 toolkit" >&2
  exit 1
fi

torch_dir=${TAILOR_TORCH:-$torch_root/torch}
if [[ -z ${TAILOR_TORCH:-} && ! -f $torch_dir/lib/libtorch_cuda.so ]]; then
  mkdir -p "$(dirname "$torch_root")"
  fresh=$(mktemp -d "$torch_root.XXXXXX")
  # shellcheck disable=SC2064  # the name is wanted as it is now
  trap "rm -rf '${fresh//\'/\'\\\'\'}'" EXIT
  echo "build_cuda: fetching libtorch $torch_version and its CUDA libraries into $torch_root"
  # The wheel's Python version does not matter to C++: naming one serves machines with any Python 3.
  python3 -m pip install --quiet --no-cache-dir --only-binary :all: --python-version 3.11 --target "$fresh" \
    "torch==$torch_version"
  chmod 755 "$fresh"
  # Another build may have been faster: then its folder stays.
  mv -T "$fresh" "$torch_root" 2>/dev/null || [[ -f $torch_dir/lib/libtorch_cuda.so ]]
fi
if [[ ! -f $torch_dir/lib/libtorch_cuda.so ]]; then
  echo "build_cuda: no lib/libtorch_cuda.so in $torch_dir: a libtorch without its CUDA half" >&2
  exit 1
fi

cmake --preset cuda -DTAILOR_TORCH="$torch_dir" -DCUDAToolkit_ROOT="$toolkit" "$@" >/dev/null
cmake --build --preset cuda --parallel "$(nproc)"
echo "build_cuda: $PWD/build/cuda/tailor"
