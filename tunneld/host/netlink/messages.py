"""Between our values and pyroute2's messages. Pure.

Source: include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour}.h.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from socket import AF_INET, AF_INET6
from typing import Any, TypeAlias

from tunneld.backend.mac import MacAddress
from tunneld.host.netlink.model import (
    Address,
    DeviceCounters,
    KernelRoute,
    Link,
    TunSettings,
    VxlanSettings,
)

Message: TypeAlias = Any
"""A message as pyroute2, which has no types, parses it."""

FAMILIES = {4: AF_INET, 6: AF_INET6}

_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFF_MULTICAST = 0x1000
_IFF_LOWER_UP = 0x10000
_IFA_F_TEMPORARY = 0x01
_IFA_F_OPTIMISTIC = 0x04
_IFA_F_DADFAILED = 0x08
_IFA_F_DEPRECATED = 0x20
_IFA_F_TENTATIVE = 0x40
_RTNH_F_ONLINK = 4

_COUNTED = ("packets", "bytes", "dropped", "errors")

_VXLAN_SWITCHES = {
    "proxy": "IFLA_VXLAN_PROXY",
    "rsc": "IFLA_VXLAN_RSC",
    "l2miss": "IFLA_VXLAN_L2MISS",
    "l3miss": "IFLA_VXLAN_L3MISS",
    "external": "IFLA_VXLAN_COLLECT_METADATA",
    "remcsumtx": "IFLA_VXLAN_REMCSUM_TX",
    "remcsumrx": "IFLA_VXLAN_REMCSUM_RX",
    "df": "IFLA_VXLAN_DF",
    "flowlabel": "IFLA_VXLAN_LABEL",
    "maxaddress": "IFLA_VXLAN_LIMIT",
}
_VXLAN_FLAGS = {
    "gpe": "IFLA_VXLAN_GPE",
    "remcsumnopartial": "IFLA_VXLAN_REMCSUM_NOPARTIAL",
}


def link(message: Message) -> Link:
    """Returns what a RTM_NEWLINK says."""
    families = message.get_attr("IFLA_AF_SPEC")
    ipv4 = families.get_attr("AF_INET") if families is not None else None
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") or "") if info is not None else ""
    data = info.get_attr("IFLA_INFO_DATA") if kind in ("vxlan", "tun") else None
    mac = message.get_attr("IFLA_ADDRESS") or ""
    names = message.get_attr("IFLA_PROP_LIST")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mtu_bytes=message.get_attr("IFLA_MTU") or 0,
        txqueuelen=message.get_attr("IFLA_TXQLEN") or 0,
        is_up=bool(message["flags"] & _IFF_UP),
        is_loopback=bool(message["flags"] & _IFF_LOOPBACK),
        is_multicast=bool(message["flags"] & _IFF_MULTICAST),
        forwarding=bool(ipv4["forwarding"]) if ipv4 is not None else False,
        alias=message.get_attr("IFLA_IFALIAS") or "",
        kind=kind,
        alternative_names=tuple(names.get_attrs("IFLA_ALT_IFNAME")) if names is not None else (),
        mac=MacAddress(mac) if len(mac) == 17 else None,
        vxlan=_vxlan(data) if data is not None and kind == "vxlan" else None,
        tun=_tun(data) if data is not None and kind == "tun" else None,
        master=message.get_attr("IFLA_MASTER") or 0,
        has_carrier=bool(message["flags"] & _IFF_LOWER_UP),
    )


def device_counters(message: Message) -> DeviceCounters:
    """Returns what a RTM_NEWLINK says of a device's traffic."""
    stats = message.get_attr("IFLA_STATS64")
    kinds = (f"{way}_{what}" for way in ("rx", "tx") for what in _COUNTED)
    return DeviceCounters(
        device=message.get_attr("IFLA_IFNAME"), **{kind: int(stats[kind]) for kind in kinds}
    )


def _tun(data: Message) -> TunSettings:
    attached = data.get_attr("IFLA_TUN_NUM_QUEUES") or 0
    return TunSettings(
        owner=data.get_attr("IFLA_TUN_OWNER"),
        group=data.get_attr("IFLA_TUN_GROUP"),
        queues=attached + (data.get_attr("IFLA_TUN_NUM_DISABLED_QUEUES") or 0),
        is_persistent=bool(data.get_attr("IFLA_TUN_PERSIST")),
    )


def _vxlan(data: Message) -> VxlanSettings:
    def number(name: str) -> int:
        return int(data.get_attr(name) or 0)

    local = data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6")
    group = data.get_attr("IFLA_VXLAN_GROUP") or data.get_attr("IFLA_VXLAN_GROUP6")
    checksum = data.get_attr("IFLA_VXLAN_UDP_CSUM")
    on = {name for name, attribute in _VXLAN_SWITCHES.items() if number(attribute)}
    on |= {name for name, flag in _VXLAN_FLAGS.items() if data.get_attr(flag) is not None}
    return VxlanSettings(
        vni=number("IFLA_VXLAN_ID"),
        port=number("IFLA_VXLAN_PORT"),
        local=ip_address(local) if local else None,
        underlay=number("IFLA_VXLAN_LINK"),
        gbp=data.get_attr("IFLA_VXLAN_GBP") is not None,
        learning=bool(number("IFLA_VXLAN_LEARNING")),
        ageing_s=number("IFLA_VXLAN_AGEING"),
        group=ip_address(group) if group else None,
        ttl=number("IFLA_VXLAN_TTL"),
        tos=number("IFLA_VXLAN_TOS"),
        udp_checksum=bool(checksum),
        zero_checksum_v6=(
            bool(number("IFLA_VXLAN_UDP_ZERO_CSUM6_TX")),
            bool(number("IFLA_VXLAN_UDP_ZERO_CSUM6_RX")),
        ),
        others=frozenset(on),
    )


def vxlan_request(settings: VxlanSettings) -> dict[str, Any]:
    """Returns the settings of a new device; those that are the kernel's own are not named."""
    request: dict[str, Any] = {
        "kind": "vxlan",
        "vxlan_id": settings.vni,
        "vxlan_link": settings.underlay,
        "vxlan_port": settings.port,
        "vxlan_learning": int(settings.learning),
    }
    if settings.local is not None:
        name = "vxlan_local" if settings.local.version == 4 else "vxlan_local6"
        request[name] = str(settings.local)
    if settings.gbp:
        request["vxlan_gbp"] = True
    return request


def address(message: Message) -> Address:
    """Returns what a RTM_NEWADDR says."""
    # On a point-to-point device IFA_ADDRESS is the other end.
    own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    if message["family"] == AF_INET:
        flags = 0  # there the first of these bits means `secondary`
    # An optimistic address is tentative and in use; one that failed keeps the bit.
    is_settled = flags & (_IFA_F_OPTIMISTIC | _IFA_F_DADFAILED)
    return Address(
        index=message["index"],
        address=ip_address(own),
        prefix_length=message["prefixlen"],
        scope=message["scope"],
        is_lasting=not flags & (_IFA_F_DADFAILED | _IFA_F_DEPRECATED | _IFA_F_TEMPORARY),
        is_tentative=bool(flags & _IFA_F_TENTATIVE) and not is_settled,
        is_duplicate=bool(flags & _IFA_F_DADFAILED),
    )


def configured_mtu(message: Message) -> int | None:
    """Returns the MTU that somebody has given a route; None: nobody has, or it was learned."""
    metrics = message.get_attr("RTA_METRICS")
    cache = message.get_attr("RTA_CACHEINFO")
    mtu_bytes: int | None = metrics.get_attr("RTAX_MTU") if metrics is not None else None
    is_learned = cache is not None and cache["rta_expires"] != 0
    return mtu_bytes if mtu_bytes and not is_learned else None


def route(message: Message) -> KernelRoute:
    """Returns what a RTM_NEWROUTE says."""
    any_address = "::" if message["family"] == AF_INET6 else "0.0.0.0"  # noqa: S104 - default route
    destination = message.get_attr("RTA_DST") or any_address
    via = message.get_attr("RTA_VIA")  # an IPv4 route by an IPv6 host
    gateway = message.get_attr("RTA_GATEWAY") or (via["addr"] if via else None)
    source = message.get_attr("RTA_PREFSRC")
    metrics = message.get_attr("RTA_METRICS")
    multipath = message.get_attr("RTA_MULTIPATH") or ()
    return KernelRoute(
        destination=ip_network((destination, message["dst_len"])),
        type=message["type"],
        protocol=message["proto"],
        metric=message.get_attr("RTA_PRIORITY") or 0,
        tos=message["tos"],
        scope=message["scope"],
        oif=message.get_attr("RTA_OIF"),
        gateway=ip_address(gateway) if gateway else None,
        onlink=bool(message["flags"] & _RTNH_F_ONLINK),
        source=ip_address(source) if source else None,
        mtu_bytes=(metrics.get_attr("RTAX_MTU") or 0) if metrics is not None else 0,
        hops=tuple(hop["oif"] for hop in multipath),
    )
