"""How the overlay looks on the underlay: filters for tcpdump, and words. Pure.

Source: pcap-filter(7); RFC 7348 section 5 (VXLAN header), RFC 4861 and RFC 3810 (what hosts ask
each other over IPv6).
"""

from __future__ import annotations

from dataclasses import dataclass

from tunneld.lab.topology import ESP_PORT, OVERLAY, OVERLAY_V6, Topology

PORTS = {"udp": 8285, "vxlan": 8472}

_NEIGHBOURS = "arp or (icmp6 and ip6[40] >= 133 and ip6[40] <= 137) or (ip6 and ip6[6] == 0)"
"""ARP, neighbour discovery, and the multicast reports behind a hop-by-hop header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What packets between containers are, when they cross the underlay."""

    name: str
    expression: str
    """Filter for these, and nothing else."""
    decoder: tuple[str, ...] = ()
    """Options by which tcpdump takes a datagram for what it is."""
    mark: str = ""
    """What tcpdump then says of each."""
    is_plain: bool = False
    """Not encapsulated."""
    is_esp: bool = False
    """Both families between the hosts' IPv4 addresses, where they have some."""


def wire_of(topology: Topology) -> Wire:
    """Returns what a lab puts on the underlay."""
    if topology.is_encrypted:
        # Workers but the first send from ports of their own.
        name = f"ESP on UDP {ESP_PORT}"
        return Wire(name=name, expression=f"udp dst port {ESP_PORT}", is_esp=True)
    match topology.backend:
        case "udp":
            port = PORTS["udp"]
            return Wire(
                name=f"UDP {port}", expression=f"udp src port {port} and udp dst port {port}"
            )
        case "vxlan":
            port = PORTS["vxlan"]
            return Wire(
                name=f"VXLAN on UDP {port}",
                expression=f"udp dst port {port}",
                decoder=("-T", "vxlan"),
                mark="VXLAN, flags [I] (0x08), vni 1",
            )
    nets = " or ".join(f"(src net {net} and dst net {net})" for net in (OVERLAY, OVERLAY_V6))
    return Wire(name="plain packets", expression=nets, is_plain=True)


def foreign_expression(topology: Topology) -> str:
    """Returns the filter for what must not be on the underlay.

    Between hosts there are the overlay's packets, and what finds neighbours; a host also talks to
    etcd.
    """
    expected = [_NEIGHBOURS, wire_of(topology).expression]
    if topology.store == "etcd":
        expected.append(f"tcp port 2379 and host {topology.switch_address.ip}")
    return " and ".join(f"not ({one})" for one in expected)
