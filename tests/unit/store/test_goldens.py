"""Leases as real flanneld writes them, to the byte: keys, values, and what our backends publish."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

import pytest

from tests.support.goldens import Golden, flannel_goldens
from tunneld.backend import parse_backend
from tunneld.backend.base import Here
from tunneld.backend.mac import MacAddress, parse_mac
from tunneld.fib.state import SubnetEnv
from tunneld.host import subnet_env
from tunneld.lease.network import parse
from tunneld.store import format as fmt

GOLDENS = flannel_goldens()
SOME_MAC = MacAddress("0e:2a:00:00:00:01")

# flannel's udp carries no IPv6: where the network has it, flanneld leases a subnet nobody reaches.
CARRIED = [golden for golden in GOLDENS if golden.name != "udp, dual stack"]

DATAPATHS: dict[str, tuple[Literal["userspace", "kernel"], ...]] = {
    "udp": ("userspace",),
    "vxlan": ("userspace", "kernel"),
    "host-gw": ("userspace",),
    "alloc": ("userspace",),
}

named = pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)


def here(value: bytes) -> Here:
    """The host flanneld ran on, with the VTEP addresses it had made itself."""
    said = fmt.decode_lease(value)

    def mac(data: object) -> MacAddress:
        return parse_mac(data["VtepMAC"]) if isinstance(data, dict) else SOME_MAC

    return Here(
        address=IPv4Address("10.99.0.11"),
        address_v6=IPv6Address("fd99::11"),
        public_ip=IPv4Address("10.99.0.11"),
        public_ipv6=IPv6Address("fd99::11"),
        underlay_mtu_bytes=1500,
        mac=mac(said.backend_data),
        mac_v6=mac(said.backend_v6_data),
    )


def test_every_backend_and_family_is_there() -> None:
    names = {golden.name.partition(",")[0] for golden in GOLDENS}
    assert names == {"udp", "vxlan", "host-gw", "alloc", "default backend"}
    assert {golden.name.rpartition(", ")[2] for golden in GOLDENS} == {
        "IPv4",
        "dual stack",
        "IPv6-only",
    }


@named
def test_key_is_read_and_written_as_flannel_does(golden: Golden) -> None:
    key = fmt.parse_lease_key(golden.key)
    assert fmt.format_lease_key(key) == golden.key
    assert parse(golden.config).admits(key)


@named
def test_value_is_read_and_written_as_flannel_does(golden: Golden) -> None:
    assert fmt.encode_lease(fmt.decode_lease(golden.value)) == golden.value


@pytest.mark.parametrize("golden", CARRIED, ids=lambda golden: golden.name)
def test_our_backend_publishes_what_flannels_does(golden: Golden) -> None:
    config = parse(golden.config)
    published = {
        fmt.encode_lease(parse_backend(config, datapath).attributes(here(golden.value)))
        for datapath in DATAPATHS[config.backend_type]
    }
    assert published == {golden.value}


@named
def test_subnet_env_is_read_and_written_as_flannel_does(golden: Golden) -> None:
    config, key = parse(golden.config), fmt.parse_lease_key(golden.key)
    ours = SubnetEnv(
        network=config.network if config.enable_ipv4 else None,
        subnet=key.ipv4 if key.has_ipv4 else None,
        network_v6=config.ipv6_network,
        subnet_v6=key.ipv6,
        mtu_bytes=subnet_env.parse(golden.subnet_env).mtu_bytes,
        ip_masq=False,
    )
    assert subnet_env.render(ours) == golden.subnet_env
    assert subnet_env.parse(golden.subnet_env) == ours
    assert subnet_env.key(ours) == key
    assert subnet_env.key(replace(ours, subnet=None, subnet_v6=None)) is None
