"""Writes and reads subnet.env, by which scripts and CNI plugins learn the own subnet.

Path of a lease: `fib` -> **`host.subnet_env`** -> Docker, CNI, mk-docker-opts.

Source: flannel `pkg/subnet/subnet.go` (WriteSubnetFile: fields, order, form, modes) and
`main.go` (ReadCIDRFromSubnetFile: what is taken back).
"""

from __future__ import annotations

import logging
import re
import stat
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from tunneld.errors import HostError
from tunneld.fib.state import SubnetEnv
from tunneld.host import text_file
from tunneld.lease.model import NO_IPV4_SUBNET, IPNetwork, SubnetKey

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*[=:]\s*(.*?)\s*")

_log = logging.getLogger("tunneld.host")

_MODE = 0o644
"""Everybody may read it, as flannel's."""


def render(value: SubnetEnv) -> str:
    """Returns the text of the file, as flannel writes it."""
    lines = []
    if value.network is not None:
        lines.append(f"FLANNEL_NETWORK={value.network}")
    if value.subnet is not None:
        subnet = value.subnet
        lines.append(f"FLANNEL_SUBNET={subnet.network_address + 1}/{subnet.prefixlen}")
    if value.network_v6 is not None:
        lines.append(f"FLANNEL_IPV6_NETWORK={value.network_v6}")
    if value.subnet_v6 is not None:
        subnet_v6 = value.subnet_v6
        lines.append(f"FLANNEL_IPV6_SUBNET={subnet_v6.network_address + 1}/{subnet_v6.prefixlen}")
    lines.append(f"FLANNEL_MTU={value.mtu_bytes}")
    lines.append(f"FLANNEL_IPMASQ={'true' if value.ip_masq else 'false'}")
    return "".join(f"{line}\n" for line in lines)


def parse(text: str) -> SubnetEnv:
    """Returns what the text says; what is missing or not valid is None, 0 or False."""
    values = fields(text)
    mtu = values.get("FLANNEL_MTU", "")
    return SubnetEnv(
        network=_ipv4(values.get("FLANNEL_NETWORK", "")),
        subnet=_ipv4(values.get("FLANNEL_SUBNET", "")),
        network_v6=_ipv6(values.get("FLANNEL_IPV6_NETWORK", "")),
        subnet_v6=_ipv6(values.get("FLANNEL_IPV6_SUBNET", "")),
        mtu_bytes=int(mtu) if _is_number(mtu) else 0,
        ip_masq=values.get("FLANNEL_IPMASQ") == "true",
    )


def key(value: SubnetEnv) -> SubnetKey | None:
    """Returns the subnets that were this host's; None when it had none."""
    if value.subnet is None and value.subnet_v6 is None:
        return None
    return SubnetKey(value.subnet or NO_IPV4_SUBNET, value.subnet_v6)


def write(path: Path, value: SubnetEnv) -> None:
    """Replaces the file in one step; readers see the old text or the new, never a part.

    The file gets mode 0644, directories that are missing 0755.

    Raises:
        HostError: the file cannot be written there.
    """
    try:
        text_file.make_directories(path.parent, 0o755)
        text_file.replace(path, render(value), _MODE)
    except OSError as error:
        raise HostError(
            f"cannot write {path}: {error.strerror}; expected a writable place for subnet.env: "
            "check the directory, or choose another with --subnet-file"
        ) from error


class SubnetFile:
    """The file as a daemon keeps it: whatever somebody does to it shows at the next look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mode = _MODE
        """What a file of ours has there: some file systems know only one."""
        self._seen: tuple[int, ...] | None = None
        self._value: SubnetEnv | None = None
        """What was put last."""

    def has_changed(self) -> bool:
        """Says whether anybody has touched the file since it was last observed or put."""
        return self._stamp() != self._seen

    def observe(self) -> SubnetEnv | None:
        """Returns what the file says, if it is written as we write it."""
        self._seen = self._stamp()
        try:
            text = read_text(self.path)
        except HostError:
            # Whatever stands there: `put` says why it cannot take its place.
            return None
        if text is None or self._seen is None or self._seen[0] != self._mode:
            return None
        value = parse(text)
        return value if render(value) == text else None

    def put(self, value: SubnetEnv) -> None:
        """Replaces the file.

        Raises:
            HostError: it cannot be written there.
        """
        write(self.path, value)
        if value == self._value:
            _log.warning(
                "put back subnet.env, which somebody changed or deleted",
                extra={"fields": {"path": str(self.path)}},
            )
        self._value = value
        self._seen = self._stamp()
        if self._seen is not None:
            self._mode = self._seen[0]

    def _stamp(self) -> tuple[int, ...] | None:
        """Returns what changes with any change of the file, its mode first; None: there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return (
            stat.S_IMODE(found.st_mode),
            found.st_dev,
            found.st_ino,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
        )


def read(path: Path) -> SubnetEnv | None:
    """Returns what the file says, or None when there is no file.

    Raises:
        HostError: there is a file, but it cannot be read.
    """
    text = read_text(path)
    return None if text is None else parse(text)


def networks_of_file(path: Path) -> tuple[IPNetwork, ...]:
    """Returns the networks that the file names; none where it cannot be read."""
    try:
        found = read(path)
    except HostError:
        return ()
    named = () if found is None else (found.network, found.network_v6)
    return tuple(network for network in named if network is not None)


def read_text(path: Path) -> str | None:
    """Returns the file's text, or None when there is no file.

    Raises:
        HostError: there is a file, but it cannot be read.
    """
    try:
        return text_file.read(path)
    except OSError as error:
        raise HostError(
            f"cannot read {path}: {error.strerror}; expected subnet.env or nothing there: check "
            "its mode, or choose another with --subnet-file"
        ) from error


def fields(text: str) -> dict[str, str]:
    """Returns the assignments of a dotenv text; the last of a name counts."""
    found = {}
    # An editor's byte order mark belongs to no name.
    for line in text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").splitlines():
        if line.lstrip().startswith("#"):
            continue
        if match := _ASSIGNMENT.fullmatch(line):
            found[match[1]] = _unquoted(match[2])
    return found


def _unquoted(value: str) -> str:
    for quote in "'\"":
        if value.startswith(quote) and (end := value.find(quote, 1)) > 0:
            return value[1:end]
    return re.split(r"(?:^|\s)#", value, maxsplit=1)[0].strip()


def _ipv4(text: str) -> IPv4Network | None:
    """Returns the network of one CIDR; several, separated by commas, are none at all."""
    try:
        return IPv4Interface(text).network if _has_length(text) else None
    except ValueError:
        return None


def _ipv6(text: str) -> IPv6Network | None:
    # Python takes "fe80::1%eth0/64" for an address, Go does not.
    try:
        return IPv6Interface(text).network if _has_length(text) and "%" not in text else None
    except ValueError:
        return None


def _has_length(text: str) -> bool:
    _, _, length = text.partition("/")
    return _is_number(length)


def _is_number(text: str) -> bool:
    """Whether it is a whole number that any field here may hold, in ASCII digits."""
    return re.fullmatch(r"[0-9]{1,9}", text) is not None
