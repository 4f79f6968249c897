#!/usr/bin/env bash
# Shows on a Slurm of its own, of one node, that scripts/launch/train.sbatch trains, and goes on after SIGTERM. Leaves
# no process and no file behind, and ends within 15 minutes in any case (in one or two on an idle machine).
#
#   scripts/launch/test_slurm.sh [--tailor build/cpu/tailor] [--time-limit]
#
# --time-limit also waits for a job's time to run out (two minutes). Only the Debian packages need root, once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

packages=(slurm-wlm munge openmpi-bin)
missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
if ((${#missing[@]} > 0)); then
  if ((EUID != 0)); then
    echo "test_slurm: packages are missing; run this once, then test_slurm.sh again:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 2
  fi
  echo "test_slurm: installing ${missing[*]}"
  apt-get -qq update
  # At run level 1 Debian's scripts start no services.
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 timeout 600 \
    apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi
# The second signal is for a test that does not clean up within a minute.
exec timeout --signal=TERM --kill-after=60 840 python3 scripts/launch/test_slurm.py "$@"
