"""What the rules do to real packets, whatever program carries them out."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.netns import Namespace, Rig, inside
from tests.unit.host.conftest import run_inside
from tests.unit.host.firewall.site import (
    ADDRESSES,
    WANTED_IN_BOTH,
    Addresses,
    Tools,
    comes_in_by_the_tun,
    leaves_by_the_tun,
    path_with,
    sends,
    site,
    source_seen_by,
    udp_socket,
)
from tunneld.host.firewall import HostFirewall
from tunneld.host.firewall.family import Version

pytestmark = pytest.mark.root


@pytest.mark.parametrize("tools", ["nft only", "iptables-nft only", "iptables-legacy only"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("masquerade", [True, False], ids=["masquerade", "no masquerade"])
def test_sources_are_rewritten_where_flannels_iptables_rules_rewrite_them(
    rig: Rig,
    space: Namespace,
    version: Version,
    masquerade: bool,
    tools: Tools,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each line is one packet; the comment is the iptables rule that decides."""

    it = ADDRESSES[version]

    async def work() -> dict[str, str]:
        async with site(rig, space) as place:
            host, container, stranger = place.host, place.container, place.stranger
            monkeypatch.setenv("PATH", path_with(tools, tmp_path / "bin"))
            await HostFirewall("flannel0").apply(replace(WANTED_IN_BOTH, masquerade=masquerade))
            host.run("/usr/sbin/nft", "-f", "-", stdin=MARKING)
            seen = {}

            async def leaves() -> str:
                return await leaves_by_the_tun(place, to=it.remote)

            sends(container, it.remote)
            seen["container to remote container"] = await leaves()
            sends(host, it.remote)
            seen["host to remote container"] = await leaves()
            sends(host, it.remote, bound=it.host_outside)
            seen["host's own address to remote container"] = await leaves_by_the_tun(
                place, to=it.remote
            )
            sends(stranger, it.remote)
            seen["stranger to remote container"] = await leaves()
            sends(stranger, it.remote, port=4000)
            seen["marked stranger to remote container"] = await leaves_by_the_tun(
                place, to=it.remote
            )

            receiver = udp_socket(stranger, port=70, to=it.remote)
            sends(container, it.stranger, port=70)
            seen["container to stranger"] = source_seen_by(receiver)
            receiver = udp_socket(stranger, port=71, to=it.remote)
            comes_in_by_the_tun(place, it.stranger, 71)
            seen["remote container to stranger"] = source_seen_by(receiver)
            receiver = udp_socket(stranger, port=4000, to=it.remote)
            sends(container, it.stranger, port=4000)
            seen["marked container to stranger"] = source_seen_by(receiver)

            receiver = udp_socket(container, port=72, to=it.remote)
            comes_in_by_the_tun(place, it.container, 72)
            seen["remote container to container"] = source_seen_by(receiver)
            receiver = udp_socket(container, port=73, to=it.remote)
            sends(stranger, it.container, port=73)
            seen["stranger to container"] = source_seen_by(receiver)

            receiver = udp_socket(stranger, port=74, to=it.remote)
            with inside(stranger):
                join(receiver, it)
            with udp_socket(host, bound=it.device) as sender:
                send_to_group_by(sender, it)
            seen["overlay address to a group"] = source_seen_by(receiver)
            return seen

    seen = run_inside(space, work)
    assert seen == {
        "container to remote container": it.container,  # -s SUB -d NET -j RETURN
        "host to remote container": it.device,  # -s SUB -d NET -j RETURN
        "host's own address to remote container":  # ! -s NET -d NET -j MASQUERADE
        it.device if masquerade else it.host_outside,
        "stranger to remote container":  # ! -s NET -d NET -j MASQUERADE
        it.device if masquerade else it.stranger,
        "marked stranger to remote container": it.stranger,  # mark 0x4000/0x4000 -j RETURN
        "container to stranger":  # -s NET ! -d 224.0.0.0/4 -j MASQUERADE
        it.host_outside if masquerade else it.container,
        "remote container to stranger":  # -s NET ! -d 224.0.0.0/4 -j MASQUERADE
        it.host_outside if masquerade else it.remote,
        "marked container to stranger": it.container,  # mark 0x4000/0x4000 -j RETURN
        "remote container to container": it.remote,  # -s NET -d SUB -j RETURN
        "stranger to container": it.stranger,  # ! -s NET -d SUB -j RETURN
        "overlay address to a group": it.device,  # ! -d 224.0.0.0/4
    }


def join(receiver: socket.socket, it: Addresses) -> None:
    if it.version == 4:
        group = socket.inet_aton(it.group) + socket.inet_aton(it.stranger)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    else:
        group = socket.inet_pton(socket.AF_INET6, it.group)
        index = struct.pack("=I", socket.if_nametoindex("eth0"))
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + index)


def send_to_group_by(sender: socket.socket, it: Addresses) -> None:
    if it.version == 4:
        out = socket.inet_aton(it.host_outside)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, out)
    else:
        index = socket.if_nametoindex("eth0")
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    sender.sendto(b"probe", (it.group, 74))


MARKING = """
table inet marking {
  chain prerouting {
    type filter hook prerouting priority mangle;
    udp dport 4000 meta mark set 0x0000c001
  }
}
"""
