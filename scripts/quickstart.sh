#!/usr/bin/env bash
# From a clean clone to a trained adapter: set-up, build, a real model (SmolLM2-135M-Instruct), data, accuracy before,
# training (at most 8 minutes on 2 cores), accuracy after, three answers. An interrupted run goes on where it was when
# this is started again; a finished one is shown again (rm -r runs/quickstart* trains anew).
#
#   scripts/quickstart.sh [--grpo] [KEY=VALUE...]
#
# KEY=VALUE overrides the job, e.g. train.seed=7 output.dir=runs/seed-7. With --grpo the training is shorter, a second job
# goes on from its adapter by reinforcement learning, and the accuracy is measured a third time: about 20 minutes in all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tailor=build/cpu/tailor
job=configs/presets/sft_smollm2_quickstart.yaml
model=downloads/SmolLM2-135M-Instruct.Q4_1.gguf
data=data/word_problems
output=runs/quickstart
overrides=()
shared=() # by the second job
grpo=false
for override in "$@"; do
  case $override in
    --grpo) grpo=true ;;
    -h | --help)
      sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
      exit 0
      ;;
    output.dir=*) output=${override#output.dir=} ;;
    train.seed=* | train.threads=*) overrides+=(--set "$override") shared+=(--set "$override") ;;
    *=*) overrides+=(--set "$override") ;;
    *)
      echo "quickstart: '$override' is not KEY=VALUE" >&2
      exit 2
      ;;
  esac
done
[[ $output == /* ]] || output=$PWD/$output
second=$output-grpo
if $grpo; then # what a shorter training leaves to learn, the second job learns
  output+=-short
  overrides=(--set train.max_steps=50 "${overrides[@]}")
fi

times=()
stage() { # NAME COMMAND...
  local start=$SECONDS
  printf '\n== %s\n' "$1"
  "${@:2}"
  times+=("$(printf '%-16s %5d s' "$1" $((SECONDS - start)))")
}

# The exact final answer, by greedy decoding, on the held-out problems.
accuracy() { # RESULT.json [OPTION...]
  "$tailor" eval --model "$model" --data "$data/test.jsonl" --exact-match --without-loss \
    --max-new-tokens 128 --batch-size 32 --json "${@:2}" >"$1"
  python3 -c 'import json, sys
result = json.load(sys.stdin)
print("exact answers: {:.1f} % of {num_rows}".format(100 * result["exact_match"], **result))' <"$1"
}

show_answers() {
  local problem expected
  while IFS=$'\t' read -r problem expected; do
    printf '\n%s\n' "$problem"
    "$tailor" generate --model "$model" --adapter "$adapter" --chat --prompt "$problem" \
      --temperature 0 --max-new-tokens 64 2>/dev/null | sed 's/^/    /'
    printf '  expected: %s\n' "$expected"
  done < <(python3 -c '
import json, sys
for line in list(sys.stdin)[:3]:
    row = json.loads(line)
    print(row["messages"][0]["content"], row["answer"], sep="\t")' <"$data/test.jsonl")
}

stage "set-up" scripts/setup.sh
stage "build" scripts/build.sh cpu
stage "model" scripts/fetch_model.sh
stage "data" python3 scripts/data/word_problems.py --out "$data"
mkdir -p "$output"
stage "accuracy before" accuracy "$output/before.json"
stage "training" "$tailor" train "$job" --set output.dir="$output" "${overrides[@]}"
stage "accuracy after" accuracy "$output/after.json" --adapter "$output/adapter"
adapter=$output/adapter
if $grpo; then
  stage "GRPO" "$tailor" train configs/presets/grpo_smollm2_quickstart.yaml --set peft.adapter_path="$output/adapter" \
    --set output.dir="$second" "${shared[@]}"
  stage "accuracy, GRPO" accuracy "$output/grpo.json" --adapter "$second/adapter"
  stage "report" "$tailor" report "$second"
  adapter=$second/adapter
fi
stage "three answers" show_answers

printf '\n== result\n'
python3 - "$output" "$adapter" "$second" <<'PYTHON'
import json, pathlib, sys

output, adapter, second = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
names = {"before": "before", "after": "after", "grpo": "after GRPO"}
shares = {
    words: json.loads((output / f"{name}.json").read_text())["exact_match"]
    for name, words in names.items()
    if (output / f"{name}.json").exists() and (name != "grpo" or adapter.startswith(second))
}
print("exact answers on 200 held-out problems: " + ", ".join(f"{100 * share:.1f} % {words}" for words, share in shares.items()))
print(f"adapter: {adapter} (HF PEFT loads it)")
PYTHON
printf '%s\n' "${times[@]}"
