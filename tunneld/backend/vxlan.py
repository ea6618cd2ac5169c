"""The vxlan backend: Ethernet frames in UDP, behind a VXLAN header (RFC 7348).

Path of a lease: `peer` -> **`backend.vxlan`** -> `fib`. Pure.
Two data paths speak the same on the wire: the engine behind one TUN device, and the kernel's own
vxlan device, one for each family. Nobody asks for addresses by ARP: a peer's Ethernet address is
in its lease.

Source: flannel `pkg/backend/vxlan/` (options, device names, lease data, entries of a peer).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tunneld.backend.base import (
    Adjacency,
    Datapath,
    Family,
    Here,
    KernelPath,
    Reach,
    SourceCheck,
    Unusable,
    Vtep,
    VxlanDevice,
)
from tunneld.backend.families import (
    IP_HEADER_BYTES,
    MAX_OUTER_BYTES,
    UDP_HEADER_BYTES,
    families_of,
    overlay_mtu_bytes,
    require_addresses,
)
from tunneld.backend.leases import endpoint, public_addresses, require_type, subnet_of
from tunneld.backend.mac import MacAddress, parse_mac
from tunneld.backend.options import (
    SOURCE_CHECKS,
    choice,
    is_given,
    outer_mtu,
    switch,
    whole_number,
)
from tunneld.errors import NetworkConfigError
from tunneld.lease.gojson import dumps, member
from tunneld.lease.model import IPAddress, LeaseAttributes, SubnetKey
from tunneld.lease.network import NetworkConfig
from tunneld.peer import Peer

DEFAULT_VNI = 1
MAX_VNI = 2**24 - 1

DEFAULT_PORT = 8472
"""The kernel's default, which flannel's `Port` 0 stands for; the IANA's is 4789."""

VTEP_MAC = "vtep_mac"
"""What the core must know of a peer: its inner Ethernet address."""

VXLAN_HEADER_BYTES = 8
ETHERNET_HEADER_BYTES = 14

SOURCE_PORTS = 4
"""Enough for receivers to spread flows over their queues, for a few descriptors per worker."""

_MAX_NAME_LENGTH = 15
"""Of a device, Linux' IFNAMSIZ without its end."""

_NOTHING_TO_LEARN = (
    "Backend.Learning has no effect in user space: peers are known by their leases alone"
)
_KERNEL_CHECKS_NO_SOURCE = (
    "Backend.SourceCheck has no effect with the kernel's vxlan device, which takes what comes from "
    "any host; --datapath userspace checks"
)

_DEVICE: dict[Family, str] = {4: "flannel.", 6: "flannel-v6."}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vxlan:
    """What both data paths have in common."""

    type: ClassVar[str] = "vxlan"

    families: tuple[Family, ...]
    vni: int = DEFAULT_VNI
    port: int = DEFAULT_PORT
    outer_mtu_bytes: int | None = None
    """Largest datagram with all its headers; None: the underlay's MTU."""
    gbp: bool = False
    wants_on_link: bool = False
    """`DirectRouting`: peers on the same link are reached by plain routes."""
    source_check: SourceCheck = "strict"
    remarks: tuple[str, ...] = ()

    def overhead_bytes(self, family: Family) -> int:
        """Returns what the headers take: 50 bytes over IPv4, 70 over IPv6."""
        return _overhead_bytes(family)

    def device_mtu_bytes(self, underlay_mtu_bytes: int) -> int:
        """Returns the MTU that fits whatever family a packet is of.

        Raises:
            InterfaceError: the underlay leaves no room for a packet.
        """
        outer_mtu_bytes = self.outer_mtu_bytes or underlay_mtu_bytes
        return overlay_mtu_bytes(outer_mtu_bytes, self.overhead_bytes, self.families)

    def check(self, here: Here) -> None:
        """Refuses a host without an underlay address in a family of the network."""
        require_addresses(here, self.families)

    def attributes(self, here: Here) -> LeaseAttributes:
        """Returns flannel's lease value: VNI and Ethernet address, for each family."""
        public_ip, public_ipv6 = public_addresses(here, self.families)
        return LeaseAttributes(
            public_ip=public_ip,
            public_ipv6=public_ipv6,
            backend_type=self.type,
            backend_data=self._data(here.mac) if 4 in self.families else None,
            backend_v6_data=self._data(here.mac_v6) if 6 in self.families else None,
        )

    def _data(self, mac: MacAddress) -> dict[str, Any]:
        return {"VNI": self.vni, "VtepMAC": mac}

    def _mac_of(self, peer: Peer, family: Family, here: Here) -> MacAddress:
        """Returns the Ethernet address a peer has published for a family.

        Raises:
            Unusable: its lease is of another backend or another VNI, or has no usable address.
        """
        require_type(peer, self.type)
        name = "BackendData" if family == 4 else "BackendV6Data"
        data = peer.backend_data if family == 4 else peer.backend_v6_data
        lease = f"lease of {peer.key}: {name} {_show(data)}"
        if not isinstance(data, dict):
            raise Unusable("backend_data_malformed", f"{lease}; expected an object with VtepMAC")
        vni = member(data, "VNI")
        if vni is not None and (isinstance(vni, bool) or not isinstance(vni, int)):
            raise Unusable("backend_data_malformed", f"{lease}; expected a number as VNI")
        if vni not in (None, self.vni):  # writers before flannel 0.15 do not say it
            raise Unusable("vni_mismatch", f"{lease}; expected VNI {self.vni}, the network's")
        try:
            mac = parse_mac(member(data, "VtepMAC"))
        except ValueError as error:
            raise Unusable("backend_data_malformed", f"{lease}: VtepMAC {error}") from error
        if mac in (here.mac, here.mac_v6):
            raise Unusable("own_vtep_mac", f"{lease}; VtepMAC is this host's own")
        return mac


@dataclass(frozen=True, slots=True, kw_only=True)
class VxlanUserspace(_Vxlan):
    """VXLAN by the engine."""

    datapath: ClassVar[Datapath] = "userspace"
    source_ports: ClassVar[int] = SOURCE_PORTS

    @property
    def device_template(self) -> str:
        """Name of the one TUN device for both families."""
        return f"{_DEVICE[self.families[0]]}{self.vni}"

    def vtep(self, here: Here) -> Vtep:
        """Returns this host's end of all tunnels."""
        return Vtep(
            vni=self.vni,
            gbp=self.gbp,
            mac=here.mac if 4 in self.families else None,
            mac_v6=here.mac_v6 if 6 in self.families else None,
        )

    def devices(self, here: Here, own: SubnetKey) -> tuple[VxlanDevice, ...]:
        """Returns nothing: the kernel has no part in it."""
        return ()

    def reach(
        self, peer: Peer, family: Family, here: Here, *, on_link: Collection[IPAddress]
    ) -> Reach:
        """Returns the adjacency of `peer`, and a plain route before it on the same link.

        Raises:
            Unusable: the peer's lease does not fit.
        """
        mac = self._mac_of(peer, family, here)
        address = endpoint(peer, family)
        return Reach(
            adjacency=Adjacency(
                encapsulation="vxlan",
                endpoint=address,
                port=self.port,
                mtu_bytes=self.device_mtu_bytes(here.underlay_mtu_bytes),
                of_peer={VTEP_MAC: mac},
            ),
            gateway=address if self.wants_on_link and address in on_link else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VxlanKernel(_Vxlan):
    """VXLAN by devices of the kernel, as flannel sets them up."""

    datapath: ClassVar[Datapath] = "kernel"
    source_ports: ClassVar[int] = 0
    device_template: ClassVar[None] = None

    learning: bool = False

    def vtep(self, here: Here) -> None:
        """Returns nothing: the engine speaks no VXLAN."""
        return

    def devices(self, here: Here, own: SubnetKey) -> tuple[VxlanDevice, ...]:
        """Returns a device for each family, with the MTU that its headers leave."""
        outer_mtu_bytes = min(self.outer_mtu_bytes or here.underlay_mtu_bytes, MAX_OUTER_BYTES)
        found = []
        for family, local, mac, subnet in (
            (4, here.address, here.mac, own.ipv4),
            (6, here.address_v6, here.mac_v6, own.ipv6),
        ):
            if family in self.families and local is not None and subnet is not None:
                found.append(
                    VxlanDevice(
                        name=self._device(family),
                        vni=self.vni,
                        port=self.port,
                        local=local,
                        mac=mac,
                        gbp=self.gbp,
                        learning=self.learning,
                        mtu_bytes=outer_mtu_bytes - self.overhead_bytes(family),
                        address=subnet.network_address,
                    )
                )
        return tuple(found)

    def reach(
        self, peer: Peer, family: Family, here: Here, *, on_link: Collection[IPAddress]
    ) -> Reach | None:
        """Returns the way of `peer` through the kernel device, or a plain route on the same link.

        Raises:
            Unusable: the peer's lease does not fit.
        """
        mac = self._mac_of(peer, family, here)
        address = endpoint(peer, family)
        subnet = subnet_of(peer, family)
        if subnet is None:
            return None
        if self.wants_on_link and address in on_link:
            # The device takes what comes from anybody: it needs no entry for that.
            return Reach(gateway=address)
        return Reach(
            kernel=KernelPath(
                device=self._device(family),
                next_hop=subnet.network_address,
                mac=mac,
                endpoint=address,
            )
        )

    def _device(self, family: Family) -> str:
        return f"{_DEVICE[family]}{self.vni}"


def from_config(
    config: NetworkConfig, datapath: Literal["userspace", "kernel"]
) -> VxlanUserspace | VxlanKernel:
    """Returns the backend with its options.

    Raises:
        NetworkConfigError: an option is out of its limits.
    """
    families = families_of(config)
    vni = whole_number(config, "VNI", default=DEFAULT_VNI, least=1, most=MAX_VNI)
    for family in families if datapath == "kernel" else families[:1]:
        _check_name(family, vni)
    learning = switch(config, "Learning")
    source_check = choice(config, "SourceCheck", default="strict", choices=SOURCE_CHECKS)
    common: dict[str, Any] = {
        "families": families,
        "vni": vni,
        "port": whole_number(config, "Port", default=0, least=0, most=65_535) or DEFAULT_PORT,
        "outer_mtu_bytes": outer_mtu(config, families, _overhead_bytes),
        "gbp": switch(config, "GBP"),
        "wants_on_link": switch(config, "DirectRouting"),
        "source_check": source_check,
    }
    if datapath == "kernel":
        remarks = (_KERNEL_CHECKS_NO_SOURCE,) if is_given(config, "SourceCheck") else ()
        return VxlanKernel(**common, learning=learning, remarks=remarks)
    return VxlanUserspace(**common, remarks=(_NOTHING_TO_LEARN,) if learning else ())


def _overhead_bytes(family: Family) -> int:
    outer = IP_HEADER_BYTES[family] + UDP_HEADER_BYTES
    return outer + VXLAN_HEADER_BYTES + ETHERNET_HEADER_BYTES


def _check_name(family: Family, vni: int) -> None:
    room = _MAX_NAME_LENGTH - len(_DEVICE[family])
    if len(str(vni)) > room:
        raise NetworkConfigError(
            f"Backend.VNI {vni}: the device would be {_DEVICE[family]}{vni}, and Linux takes names "
            f"of {_MAX_NAME_LENGTH} characters; expected a VNI of at most {room} digits"
        )


def _show(value: object) -> str:
    text = dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."
