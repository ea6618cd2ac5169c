"""What each backend's lease says, to the byte as flanneld v0.28.9 writes it.

Read from etcd behind running flannelds; alloc, host-gw of both families and IPv6 alone: by its code
(`newSubnetAttrs`, `RegisterNetwork`).
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Literal

import pytest

from tests.unit.backend.values import HERE, Family, backend
from tunneld.backend.mac import parse_mac
from tunneld.store.format import decode_lease, encode_lease

V4_HOST = replace(HERE, mac=parse_mac("fe:e7:c9:24:bf:30"))

GOLDENS: dict[tuple[str, Family], str] = {
    ("udp", "ipv4"): '{"PublicIP":"10.99.0.11","PublicIPv6":null}',
    ("alloc", "ipv4"): '{"PublicIP":"10.99.0.11","PublicIPv6":null}',
    ("host-gw", "ipv4"): '{"PublicIP":"10.99.0.11","PublicIPv6":null,"BackendType":"host-gw"}',
    ("vxlan", "ipv4"): (
        '{"PublicIP":"10.99.0.11","PublicIPv6":null,"BackendType":"vxlan",'
        '"BackendData":{"VNI":1,"VtepMAC":"fe:e7:c9:24:bf:30"}}'
    ),
    ("vxlan", "dual"): (
        '{"PublicIP":"10.99.0.11","PublicIPv6":"fd99::11","BackendType":"vxlan",'
        '"BackendData":{"VNI":1,"VtepMAC":"ba:96:e6:9c:99:ba"},'
        '"BackendV6Data":{"VNI":1,"VtepMAC":"12:ed:dc:97:cc:d5"}}'
    ),
    ("host-gw", "dual"): (
        '{"PublicIP":"10.99.0.11","PublicIPv6":"fd99::11","BackendType":"host-gw"}'
    ),
    ("vxlan", "ipv6"): (
        '{"PublicIP":"0.0.0.0","PublicIPv6":"fd99::11","BackendType":"vxlan",'
        '"BackendV6Data":{"VNI":1,"VtepMAC":"12:ed:dc:97:cc:d5"}}'
    ),
}


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
@pytest.mark.parametrize(("backend_type", "families"), GOLDENS)
def test_lease_value_is_flannels_to_the_byte(
    backend_type: str, families: Family, datapath: Literal["userspace", "kernel"]
) -> None:
    if backend_type == "udp":
        datapath = "userspace"
    here = V4_HOST if families == "ipv4" else HERE
    attributes = backend(backend_type, families, datapath).attributes(here)
    golden = GOLDENS[backend_type, families].encode()
    assert encode_lease(attributes) == golden
    assert decode_lease(golden) == attributes


def test_lease_says_the_public_address_behind_nat() -> None:
    outside = replace(HERE, public_ip=IPv4Address("203.0.113.9"))
    assert backend("vxlan").attributes(outside).public_ip == IPv4Address("203.0.113.9")
