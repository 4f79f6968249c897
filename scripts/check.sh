#!/usr/bin/env bash
# What a commit should pass besides the tests: format, layers, shell scripts, Python files, clang-tidy.
# clang-tidy reads only the .cpp files that differ from BASE and needs a configured build/cpu.
#
#   scripts/check.sh [BASE]        BASE: a commit, HEAD by default: what is not committed yet
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

base=${1:-HEAD}
failed=()
step() { # NAME COMMAND...
  echo "check: $1"
  "${@:2}" || failed+=("$1")
}
clean_format() { git ls-files -z '*.hpp' '*.cpp' | xargs -0 clang-format --dry-run --Werror; }
clean_shell() { git ls-files -z '*.sh' '*.sbatch' .ci/run | xargs -0 shellcheck; }
clean_python() {
  git ls-files -z '*.py' |
    xargs -0 python3 -c 'import ast, sys; [ast.parse(open(name).read(), name) for name in sys.argv[1:]]'
}
clean_tidy() {
  local changed
  mapfile -d '' changed < <(git diff --name-only --diff-filter=d -z "$base" -- '*.cpp')
  ((${#changed[@]} == 0)) || clang-tidy --quiet -p build/cpu "${changed[@]}"
}

step format clean_format
step layers python3 scripts/check_layers.py
step shell clean_shell
step python clean_python
if [[ -f build/cpu/compile_commands.json ]]; then
  step tidy clean_tidy
else
  echo "check: tidy left out: no build/cpu/compile_commands.json, run scripts/build.sh"
fi
if ((${#failed[@]} > 0)); then
  echo "check: failed: ${failed[*]}" >&2
  exit 1
fi
echo "check: clean"
