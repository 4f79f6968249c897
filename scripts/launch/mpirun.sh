#!/usr/bin/env bash
# Trains on several ranks of this machine; Ctrl-C or SIGTERM saves and ends with code 130.
#
#   scripts/launch/mpirun.sh RANKS JOB.yaml [OPTION...]
#
# A signal to mpirun itself makes it kill its ranks within two seconds. SIGUSR1 it passes on, and
# the ranks finish their step and save. MPIRUN names another mpirun or adds options; TAILOR names
# the program.
set -euo pipefail
if [[ $# -lt 2 ]]; then
  echo "usage: ${0##*/} RANKS JOB.yaml [OPTION...]" >&2
  exit 2
fi
ranks=$1
shift

set -m # a process group of its own, which Ctrl-C does not reach
# shellcheck disable=SC2086  # MPIRUN may hold options
${MPIRUN:-mpirun} -n "$ranks" "${TAILOR:-tailor}" train "$@" &
job=$!
trap 'kill -USR1 "$job"' INT TERM
code=0
while true; do # a trap ends wait before the job has ended
  code=0
  wait "$job" || code=$?
  kill -0 "$job" 2>/dev/null || break
done
exit "$code"
