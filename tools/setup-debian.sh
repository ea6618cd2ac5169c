#!/usr/bin/env bash
# Installs those Debian packages of debian-packages.txt whose program is not on the PATH.
# Services of the packages (etcd) are not started: the tests start their own.
# usage: setup-debian.sh PYTHON
set -euo pipefail

list="$(dirname "$0")/debian-packages.txt"
export PATH="$PATH:/usr/sbin:/sbin"

missing=()
while read -r package program _; do
    [[ -z "${package}" || "${package}" == \#* ]] && continue
    command -v "${program}" >/dev/null || missing+=("${package}")
done <"${list}"
# Debian splits what `python3 -m venv` needs from Python itself.
"$1" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
((${#missing[@]} == 0)) && exit 0

echo "setup: installing Debian packages: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "setup: no apt-get here; install the programs of these packages yourself: ${missing[*]}" >&2
    exit 1
fi
if ((EUID != 0)); then
    echo "setup: not root; run: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

policy=/usr/sbin/policy-rc.d
if [[ ! -e "${policy}" ]]; then
    trap 'rm -f "${policy}"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"${policy}"
    chmod 0755 "${policy}"
fi
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}")
# Package lists may be absent (containers) or too old to fetch from.
"${install[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${install[@]}" >/dev/null; }
