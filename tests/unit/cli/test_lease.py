"""`tunneld lease`: subnets kept for hosts, on a real store."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.stores import SqliteServer
from tests.unit.cli.conftest import Tunneld
from tests.unit.cli.test_leases import OTHER, OWN, claim, content_of
from tunneld.store.sqlite.store import SqliteStore

NETWORK = '{"Network": "10.5.0.0/16"}'
DUAL = (
    '{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48",'
    ' "IPv6SubnetLen": 64}'
)
IPV6_ONLY = '{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48"}'


@pytest.fixture
def options(tmp_path: Path, store_option: str) -> list[str]:
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    (state_dir / "node-id").write_text(f"{OWN}\n")
    return [store_option, f"--state-dir={state_dir}"]


@pytest.fixture
def network(tunneld: Tunneld, options: list[str], tmp_path: Path) -> list[str]:
    set_config(tunneld, options, tmp_path, NETWORK)
    return options


def set_config(tunneld: Tunneld, options: list[str], tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(text)
    assert tunneld("network", "set", config, options[0]).status == 0


def reserved(options: list[str]) -> list[tuple[str, str]]:
    return [(str(one.key), str(one.holder)) for one in content_of(options[0]).reservations]


def test_a_host_keeps_the_subnet_it_has(tunneld: Tunneld, network: list[str]) -> None:
    claim(network[0], "10.5.7.0/24", "192.0.2.7", OWN)
    for _ in range(2):
        outcome = tunneld("lease", "reserve", *network)
        assert (outcome.status, outcome.out) == (0, "reserved: 10.5.7.0/24 for 192.0.2.7\n")
    assert reserved(network) == [("10.5.7.0/24", "192.0.2.7")]


def test_a_subnet_is_kept_for_a_host_yet_to_come(tunneld: Tunneld, network: list[str]) -> None:
    outcome = tunneld("lease", "reserve", "10.5.9.0/24", "192.0.2.9", *network)
    assert outcome.out == "reserved: 10.5.9.0/24 for 192.0.2.9\n"
    assert tunneld("lease", "list", *network).out == (
        "no leases\nreserved: 10.5.9.0/24 for 192.0.2.9 (not in use)\n"
    )
    [entry] = json.loads(tunneld("leases", "--json", *network).out)["reservations"]
    assert entry == {
        "subnet": "10.5.9.0/24",
        "ipv6_subnet": None,
        "host": "192.0.2.9",
        "leased": False,
    }


def test_a_host_with_another_subnet_is_told_when_it_moves(
    tunneld: Tunneld, network: list[str]
) -> None:
    claim(network[0], "10.5.7.0/24", "192.0.2.7", OWN)
    out = tunneld("lease", "reserve", "10.5.9.0/24", "192.0.2.7", *network).out
    assert out == (
        "reserved: 10.5.9.0/24 for 192.0.2.7, which has 10.5.7.0/24 now and keeps it; it takes"
        " 10.5.9.0/24 when it starts after 'tunneld leave'\n"
    )


@pytest.mark.parametrize(
    ("config", "subnet", "host"),
    [
        (DUAL, "10.5.9.0/24,fd00:10:5:9::/64", "192.0.2.9"),
        (IPV6_ONLY, "fd00:10:5:9::/64", "fd99::9"),
    ],
)
def test_both_families(
    tunneld: Tunneld, options: list[str], tmp_path: Path, config: str, subnet: str, host: str
) -> None:
    set_config(tunneld, options, tmp_path, config)
    assert tunneld("lease", "reserve", subnet, host, *options).status == 0
    assert reserved(options) == [(subnet, host)]
    assert tunneld("lease", "release", subnet, options[0]).status == 0
    assert reserved(options) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["10.9.0.0/24", "192.0.2.9"], "cannot reserve 10.9.0.0/24: it is no subnet of this netw"),
        (["10.5.9.0/25", "192.0.2.9"], "cannot reserve 10.5.9.0/25: it is no subnet of this netw"),
        (["10.5.7.0/24", "192.0.2.9"], "cannot reserve 10.5.7.0/24: 192.0.2.7 holds it; reserve"),
        (["10.5.5.0/24", "192.0.2.9"], "it is reserved for 192.0.2.5; give that up first: tunneld"),
        (["10.5.9.0/24", "192.0.2.5"], "10.5.5.0/24 is reserved for this host; give that up first"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_written_nowhere(
    tunneld: Tunneld, network: list[str], arguments: list[str], said: str
) -> None:
    claim(network[0], "10.5.7.0/24", "192.0.2.7", OTHER)
    assert tunneld("lease", "reserve", "10.5.5.0/24", "192.0.2.5", *network).status == 0
    outcome = tunneld("lease", "reserve", *arguments, *network)
    assert outcome.status == 1
    assert said in outcome.err
    assert reserved(network) == [("10.5.5.0/24", "192.0.2.5")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["10.5.9.0/24"], "expected the PublicIP of its host after the subnet"),
        (["10.5.9.7/24", "192.0.2.9"], "'10.5.9.7/24' is not a subnet (10.5.9.7/24 has host bits"),
        (["10.5.9.0/24,10.5.8.0/24", "192.0.2.9"], "names 2 subnets; expected one, or an IPv4 and"),
        (["10.5.9.0/24", "host9"], "'host9' is not an address; expected the PublicIP of a host"),
        (["10.5.9.0/24", "0.0.0.0"], "0.0.0.0 is no host's address"),
        (["10.5.9.0/24", "fd99::9"], "hosts are known by their IPv4 address here"),
    ],
)
def test_a_wrong_command_line_says_what_is_expected(
    tunneld: Tunneld, network: list[str], arguments: list[str], said: str
) -> None:
    outcome = tunneld("lease", "reserve", *arguments, *network)
    assert outcome.status == 2
    assert said in outcome.err
    assert reserved(network) == []


def test_a_host_without_a_lease_names_subnet_and_host(
    tunneld: Tunneld, network: list[str], tmp_path: Path
) -> None:
    outcome = tunneld("lease", "reserve", *network)
    assert outcome.status == 1
    assert "holds no lease under /coreos.com/network; name the subnet and the host" in outcome.err


def test_a_network_without_config_has_no_subnets(tunneld: Tunneld, options: list[str]) -> None:
    claim(options[0], "10.5.7.0/24", "192.0.2.7", OWN)
    outcome = tunneld("lease", "reserve", *options)
    assert outcome.status == 1
    assert "no network config at /coreos.com/network/config" in outcome.err


def test_release_gives_the_subnet_back_and_leaves_the_lease(
    tunneld: Tunneld, network: list[str]
) -> None:
    claim(network[0], "10.5.7.0/24", "192.0.2.7", OWN)
    assert tunneld("lease", "reserve", *network).status == 0
    outcome = tunneld("lease", "release", "10.5.7.0/24", network[0])
    assert outcome.out == "released: 10.5.7.0/24 is not reserved any more\n"
    assert reserved(network) == []
    assert [str(lease.key) for lease in content_of(network[0]).leases] == ["10.5.7.0/24"]
    again = tunneld("lease", "release", "10.5.7.0/24", network[0])
    assert again.status == 1
    assert "cannot release 10.5.7.0/24: it is not reserved" in again.err


def test_a_lease_written_in_the_same_moment_is_not_taken_over(
    tunneld: Tunneld, network: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = SqliteStore.reserve

    async def late(self: SqliteStore, *args: object, **options: object) -> None:
        # In another thread, since this one runs the command's loop.
        await self._run(lambda: claim(network[0], "10.5.9.0/24", "192.0.2.66", OTHER))
        await reserve(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(SqliteStore, "reserve", late)
    outcome = tunneld("lease", "reserve", "10.5.9.0/24", "192.0.2.9", *network)
    assert outcome.status == 1
    assert "cannot reserve 10.5.9.0/24: somebody wrote its lease" in outcome.err
    assert reserved(network) == []


def test_a_lease_without_an_end_gets_one(tunneld: Tunneld, network: list[str]) -> None:
    server = SqliteServer(Path(network[0].split(":", 1)[1]))
    server.put("/coreos.com/network/subnets/10.5.9.0-24", b'{"PublicIP":"192.0.2.66"}')
    outcome = tunneld("lease", "release", "10.5.9.0/24", network[0])
    assert outcome.out == (
        "released: 10.5.9.0/24 is not reserved any more; its lease ends in 24 hours unless"
        " renewed\n"
    )
    [lease] = json.loads(tunneld("leases", "--json", *network).out)["leases"]
    left_s = (datetime.fromisoformat(lease["expires_at"]) - datetime.now(UTC)).total_seconds()
    assert 86_300 < left_s <= 86_401
