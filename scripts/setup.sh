#!/usr/bin/env bash
# Installs what the build needs (Debian 12) and fetches libtorch. Running it again is quick and harmless.
#
#   scripts/setup.sh               Debian packages and libtorch
#   scripts/setup.sh --dev         also what scripts/check.sh needs
#   scripts/setup.sh --torch-dir   prints where libtorch lies or will lie, and does nothing
#
# TAILOR_TORCH=DIR   use this libtorch, or this folder torch/ of an installed wheel, and fetch none
# TAILOR_CACHE=DIR   where fetched things lie, instead of ~/.cache/tailor
set -euo pipefail

torch_version=2.14.1
cache=${TAILOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tailor}
torch_root=$cache/torch-$torch_version
torch_dir=${TAILOR_TORCH:-$torch_root/torch}
packages=(g++ cmake ninja-build ccache pkg-config git python3 python3-pip python3-venv libyaml-cpp-dev
  libcli11-dev nlohmann-json3-dev libspdlog-dev libpcre2-dev libutf8proc-dev libhwy-dev catch2
  libcurl4-openssl-dev libopenmpi-dev openmpi-bin)

case ${1:-} in
  "") ;;
  --dev) packages+=(clang-format clang-tidy shellcheck) ;;
  --torch-dir)
    printf '%s\n' "$torch_dir"
    exit 0
    ;;
  *)
    echo "setup.sh: unknown option '$1' (known: --dev, --torch-dir)" >&2
    exit 2
    ;;
esac

is_installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    echo "setup: no Debian packages here; the build needs what Debian calls: ${packages[*]}" >&2
    return
  fi
  local missing=() package as_root=()
  for package in "${packages[@]}"; do
    is_installed "$package" || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    echo "setup: all ${#packages[@]} Debian packages are there"
    return
  fi
  if ((EUID != 0)); then
    if ! sudo -n true 2>/dev/null; then
      echo "setup: packages are missing; run this once, then setup.sh again:" >&2
      echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "setup: installing ${missing[*]}"
  "${as_root[@]}" apt-get -qq update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# The wheel's CPU half, with the two small CUDA libraries that libtorch_cpu.so is linked with. Its CUDA half
# (500 MB) and its Python half stay out. The folder appears under its name only when it is complete.
fetch_torch() {
  local fresh
  mkdir -p "$cache"
  fresh=$(mktemp -d "$cache/torch.XXXXXX")
  # shellcheck disable=SC2064  # the name is wanted as it is now
  trap "rm -rf '${fresh//\'/\'\\\'\'}'" EXIT
  echo "setup: fetching libtorch $torch_version into $torch_root"
  # The wheel's Python version does not matter to C++: naming one serves machines with any Python 3.
  python3 -m pip download --quiet --no-deps --no-cache-dir --only-binary :all: --python-version 3.11 \
    --dest "$fresh/wheels" "torch==$torch_version" "nvidia-cuda-runtime==13.0.*" "nvidia-cuda-cupti==13.0.*"
  python3 - "$fresh" <<'PYTHON'
import pathlib, re, sys, zipfile

root = pathlib.Path(sys.argv[1])
wanted = re.compile(
    r"torch/include/.+|torch/lib/lib(torch_cpu|torch_global_deps|c10|gomp[^/]*)\.so[^/]*"
    r"|nvidia/.+/lib(cudart|cupti)\.so[^/]*|[^/]+\.dist-info/(METADATA|licenses/.+|LICENSE.*|NOTICE.*)"
)
for wheel in (root / "wheels").glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(root, [name for name in archive.namelist() if wanted.fullmatch(name)])
PYTHON
  rm -rf "$fresh/wheels"
  chmod 755 "$fresh"
  # Another setup.sh may have been faster: then its folder stays.
  mv -T "$fresh" "$torch_root" 2>/dev/null || [[ -f $torch_root/torch/lib/libtorch_cpu.so ]]
}

install_packages
if [[ -z ${TAILOR_TORCH:-} && ! -f $torch_dir/lib/libtorch_cpu.so ]]; then
  fetch_torch
fi
for file in lib/libtorch_cpu.so lib/libc10.so include/torch/headeronly/version.h; do
  if [[ ! -f $torch_dir/$file ]]; then
    echo "setup: no $file in $torch_dir" >&2
    exit 1
  fi
done
echo "setup: libtorch is in $torch_dir"
