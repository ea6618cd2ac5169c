from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.netns import Namespace
from tests.unit.host.conftest import eventually, run_inside
from tunneld.host.monitor import Monitor, Notice, firewall_notices, routing_notices

TABLE = "table ip other {}\ntable ip mine { chain c { type filter hook input priority 0; }; }"


@given(st.binary(max_size=300))
def test_no_datagram_breaks_the_parser(data: bytes) -> None:
    list(routing_notices(data))
    list(firewall_notices(data))


@given(
    st.sampled_from([16, 17, 20, 21, 24, 25, 80, 81, 0x0A00, 0x0A06]),
    st.binary(max_size=120),
    st.integers(0, 20),
)
def test_no_message_of_a_known_type_breaks_the_parser(kind: int, body: bytes, cut: int) -> None:
    data = struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body
    list(routing_notices(data[: len(data) - cut]))
    list(firewall_notices(data[: len(data) - cut]))


@pytest.mark.root
def test_each_change_of_the_kernel_is_noticed_with_its_place(space: Namespace) -> None:
    space.bridge("br0")
    notices: list[Notice] = []

    async def expect(wanted: Notice, *commands: str) -> None:
        notices.clear()
        for command in commands:
            space.run(*command.split())
        await eventually(lambda: wanted in notices, f"{wanted} after {commands}: {notices}")

    async def work() -> None:
        monitor = Monitor(notices.append)
        try:
            link = Notice(kind="link", index=2, name="br0")
            address = Notice(kind="address", index=2)
            await expect(link, "ip link set br0 mtu 1400")
            await expect(address, "ip address add 10.1.0.1/24 dev br0")
            route = "10.5.0.0/16 dev br0 proto 116"
            wanted = Notice(kind="route", index=2, protocol=116)
            await expect(wanted, f"ip route add {route}")
            await expect(wanted, f"ip route del {route}")
            unreachable = Notice(kind="route", protocol=116)
            await expect(unreachable, "ip route add unreachable 10.5.1.0/24 proto 116")
            default = Notice(kind="route", index=2, protocol=3, is_default=True)
            await expect(default, "ip route add default via 10.1.0.2")
            await expect(address, "ip address add 2001:db8::1/64 dev br0 nodad")
            default = Notice(kind="route", index=2, protocol=3, is_default=True)
            await expect(default, "ip route add default via 2001:db8::2")
            entry = "lladdr 0e:00:00:00:00:01 dev br0 nud permanent"
            neighbour = Notice(kind="neighbour", index=2)
            await expect(neighbour, f"ip neigh add 10.1.0.9 {entry}")
            await expect(neighbour, f"ip neigh add 2001:db8::9 {entry}")
            settings = "id 1 local 10.1.0.1 dev br0 dstport 8472 nolearning"
            space.run(*f"ip link add vx3 index 3 type vxlan {settings}".split())
            forward = "0e:00:00:00:00:01 dev vx3 dst 10.1.0.9 self permanent"
            await expect(Notice(kind="neighbour", index=3), f"bridge fdb add {forward}")
            await expect(
                Notice(kind="forwarding", index=2), "sysctl -w net.ipv6.conf.br0.forwarding=1"
            )
            await expect(
                Notice(kind="forwarding", index=2), "sysctl -w net.ipv4.conf.br0.forwarding=1"
            )
            await expect(Notice(kind="forwarding"), "sysctl -w net.ipv4.conf.all.forwarding=1")
            space.run("nft", "-f", "-", stdin=TABLE)
            await expect(
                Notice(kind="firewall", tables=frozenset({"mine"})),
                "nft delete table ip mine",
            )
            await expect(Notice(kind="firewall", tables=frozenset({"other"})), "nft flush ruleset")
            await expect(
                Notice(kind="firewall", tables=frozenset({"filter"})), "iptables-nft -N MINE"
            )
            space.run("nft", "add", "table", "ip", "theirs")
            await expect(
                Notice(kind="firewall", tables=frozenset({"theirs"}), makes_nat=True),
                "nft add chain ip theirs out { type nat hook postrouting priority 0 ; }",
            )
            await expect(Notice(kind="iptables"), "iptables-legacy -N MINE")
            await expect(Notice(kind="iptables"), "ip6tables-legacy -N MINE")
            await expect(link, "ip link del br0")
        finally:
            monitor.close()

    run_inside(space, work)


@pytest.mark.root
def test_messages_lost_to_a_full_buffer_are_noticed_as_lost(space: Namespace) -> None:
    notices: list[Notice] = []

    async def work() -> None:
        monitor = Monitor(notices.append)
        try:
            # The loop does not run meanwhile, so that the socket's buffer overflows.
            for _ in range(2):
                routes = (f"unreachable 10.{i // 256}.{i % 256}.0/24" for i in range(5000))
                space.run("ip", "-batch", "-", stdin="".join(f"route add {r}\n" for r in routes))
                space.run("ip", "route", "flush", "type", "unreachable")
            await eventually(lambda: Notice(kind="lost") in notices, "the loss")
            notices.clear()
            space.run("ip", "link", "set", "lo", "mtu", "1400")
            wanted = Notice(kind="link", index=1, name="lo")
            await eventually(lambda: wanted in notices, "a notice after the loss")
        finally:
            monitor.close()

    run_inside(space, work)
