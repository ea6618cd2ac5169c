#!/usr/bin/env bash
# Installs a wheel of tunneld with all it needs into a virtual environment of its own, the command,
# the systemd units, and the snippets that keep other network programs off the overlay device.
# usage: install.sh WHEEL PIP     with DESTDIR, PREFIX, SYSCONFDIR, INSTALL_PYTHON in the environment
set -euo pipefail
umask 022

wheel="$1"
pip="$2"
source="$(cd "$(dirname "$0")/.." && pwd)"
destination="${DESTDIR:-}"
prefix="${PREFIX:-/usr/local}"
etc="${SYSCONFDIR:-/etc}"

# systemd and its kin read below /usr, /usr/local and /etc, and nowhere else.
case "${prefix}" in
    /usr | /usr/local)
        lib="${prefix}/lib"
        units="${lib}/systemd/system" networks="${lib}/systemd/network"
        ;;
    *)
        lib="${etc}"
        units="${etc}/systemd/system" networks="${etc}/systemd/network"
        ;;
esac
udev="${lib}/udev/rules.d"
network_manager="/usr/lib/NetworkManager/conf.d"
[[ "${prefix}" == /usr ]] || network_manager="${etc}/NetworkManager/conf.d"
package="${prefix}/lib/tunneld"
share="${prefix}/share/tunneld"

is_new_enough() {
    command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
}

python="${INSTALL_PYTHON:-/usr/bin/python3}"
if ! is_new_enough "${python}"; then
    echo "install: ${python} is missing or older than 3.11; say make install INSTALL_PYTHON=/path/to/python3" >&2
    exit 1
fi

# Copies a text, with the paths it is installed under.
put() {
    install -d "${destination}$2"
    sed "s|/usr/bin/tunneld|${prefix}/bin/tunneld|g; s|/usr/share/tunneld|${share}|g" \
        "${source}/$1" >"${destination}$2/$(basename "$1")"
    chmod 0644 "${destination}$2/$(basename "$1")"
}

# The environment is built in place and then told its final name, so that DESTDIR leaves no trace.
rm -rf "${destination:?}${package}"
install -d "${destination}${prefix}/bin" "$(dirname "${destination}${package}")"
"${python}" -m venv --without-pip "${destination}${package}"
"${pip}" --python "${destination}${package}/bin/python" install --quiet --no-compile \
    --disable-pip-version-check --constraint "${source}/requirements-dev.txt" "${wheel}"
rm -f "${destination}${package}"/bin/{activate*,Activate.ps1}
grep -rlIF "${destination}${package}" "${destination}${package}/bin" "${destination}${package}/pyvenv.cfg" |
    xargs -r sed -i "s|${destination}${package}|${package}|g"
"${destination}${package}/bin/python" -m compileall -q -s "${destination}" "${destination}${package}/lib"
ln -sfn "${package}/bin/tunneld" "${destination}${prefix}/bin/tunneld"

put systemd/tunneld.service "${units}"
put systemd/tunneld@.service "${units}"
put systemd/sysusers.d/tunneld.conf "${lib}/sysusers.d"
put systemd/tmpfiles.d/tunneld.conf "${lib}/tmpfiles.d"
put systemd/sysctl.d/50-tunneld.conf "${lib}/sysctl.d"
put systemd/network/10-tunneld.network "${networks}"
put systemd/network/10-tunneld.link "${networks}"
put systemd/udev/90-tunneld.rules "${udev}"
put systemd/NetworkManager/tunneld.conf "${network_manager}"
put systemd/docker.service.d/tunneld.conf "${share}/docker.service.d"
put systemd/tunneld.service.d/credentials.conf "${share}/tunneld.service.d"
put config/tunneld.toml "${share}"
for example in "${source}"/config/network/*.json; do
    put "${example#"${source}/"}" "${share}/network"
done
# The operator's own file is never written over.
[[ -e "${destination}${etc}/tunneld/tunneld.toml" ]] || put config/tunneld.toml "${etc}/tunneld"

if [[ -z "${destination}" ]]; then
    echo "install: now run: systemd-sysusers tunneld.conf && systemd-tmpfiles --create tunneld.conf && systemctl daemon-reload"
fi
