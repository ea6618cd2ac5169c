from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from testbed.etcd import Etcd
from testbed.flanneld.build import flanneld_binary
from testbed.netns import Namespace, inside
from testbed.wait import wait_until
from tests.unit.host.conftest import run_inside
from tunneld.host.firewall import layout
from tunneld.host.netlink import Netlink
from tunneld.host.takeover import (
    flanneld_pids,
    removal,
    remove_flannel_rules,
    warn_of_flannel_routes,
)

FLANNEL = re.compile(r'FLANNEL-|flannel-ipv|"flanneld ')
SAVES = ("iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save")

# The rules of other people, among which flanneld puts its own.
FOREIGN = """\
*filter
:FORWARD DROP [0:0]
:MINE - [0:0]
-A FORWARD -s 192.0.2.7/32 -m comment --comment "no flanneld" -j MINE
-A MINE -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE
COMMIT
"""


def rules(space: Namespace) -> str:
    """Returns all rules without counters and remarks."""
    text = "".join(space.run(program) for program in SAVES) + space.run("nft", "list", "ruleset")
    return re.sub(r"(?m)^#.*\n|\[\d+:\d+\]|packets \d+ bytes \d+", "", text)


@contextmanager
def flanneld(space: Namespace, config: str) -> Iterator[None]:
    """Runs the real flanneld in a namespace, from its READY to its end."""
    space.bridge("eth0", "192.0.2.1/24")
    etcd = Etcd(space, "127.0.0.1")
    etcd.start()
    etcd.ctl("put", "/coreos.com/network/config", config)
    file = space.directory / "subnet.env"
    process = space.start(
        *(str(flanneld_binary()), f"-etcd-endpoints={etcd.endpoint}", "-iface=eth0"),
        *("-ip-masq=true", f"-subnet-file={file}", "-iptables-resync=1"),
    )
    wait_until(file.exists, 20.0, "subnet.env of flanneld")
    # It writes the file first and may still be at its rules.
    wait_until(lambda: FLANNEL.search(rules(space)), 20.0, "flanneld's rules")
    process.wait_for_output("Running backend")
    yield
    process.stop()


def take_over(space: Namespace) -> tuple[str, ...]:
    return run_inside(space, remove_flannel_rules)


@pytest.mark.root
@pytest.mark.timeout(900)  # the first may build flanneld
@pytest.mark.parametrize("firewall", ["iptables", "nftables"])
def test_rules_of_an_ended_flanneld_are_removed_loudly_and_no_others(
    space: Namespace, firewall: str, caplog: pytest.LogCaptureFixture
) -> None:
    for variant in ("nft", "legacy"):
        space.run(f"iptables-{variant}-restore", stdin=FOREIGN)
    # Every table that flanneld touches is there before, so that the two states compare.
    space.run("ip6tables-nft-restore", stdin="*filter\nCOMMIT\n*nat\n-A POSTROUTING\nCOMMIT\n")
    before = rules(space)
    nftables = "true" if firewall == "nftables" else "false"
    config = '{"Network": "10.5.0.0/16", "EnableNFTables": ' + nftables + "}"
    caplog.set_level(logging.WARNING, "tunneld.host")
    with flanneld(space, config):
        there = rules(space)
        assert take_over(space) == ()
        assert rules(space) == there
        assert "flanneld runs on this host too" in caplog.text
    caplog.clear()
    removed = take_over(space)
    assert removed
    assert not FLANNEL.search(rules(space))
    assert rules(space) == before
    assert caplog.text.count("removed firewall rules that flanneld left behind") == len(removed)
    assert take_over(space) == ()


@pytest.mark.root
def test_rules_in_the_tables_of_iptables_legacy_are_found_too(space: Namespace) -> None:
    space.run("iptables-legacy-restore", stdin=FOREIGN)
    before = rules(space)
    space.run(
        "iptables-legacy-restore",
        "--noflush",
        stdin='*filter\n:FLANNEL-FWD - [0:0]\n-A FORWARD -m comment --comment "flanneld forward" '
        "-j FLANNEL-FWD\n-A FLANNEL-FWD -s 10.5.0.0/16 -j ACCEPT\nCOMMIT\n",
    )
    assert take_over(space) == ("iptables-legacy: chains FLANNEL-FWD, FLANNEL-POSTRTG",)
    assert rules(space) == before


@pytest.mark.root
def test_host_where_flanneld_never_ran_is_left_as_it_is(space: Namespace) -> None:
    before = rules(space)
    assert take_over(space) == ()
    assert rules(space) == before
    assert not space.run("cat", "/proc/net/ip_tables_names").split()


@pytest.mark.root
def test_flanneld_that_has_ended_but_was_not_waited_for_does_not_run(
    space: Namespace, tmp_path: Path
) -> None:
    program = tmp_path / "flanneld"
    program.symlink_to("/bin/cat")
    with inside(space), subprocess.Popen([program], stdin=subprocess.PIPE) as process:
        # Its start is known a moment before it has its name.
        wait_until(lambda: flanneld_pids() == [process.pid], what="the program under its name")
        assert process.stdin is not None
        process.stdin.close()
        state = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: ") Z " in state.read_text(), what="the end of the program")
        assert flanneld_pids() == []


def test_rules_of_versions_without_chains_are_known_by_their_comment() -> None:
    # flannel 0.13 put them into the built-in chains.
    saved = (
        "*nat\n:POSTROUTING ACCEPT [0:0]\n"
        "-A POSTROUTING -s 10.5.0.0/16 -d 10.5.0.0/16 "
        '-m comment --comment "flanneld masq" -j RETURN\n'
        '-A POSTROUTING -s 10.9.0.0/16 -m comment --comment "not flanneld" -j RETURN\n'
        "COMMIT\n"
    )
    assert removal(layout.parse(saved)) == (
        "*nat\n-D POSTROUTING -s 10.5.0.0/16 -d 10.5.0.0/16 "
        '-m comment --comment "flanneld masq" -j RETURN\nCOMMIT\n'
    )


@pytest.mark.root
@pytest.mark.parametrize(
    ("route", "is_named"),
    [("10.5.9.0/24 dev flannel.1", True), ("10.6.0.0/16 dev flannel.1", False)],
)
def test_device_of_flannel_is_named_when_it_takes_our_packets_and_stays(
    space: Namespace, caplog: pytest.LogCaptureFixture, route: str, is_named: bool
) -> None:
    space.bridge("flannel.1")
    space.bridge("flannel0", "10.5.1.0/32")
    space.run("ip", "route", "add", "10.5.0.0/16", "dev", "flannel0")
    space.run("ip", "route", "add", *route.split())
    caplog.set_level(logging.WARNING, "tunneld.host")

    async def work() -> None:
        async with Netlink.opened() as netlink:
            await warn_of_flannel_routes(netlink, [IPv4Network("10.5.0.0/16")], ["flannel0"])

    run_inside(space, work)
    assert ("takes packets of this network away" in caplog.text) is is_named
    assert "flannel.1" in space.run("ip", "link")
