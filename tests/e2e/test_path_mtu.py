"""A path that swallows large datagrams and says nothing: what whole hosts make of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testbed.wait import wait_until
from tests.e2e.site import Site
from tunneld.lab import namespaces
from tunneld.lab.daemons import status_of
from tunneld.lab.topology import Host

pytestmark = pytest.mark.root

PATIENCE_S = 60.0
CARRIES = 1400


@contextmanager
def swallowing(host: Host) -> Iterator[None]:
    """Drops what is larger than `CARRIES` on its way to a host, as behind a filter of ICMP."""

    def nft(command: str) -> None:
        namespaces.run("ip", "netns", "exec", host.namespace, "nft", command)

    nft("add table inet hole")
    try:
        nft("add chain inet hole in { type filter hook prerouting priority -450; }")
        nft(f"add rule inet hole in udp dport 8472 meta length > {CARRIES} drop")
        yield
    finally:
        nft("delete table inet hole")


def reach_of(host: Host, subnet: str) -> dict[str, tuple[int, str]]:
    peers = {peer["subnet"]: peer for peer in status_of(host)["peers"]}
    reach = peers[subnet]["reach"]
    return {name: (one["mtu_bytes"], one["path_mtu"]) for name, one in reach.items()}


def test_path_that_swallows_large_datagrams_is_found_by_probes(vxlan_site: Site) -> None:
    near, far = vxlan_site.hosts[:2]
    view = vxlan_site.views[1]
    subnet = str(view.bridge.network)

    def ping(address: object, size: int) -> str:
        command = ("ping", "-c1", "-W2", "-M", "do", "-s", str(size), str(address))
        argv = ("ip", "netns", "exec", near.container_namespace, "sh", "-c")
        return namespaces.run(*argv, f"{' '.join(command)} 2>&1 || true")

    def arrives(address: object, size: int) -> None:
        wait_until(lambda: "1 received" in ping(address, size), PATIENCE_S, "what fits to arrive")

    def found(expected: dict[str, tuple[int, str]]) -> bool:
        for address in view.containers:
            ping(address, 56)
        return reach_of(near, subnet) == expected

    wide = 1500 - 70
    whole = {"ipv4": (wide, "found"), "ipv6": (wide, "found")}
    wait_until(lambda: found(whole), PATIENCE_S, "whole paths")
    with swallowing(far):
        narrow = {"ipv4": (CARRIES - 50, "found"), "ipv6": (CARRIES - 70, "found")}
        wait_until(lambda: found(narrow), PATIENCE_S, "what the paths carry")
        for address, inner, header in zip(
            view.containers, (CARRIES - 50, CARRIES - 70), (28, 48), strict=True
        ):
            arrives(address, inner - header)
            told = re.search(r"mtu\D*(\d+)", ping(address, inner + 1 - header))
            assert told is not None
            assert int(told[1]) == inner
        drops = status_of(near)["drops"]
        assert drops["too_big_for_underlay"] == 0
    vxlan_site.ping_all()
