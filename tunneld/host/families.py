"""What a device does in each address family: forwarding, and how quiet it is.

Path of a lease: `host.device`, `host.vxlan` -> **`host.families`** -> the kernel.

IPv4 forwarding is switched for one device by netlink, which works also where /proc/sys is
read-only. IPv6 knows no such switch before Linux 6.17 (`force_forwarding`): there the host's
global one decides.

Source: Linux include/uapi/linux/if_link.h (IFLA_AF_SPEC), ip-sysctl.rst.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from pathlib import Path

from tunneld.errors import HostError
from tunneld.host.netlink import Link

_RTM_SETLINK = 19
_NLM_F_REQUEST_ACK = 0x1 | 0x4
_NLMSG_ERROR = 2
_IFLA_AF_SPEC = 26
_IFLA_INET_CONF = 1
_IPV4_DEVCONF_FORWARDING = 1
_IFLA_INET6_ADDR_GEN_MODE = 8
_IN6_ADDR_GEN_MODE_NONE = 1
_NLA_F_NESTED = 0x8000

_IPV6 = Path("/proc/sys/net/ipv6/conf")

_log = logging.getLogger("tunneld.host")


def set_ipv4_forwarding(link: Link, on: bool) -> None:
    """Switches the forwarding of IPv4 packets that come in by a device.

    Raises:
        HostError: the kernel refuses.
    """
    ipv4 = _nested(_IFLA_INET_CONF, _attribute(_IPV4_DEVCONF_FORWARDING, struct.pack("=I", on)))
    _set(link, socket.AF_INET, ipv4, "forwarding")


def set_ipv6(link: Link, on: bool) -> None:
    """Switches IPv6 on a device, where the kernel never makes addresses of itself.

    Raises:
        HostError: the kernel refuses, or it shall be on and there is no IPv6 on this host.
    """
    mode = _attribute(_IFLA_INET6_ADDR_GEN_MODE, struct.pack("=B", _IN6_ADDR_GEN_MODE_NONE))
    if _set(link, socket.AF_INET6, mode, "IPv6 address mode") or on:
        switch_ipv6(link, on)


def switch_ipv6(link: Link, on: bool) -> None:
    """Switches IPv6 on a device, and leaves to the kernel which addresses it makes.

    Raises:
        HostError: it shall be on and cannot.
    """
    if _read(link.name, "disable_ipv6") == ("0" if on else "1"):
        return
    try:
        _write(link.name, "disable_ipv6", "0" if on else "1")
    except OSError as error:
        if on:
            raise HostError(
                f"cannot switch IPv6 on for device {link.name}: {error.strerror}; expected IPv6 "
                "and a writable /proc/sys, since the network config sets EnableIPv6: start the "
                "kernel without ipv6.disable=1, set net.ipv6.conf.default.disable_ipv6=0, or "
                "remove EnableIPv6"
            ) from error
        # With /proc/sys read-only there is IPv6 without addresses, which says nothing of itself.
        _log.info(
            "IPv6 stays on the overlay device, without addresses",
            extra={"fields": {"device": link.name, "error": error.strerror}},
        )


def set_ipv6_forwarding(link: Link, on: bool) -> None:
    """Switches, where the kernel can, the forwarding of IPv6 packets that come in by a device.

    Elsewhere only the host's global switch counts, which is not for this function.
    """
    try:
        if _read(link.name, "force_forwarding") not in (None, "1" if on else "0"):
            _write(link.name, "force_forwarding", "1" if on else "0")
    except OSError as error:
        _log.info(
            "IPv6 forwarding of the overlay device is left to net.ipv6.conf.all.forwarding",
            extra={"fields": {"device": link.name, "error": error.strerror}},
        )


def leave_router_group(link: Link) -> None:
    """Keeps a device, while it is still down, from ever reporting itself as a router's.

    A device that is made where IPv6 is forwarded joins ff02::2. It leaves by the second switch,
    which does not decide on forwarding; of MLD's versions only the first lets a device leave
    without a word (RFC 2710 §4). Without the multicast flag it never joins again.
    """
    try:
        _write(link.name, "force_mld_version", "1")
        _write(link.name, "forwarding", "0")
    except OSError as error:
        _log.debug(
            "the overlay device may report itself to ff02::2",
            extra={"fields": {"device": link.name, "error": error.strerror}},
        )


def forwards_ipv6(link: Link) -> bool:
    """Says whether IPv6 packets that come in by a device are forwarded, as far as it decides."""
    return _read("all", "forwarding") == "1" or _read(link.name, "force_forwarding") in (None, "1")


def ignore_router_advertisements(link: Link) -> None:
    """Keeps a device's addresses and routes from being made by others, where that can be set.

    Source: flannel `pkg/backend/vxlan/device.go`, which goes on without it too.
    """
    try:
        _write(link.name, "accept_ra", "0")
    except OSError as error:
        _log.debug(
            "router advertisements are not switched off",
            extra={"fields": {"device": link.name, "error": error.strerror}},
        )


def accepts_router_advertisements(link: Link) -> bool:
    """Says whether the setting of `ignore_router_advertisements` is not made, and could be."""
    could = os.access(_IPV6 / link.name / "accept_ra", os.W_OK, effective_ids=True)
    return could and _read(link.name, "accept_ra") != "0"


def _read(device: str, name: str) -> str | None:
    try:
        return (_IPV6 / device / name).read_text(encoding="ascii").strip()
    except OSError:
        return None


def _write(device: str, name: str, value: str) -> None:
    (_IPV6 / device / name).write_text(value, encoding="ascii")


def _set(link: Link, family: int, setting: bytes, what: str) -> bool:
    """Returns False where the host does not know the family."""
    refused = _set_link_family(link.index, _nested(family, setting))
    if refused == errno.EAFNOSUPPORT:
        return False
    if refused:
        raise HostError(
            f"cannot set up device {link.name}: {os.strerror(refused)}; expected the kernel to "
            f"let its {what} be set"
        )
    return True


def _set_link_family(index: int, family: bytes) -> int:
    """Sends one RTM_SETLINK and returns the kernel's error number; 0: done.

    pyroute2 has no encoder for the per-family settings of a link, hence the bytes.
    """
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
    body += _nested(_IFLA_AF_SPEC, family)
    header = struct.pack("=IHHII", 16 + len(body), _RTM_SETLINK, _NLM_F_REQUEST_ACK, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
            route.sendto(header + body, (0, 0))
            answer = route.recv(65536)
    except OSError as error:
        raise HostError(
            f"cannot set up device {index}: {error.strerror}; expected a routing netlink socket"
        ) from error
    (kind,) = struct.unpack_from("=H", answer, 4)
    (code,) = struct.unpack_from("=i", answer, 16)
    return -code if kind == _NLMSG_ERROR else errno.EPROTO


def _nested(kind: int, payload: bytes) -> bytes:
    return _attribute(kind | _NLA_F_NESTED, payload)


def _attribute(kind: int, payload: bytes) -> bytes:
    """Returns one netlink attribute, padded to 4 bytes."""
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + b"\0" * (-length % 4)
