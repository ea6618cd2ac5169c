"""Where our rules stand among those of others, on texts of iptables-save."""

from __future__ import annotations

import shlex
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.host.firewall.site import WANTED as WANTED_OF_HOST
from tunneld.fib.state import UnderlayPort
from tunneld.host.firewall import layout
from tunneld.host.firewall.family import in_families
from tunneld.host.firewall.layout import Table, Tables
from tunneld.host.firewall.xtables import Plan

DEVICE = "flannel0"
(WANTED,) = in_families(WANTED_OF_HOST)
FWD = "TUNNELD-FWD-flannel0"
JUMP = f"-m comment --comment tunneld -j {FWD}"


def after(tables: dict[str, Table], text: str) -> dict[str, Table]:
    """Returns the tables after `iptables-restore --noflush`, by what its manual says of commands.

    Counters and limits of the real one are left to the tests that run it.
    """
    result = {
        name: Table(dict(table.policies), {c: list(r) for c, r in table.rules.items()})
        for name, table in tables.items()
    }
    table = Table()
    for line in text.splitlines():
        if line.startswith("*"):
            table = result.setdefault(line[1:], Table())
        elif line.startswith(":"):
            chain = line[1:].split()[0]
            table.rules[chain] = []
            table.policies[chain] = "-"
        elif line != "COMMIT":
            command, chain, *rest = line.split(" ", 2)
            rules = table.rules.setdefault(chain, [])
            if command == "-A":
                rules.append(rest[0])
            elif command == "-D":
                rules.remove(rest[0])
            elif command == "-I":
                number, rule = rest[0].split(" ", 1)
                assert 1 <= int(number) <= len(rules) + 1
                rules.insert(int(number) - 1, rule)
            else:
                assert command == "-X"
                others = [r for rs in table.rules.values() for r in rs]
                assert rules == []
                assert not [rule for rule in others if layout.target(rule) == chain]
                del table.rules[chain], table.policies[chain]
    return result


def applied(tables: dict[str, Table]) -> dict[str, Table]:
    layouts = layout.beside_nftables(tables, DEVICE, WANTED)
    return after(tables, layout.script(tables, DEVICE, layouts))


def filter_table(
    forward: list[str], docker_user: list[str] | None = None, policy: str = "DROP"
) -> dict[str, Table]:
    chains = {"FORWARD": forward} | ({} if docker_user is None else {"DOCKER-USER": docker_user})
    return {"filter": Table(dict.fromkeys(chains, "-") | {"FORWARD": policy}, chains)}


@pytest.mark.parametrize(
    ("forward", "docker_user", "expected"),
    [
        ([], None, [JUMP]),
        (["-i a -j ACCEPT"], None, ["-i a -j ACCEPT", JUMP]),
        (["-i a -j ACCEPT", "-j REJECT"], None, ["-i a -j ACCEPT", JUMP, "-j REJECT"]),
        (
            ['-m comment --comment "the end" -j DROP'],
            None,
            [JUMP, '-m comment --comment "the end" -j DROP'],
        ),
        (["-j DOCKER-FORWARD"], None, [JUMP, "-j DOCKER-FORWARD"]),
        (["-j DOCKER-USER"], ["-j RETURN"], [JUMP, "-j RETURN"]),
        (["-j DOCKER-USER"], [], [JUMP]),
        (["-j DOCKER-USER"], ["-s 1.2.3.4/32 -j DROP"], ["-s 1.2.3.4/32 -j DROP", JUMP]),
    ],
)
def test_jump_stands_behind_what_asks_and_before_what_decides(
    forward: list[str], docker_user: list[str] | None, expected: list[str]
) -> None:
    rules = applied(filter_table(forward, docker_user))["filter"].rules
    assert rules["FORWARD" if docker_user is None else "DOCKER-USER"] == expected
    assert FWD in rules


@pytest.mark.parametrize(
    "tables",
    [
        {},
        filter_table([], policy="ACCEPT"),
        filter_table(["-i a -j DROP"], policy="ACCEPT"),
        filter_table([], ["-j RETURN"], policy="ACCEPT"),
        {"raw": Table({"PREROUTING": "ACCEPT"}, {"PREROUTING": ["-i a -j ACCEPT"]})},
    ],
    ids=str,
)
def test_host_that_drops_nothing_needs_nothing(tables: dict[str, Table]) -> None:
    assert layout.beside_nftables(tables, DEVICE, WANTED) == {}


def test_where_docker_is_only_the_overlay_itself_is_accepted() -> None:
    rules = applied(filter_table(["-j DOCKER-USER"], []))["filter"].rules[FWD]
    assert [shlex.split(rule)[:4] for rule in rules] == [
        ["-d", "10.5.1.0/24", "-i", "flannel0"],
        ["-s", "10.5.1.0/24", "-o", "flannel0"],
    ]


def test_elsewhere_is_accepted_what_flannel_accepts() -> None:
    rules = applied(filter_table([]))["filter"].rules[FWD]
    # FLANNEL-FWD of flannel's pkg/trafficmngr/iptables.
    assert [shlex.split(rule)[:2] for rule in rules[2:]] == [
        ["-s", "10.5.0.0/16"],
        ["-d", "10.5.0.0/16"],
    ]


def test_notrack_is_for_underlay_datagrams_both_ways() -> None:
    port = UnderlayPort(address=IPv4Address("192.0.2.1"), port=8285)
    raw = layout.everything({}, DEVICE, replace(WANTED, notrack=(port,)))["raw"]
    untracked = "-p udp -m udp --dport 8285 -m comment --comment tunneld -j CT --notrack"
    assert f"-d 192.0.2.1/32 {untracked}" in raw.chains["TUNNELD-RAW-flannel0"]
    assert raw.chains["TUNNELD-OUT-flannel0"] == (f"-s 192.0.2.1/32 {untracked}",)
    assert [jump.chain for jump in raw.jumps] == ["PREROUTING", "OUTPUT"]


def test_names_of_chains_fit_the_longest_name_of_a_device() -> None:
    # XT_EXTENSION_MAXNAMELEN: 29 with the closing zero; IFNAMSIZ: 16 with it.
    assert max(map(len, layout.own_chains("x" * 15))) == 28


def test_a_rule_without_any_word_is_read() -> None:
    tables = layout.parse("*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING\nCOMMIT\n")
    assert tables["nat"].rules["POSTROUTING"] == [""]


RULES = st.sampled_from(
    [
        "-i eth0 -j ACCEPT",
        "-s 192.0.2.0/24 -j DROP",
        "-j RETURN",
        "-j DROP",
        "-j REJECT --reject-with icmp-port-unreachable",
        "-j DOCKER-USER",
        "-j DOCKER-FORWARD",
        "-o docker0 -j DOCKER",
        '-m comment --comment "a b" -j MINE',
        JUMP,
        "-m comment --comment tunneld -j TUNNELD-RAW-flannel0",
        "-m comment --comment tunneld -j TUNNELD-FWD-flannel1",
        f"-s 10.0.0.0/8 -j {FWD}",
        "-s 10.5.1.0/24 ! -o docker0 -j MASQUERADE",
    ]
)


@st.composite
def hosts(draw: st.DrawFn) -> dict[str, Table]:
    """Draws tables of a host, with or without Docker and what a killed daemon left."""
    found = {}
    for name, built_in in (("filter", "FORWARD"), ("nat", "POSTROUTING"), ("raw", "PREROUTING")):
        if draw(st.booleans()):
            chains = {built_in: draw(st.lists(RULES, max_size=6))}
            for chain in ("DOCKER-USER", "DOCKER", FWD, "TUNNELD-RAW-flannel0", "MINE"):
                if draw(st.booleans()):
                    is_ours = chain.startswith("TUNNELD")
                    size = st.lists(st.just("-j ACCEPT") if is_ours else RULES, max_size=3)
                    chains[chain] = draw(size)
            policies = dict.fromkeys(chains, "-")
            policies[built_in] = draw(st.sampled_from(["ACCEPT", "DROP"]))
            found[name] = Table(policies, chains)
    return found


def foreign(tables: Tables) -> dict[str, dict[str, list[str]]]:
    """Returns the chains of others without our jumps."""
    own = layout.own_chains(DEVICE)
    return {
        name: {
            chain: [rule for rule in rules if layout.target(rule) not in own]
            for chain, rules in table.rules.items()
            if chain not in own
        }
        for name, table in tables.items()
    }


@given(tables=hosts(), plan=st.sampled_from([layout.beside_nftables, layout.everything]))
def test_script_reaches_the_layout_in_one_step_and_then_has_nothing_to_do(
    tables: dict[str, Table], plan: Plan
) -> None:
    wanted = plan(tables, DEVICE, WANTED)
    result = after(tables, layout.script(tables, DEVICE, wanted))
    again = plan(result, DEVICE, WANTED)
    assert again == wanted
    assert layout.is_laid_out(result, DEVICE, again)
    repeated = layout.script(result, DEVICE, again)
    assert not [line for line in repeated.splitlines() if line.startswith(("-I", "-D", "-X"))]
    assert after(result, repeated) == result


@given(tables=hosts(), plan=st.sampled_from([layout.beside_nftables, layout.everything]))
def test_rules_of_others_keep_their_order_through_apply_and_clear(
    tables: dict[str, Table], plan: Plan
) -> None:
    wanted = plan(tables, DEVICE, WANTED)
    result = after(tables, layout.script(tables, DEVICE, wanted))
    before = foreign(tables)
    assert {name: foreign(result)[name] for name in before} == before
    cleared = after(result, layout.script(result, DEVICE, {}))
    assert {name: cleared[name].rules for name in before} == before
    assert not layout.own_rules(cleared, DEVICE)
