#!/usr/bin/env bash
# Runs one stage of `make test` and notes its seconds in the file $STAGES, when that is set.
# usage: stage.sh NAME COMMAND [ARGUMENT...]
set -euo pipefail

name="$1"
shift
printf '== %s\n' "${name}"
start="${EPOCHREALTIME/[.,]/}"
status=0
"$@" || status=$?
milliseconds=$((("${EPOCHREALTIME/[.,]/}" - start) / 1000))
if [[ -n "${STAGES:-}" ]]; then
    printf '%-12s %4d.%d s\n' "${name}" $((milliseconds / 1000)) $((milliseconds % 1000 / 100)) >>"${STAGES}"
fi
exit "${status}"
