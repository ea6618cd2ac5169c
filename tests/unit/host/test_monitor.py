from __future__ import annotations

import struct
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.netns import Namespace
from tests.unit.host.conftest import eventually, run_inside
from tunneld.host import monitor as monitor_module
from tunneld.host.monitor import Monitor, Notice, firewall_notices, routing_notices
from tunneld.lease.model import IPNetwork

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
def test_routes_of_others_are_told_of_only_inside_the_networks(space: Namespace) -> None:
    """The kernel leaves the others out: a host that speaks BGP changes thousands a second."""
    space.bridge("br0", "10.1.0.1/24")
    space.run("ip", "address", "add", "2001:db8::1/64", "dev", "br0", "nodad")
    notices: list[Notice] = []

    async def work() -> None:
        networks: list[IPNetwork] = [IPv4Network("10.5.0.0/16"), IPv6Network("fd00:5:6::/47")]
        monitor = Monitor(notices.append, routes_within=networks, protocol=116)
        end = Notice(kind="route", index=2, protocol=116)
        try:
            for number, (route, passes) in enumerate(
                {
                    "10.5.7.0/24": True,
                    "10.5.0.0/16": True,
                    "10.5.3.3/32": True,
                    "10.6.0.0/24": False,
                    "10.4.255.0/24": False,
                    "10.0.0.0/8": False,
                    "11.5.7.0/24": False,
                    "default": True,
                    "fd00:5:7:1::/64": True,
                    "fd00:5:8:1::/64": False,
                    "fd00:5::/32": False,
                    "2001:db8:5::/48": False,
                    "::/0": True,
                }.items()
            ):
                notices.clear()
                space.run("ip", "route", "add", route, "dev", "br0")
                space.run("ip", "route", "add", f"12.0.{number}.0/24", "proto", "116", "dev", "br0")
                await eventually(lambda: end in notices, f"the end after {route}")
                heard = [one for one in notices if one.kind == "route" and one.protocol == 3]
                assert bool(heard) == passes, route
        finally:
            monitor.close()

    run_inside(space, work)


@pytest.mark.root
def test_flood_of_routes_lets_others_have_their_turn_and_loses_nothing_but_routes(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "_BUFFER_BYTES", 4096)
    space.bridge("br0", "10.1.0.1/24")
    notices: list[Notice] = []
    flood = "\n".join(f"route add 11.0.{n >> 8}.{n & 255}/32 dev br0" for n in range(3000))

    async def work() -> None:
        monitor = Monitor(notices.append)
        try:
            space.run("ip", "-batch", "-", stdin=flood)  # while nobody reads
            space.run("ip", "address", "add", "10.1.0.2/24", "dev", "br0")
            await eventually(lambda: Notice(kind="lost routes") in notices, "a loss of routes")
            await eventually(lambda: Notice(kind="address", index=2) in notices, "an address")
            assert Notice(kind="lost") not in notices
            space.run("ip", "route", "add", "12.0.0.0/24", "dev", "br0", "proto", "116")
            after = Notice(kind="route", index=2, protocol=116)
            await eventually(lambda: after in notices, "a route after the loss")
        finally:
            monitor.close()

    run_inside(space, work)
