#!/usr/bin/env bash
# Says in one line what set-up cannot install by itself: Linux x86-64, Python, Rust, a C compiler.
# usage: check-tools.sh PYTHON
set -euo pipefail

python="$1"
failed=0
complain() {
    echo "setup: $*" >&2
    failed=1
}

[[ "$(uname -sm)" == "Linux x86_64" ]] || complain "needs Linux on x86-64, this is $(uname -sm)"

if ! command -v "${python}" >/dev/null; then
    complain "${python} is missing; install Python 3.11 or newer, or say make PYTHON=/path/to/python3"
elif ! "${python}" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    complain "${python} is $("${python}" -V 2>&1); needs 3.11 or newer: make PYTHON=/path/to/python3"
fi

if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
    complain "cargo and rustc are missing; install Rust 1.85 or newer, for example with rustup"
else
    version="$(rustc --version | cut -d' ' -f2)"
    oldest="$(printf '1.85.0\n%s\n' "${version}" | sort -V | head -n1)"
    [[ "${oldest}" == 1.85.0 ]] || complain "rustc is ${version}; needs 1.85 or newer: rustup update"
fi

command -v cc >/dev/null || complain "no C compiler (cc); apt-get install gcc libc6-dev"
exit "${failed}"
