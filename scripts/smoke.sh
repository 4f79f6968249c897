#!/usr/bin/env bash
# Trains a tiny dense and a tiny sparse model of random weights for 20 steps each and checks that the loss falls: a
# build that works, in seconds and without a download. For a CI pipeline.
#
#   scripts/smoke.sh [TAILOR] [RANKS...]     TAILOR: the program (build/cpu/tailor); RANKS: 1, and 2 where mpirun is
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tailor=$(realpath "${1:-$root/build/cpu/tailor}")
ranks=("${@:2}")
presets=$root/configs/presets
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

launch() { # RANKS COMMAND...
  if [[ $1 == 1 ]]; then
    "${@:2}"
  else
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none \
      mpirun --oversubscribe -n "$@"
  fi
}

smoke() { # KIND RANKS
  local run=$work/$1-$2 start=$EPOCHREALTIME
  if ! launch "$2" "$tailor" train "$presets/smoke_$1.yaml" --json --set model.name_or_path="$work/$1" \
    --set output.dir="$run" >"$work/result.json" 2>"$work/log"; then
    cat "$work/log" >&2
    echo "smoke: $1 at $2 rank(s): tailor train failed" >&2
    return 1
  fi
  python3 - "$1" "$2" "$run" "$work/result.json" "$start" <<'PYTHON'
import json, pathlib, sys, time

kind, ranks, run, result, start = sys.argv[1:]
seconds = time.time() - float(start)
result = json.loads(pathlib.Path(result).read_text())
lines = [json.loads(line) for line in (pathlib.Path(run) / "metrics.jsonl").read_text().splitlines()]
first, last = lines[0]["loss"], result["loss"]
print(f"{kind:5} at {ranks} rank(s): loss {first:.3f} -> {last:.3f} in {result['steps']} steps, {seconds:.1f} s")
if not last < 0.8 * first:
    sys.exit(f"smoke: {kind} at {ranks} rank(s) does not learn: expected a loss below {0.8 * first:.3f}")
PYTHON
}

if [[ ${#ranks[@]} == 0 ]]; then
  ranks=(1)
  if command -v mpirun >/dev/null; then ranks+=(2); fi
fi
for kind in dense moe; do
  "$tailor" init --config "$presets/smoke/$kind.json" --output "$work/$kind" 2>/dev/null
  for count in "${ranks[@]}"; do smoke "$kind" "$count"; done
done
