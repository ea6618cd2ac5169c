#!/usr/bin/env bash
# Runs one stage of `make test` and notes its seconds in the file $STAGES, when that is set.
# usage: stage.sh NAME COMMAND [ARGUMENT...]
set -euo pipefail
source "$(dirname "$0")/foreground.sh"

name="$1"
shift
printf '== %s\n' "${name}"
start="${EPOCHREALTIME/[.,]/}"
status=0
foreground "$@" || status=$?
milliseconds=$((("${EPOCHREALTIME/[.,]/}" - start) / 1000))
if [[ -n "${STAGES:-}" ]]; then
    verdict="$([[ "${status}" == 0 ]] || echo "  failed")"
    printf '%-18s %4d.%d s%s\n' "${name}" $((milliseconds / 1000)) $((milliseconds % 1000 / 100)) \
        "${verdict}" >>"${STAGES}"
fi
exit "${status}"
