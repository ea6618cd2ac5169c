"""vxlan devices that were moved to another network namespace, as bytes. Pure.

Path of a lease: `netlink.calls` -> **`netlink.elsewhere`** -> `netlink.bulk` -> the kernel.

Such a device keeps its VNI and UDP port in the namespace it was made in. The kernel numbers the
namespaces that a namespace has to do with, and shows and changes devices in them by that number.

Source: Linux include/uapi/linux/{if_link,net_namespace}.h, net/core/rtnetlink.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tunneld.backend.mac import MacAddress
from tunneld.host.netlink.wire import Request

RTM_DELLINK, RTM_GETLINK, RTM_GETNSID = 17, 18, 90

_LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, change."""
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=i")
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_TARGET_NETNSID = 1, 3, 18, 46
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_VXLAN_ID, _IFLA_VXLAN_PORT = 1, 15
_NETNSA_NSID = 1
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """A vxlan device in another namespace."""

    namespace: int
    """The number that namespace has in ours."""
    index: int
    name: str
    mac: MacAddress | None
    vni: int
    port: int


def namespaces_request() -> bytes:
    """Returns the body of a listing of the namespaces this one has to do with."""
    return bytes(4)


def namespace(body: bytes) -> int | None:
    """Returns the number of one; None: it has none."""
    payload = _attributes(body[4:]).get(_NETNSA_NSID, b"")
    if len(payload) != _NUMBER.size:
        return None
    number = int(_NUMBER.unpack(payload)[0])
    return number if number >= 0 else None


def devices_request(number: int) -> bytes:
    """Returns the body of a listing of the vxlan devices in a namespace."""
    kind = _attribute(_IFLA_INFO_KIND, b"vxlan\0")
    return (
        _LINK.pack(0, 0, 0, 0, 0)
        + _attribute(_IFLA_TARGET_NETNSID, _NUMBER.pack(number))
        + _attribute(_IFLA_LINKINFO | _NESTED, kind)
    )


def device(number: int, body: bytes) -> Elsewhere | None:
    """Returns what a message of that listing says; None: it is no vxlan device."""
    if len(body) < _LINK.size:
        return None
    attributes = _attributes(body[_LINK.size :])
    info = _attributes(attributes.get(_IFLA_LINKINFO, b""))
    data = _attributes(info.get(_IFLA_INFO_DATA, b""))
    mac, vni, port = (
        attributes.get(_IFLA_ADDRESS, b""),
        data.get(_IFLA_VXLAN_ID, b""),
        data.get(_IFLA_VXLAN_PORT, b""),
    )
    if info.get(_IFLA_INFO_KIND) != b"vxlan\0" or len(vni) != 4 or len(port) != 2:
        return None
    return Elsewhere(
        namespace=number,
        index=_LINK.unpack_from(body)[2],
        name=attributes.get(_IFLA_IFNAME, b"").split(b"\0")[0].decode(errors="replace"),
        mac=MacAddress(mac.hex(":")) if len(mac) == 6 else None,
        vni=struct.unpack("=I", vni)[0],
        port=struct.unpack("!H", port)[0],
    )


def remove(one: Elsewhere) -> Request:
    """Returns the request that deletes it."""
    target = _attribute(_IFLA_TARGET_NETNSID, _NUMBER.pack(one.namespace))
    return Request(RTM_DELLINK, 0, _LINK.pack(0, 0, one.index, 0, 0) + target)


def _attribute(kind: int, payload: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found
