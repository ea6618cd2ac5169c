"""What the rules do to real packets, whatever program carries them out."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.netns import Namespace, Rig
from tests.unit.host.conftest import inside, run_inside
from tests.unit.host.firewall.site import (
    CONTAINER,
    DEVICE,
    HOST_OUTSIDE,
    REMOTE,
    STRANGER,
    WANTED,
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

pytestmark = pytest.mark.root


@pytest.mark.parametrize("tools", ["nft only", "iptables-nft only", "iptables-legacy only"])
@pytest.mark.parametrize("masquerade", [True, False], ids=["masquerade", "no masquerade"])
def test_sources_are_rewritten_where_flannels_iptables_rules_rewrite_them(
    rig: Rig,
    space: Namespace,
    masquerade: bool,
    tools: Tools,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each line is one packet; the comment is the iptables rule that decides."""

    async def work() -> dict[str, str]:
        async with site(rig, space) as place:
            host, container, stranger = place.host, place.container, place.stranger
            monkeypatch.setenv("PATH", path_with(tools, tmp_path / "bin"))
            await HostFirewall("flannel0").apply(replace(WANTED, masquerade=masquerade))
            host.run("/usr/sbin/nft", "-f", "-", stdin=MARKING)
            seen = {}

            sends(container, REMOTE)
            seen["container to remote container"] = await leaves_by_the_tun(place)
            sends(host, REMOTE)
            seen["host to remote container"] = await leaves_by_the_tun(place)
            sends(host, REMOTE, bound=HOST_OUTSIDE)
            seen["host's own address to remote container"] = await leaves_by_the_tun(place)
            sends(stranger, REMOTE)
            seen["stranger to remote container"] = await leaves_by_the_tun(place)
            sends(stranger, REMOTE, port=4000)
            seen["marked stranger to remote container"] = await leaves_by_the_tun(place)

            receiver = udp_socket(stranger, port=70)
            sends(container, STRANGER, port=70)
            seen["container to stranger"] = source_seen_by(receiver)
            receiver = udp_socket(stranger, port=71)
            comes_in_by_the_tun(place, STRANGER, 71)
            seen["remote container to stranger"] = source_seen_by(receiver)
            receiver = udp_socket(stranger, port=4000)
            sends(container, STRANGER, port=4000)
            seen["marked container to stranger"] = source_seen_by(receiver)

            receiver = udp_socket(container, port=72)
            comes_in_by_the_tun(place, CONTAINER, 72)
            seen["remote container to container"] = source_seen_by(receiver)
            receiver = udp_socket(container, port=73)
            sends(stranger, CONTAINER, port=73)
            seen["stranger to container"] = source_seen_by(receiver)

            receiver = udp_socket(stranger, port=74)
            with inside(stranger):
                group = socket.inet_aton("224.0.1.7") + socket.inet_aton(STRANGER)
                receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            with udp_socket(host, bound=DEVICE) as sender:
                out = socket.inet_aton(HOST_OUTSIDE)
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, out)
                sender.sendto(b"probe", ("224.0.1.7", 74))
            seen["overlay address to a group"] = source_seen_by(receiver)
            return seen

    seen = run_inside(space, work)
    assert seen == {
        "container to remote container": CONTAINER,  # -s SUB -d NET -j RETURN
        "host to remote container": DEVICE,  # -s SUB -d NET -j RETURN
        "host's own address to remote container":  # ! -s NET -d NET -j MASQUERADE
        DEVICE if masquerade else HOST_OUTSIDE,
        "stranger to remote container":  # ! -s NET -d NET -j MASQUERADE
        DEVICE if masquerade else STRANGER,
        "marked stranger to remote container": STRANGER,  # mark 0x4000/0x4000 -j RETURN
        "container to stranger":  # -s NET ! -d 224.0.0.0/4 -j MASQUERADE
        HOST_OUTSIDE if masquerade else CONTAINER,
        "remote container to stranger":  # -s NET ! -d 224.0.0.0/4 -j MASQUERADE
        HOST_OUTSIDE if masquerade else REMOTE,
        "marked container to stranger": CONTAINER,  # mark 0x4000/0x4000 -j RETURN
        "remote container to container": REMOTE,  # -s NET -d SUB -j RETURN
        "stranger to container": STRANGER,  # ! -s NET -d SUB -j RETURN
        "overlay address to a group": DEVICE,  # ! -d 224.0.0.0/4
    }


MARKING = """
table ip marking {
  chain prerouting {
    type filter hook prerouting priority mangle;
    udp dport 4000 meta mark set 0x0000c001
  }
}
"""
