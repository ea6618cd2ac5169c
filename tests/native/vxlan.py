"""Host a with VXLAN, and honest datagrams of its peer b, built by scapy."""

from __future__ import annotations

from typing import Any

from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.native.hosts import adjacency, settings
from tests.native.packets import inner
from tunneld import _native

VNI, MTU_BYTES = 7, 1450
OUR_MAC, OUR_MAC_V6 = "0e:2a:00:00:00:01", "0e:2a:00:00:06:01"
PEER_MAC, OTHER_MAC = "0e:2a:00:00:00:02", "0e:2a:00:00:00:09"
HERE = ("127.0.0.1", 8285)
B, C, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.9"
PACKET = inner("10.5.2.2", "10.5.1.2")


def network(*, gbp: bool = False, check: str = "strict") -> _native.Change:
    vtep: _native.Vtep = {"vni": VNI, "gbp": gbp, "mac": OUR_MAC, "mac_v6": OUR_MAC_V6}
    return {
        "settings": settings(check, MTU_BYTES, vtep),
        "put_adjacencies": [
            adjacency("b", B, MTU_BYTES, vtep_mac=PEER_MAC),
            adjacency("c", C, 1400, vtep_mac=OTHER_MAC),
        ],
        "put_entries": [
            {"prefix": "10.5.1.0/24", "target": "local"},
            {"prefix": "10.5.2.0/24", "target": "b"},
            {"prefix": "10.5.3.0/24", "target": "c"},
        ],
    }


def framed(payload: bytes | Packet = PACKET, *, vni: int = VNI, **frame: Any) -> bytes:
    """Returns a datagram from peer b, all of it right but for what is said otherwise."""
    header: dict[str, Any] = {"src": PEER_MAC, "dst": OUR_MAC, "type": 0x0800}
    ethernet = Ether(**header | frame)
    if isinstance(payload, bytes):
        payload = Raw(payload)
    return bytes(VXLAN(flags=0x08, vni=vni) / ethernet / payload)


HONEST = framed()
