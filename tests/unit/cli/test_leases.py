"""`tunneld leases` and `tunneld leave`, on a real store and a real control socket."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from testbed.wait import PATIENCE
from tests.support.leases import holder, key, record
from tests.unit.cli.conftest import Tunneld
from tunneld.control.server import ControlServer
from tunneld.errors import StoreUnavailableError
from tunneld.host.state_dir import StateDir
from tunneld.lease.model import LeaseAttributes, Snapshot
from tunneld.lease.registry import Claim
from tunneld.store import StoreOptions, open_store

OWN = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32


@pytest.fixture
def options(tmp_path: Path, store_option: str) -> list[str]:
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    (state_dir / "node-id").write_text(f"{OWN}\n")
    return [store_option, f"--state-dir={state_dir}"]


def elsewhere(tmp_path: Path) -> list[str]:
    """Returns options that keep a command away from this machine's own daemon."""
    return [f"--control-socket={tmp_path / 's'}", f"--subnet-file={tmp_path / 'subnet.env'}"]


def claim(
    store_option: str, subnet: str, public_ip: str, node_id: str, machine: str | None = None
) -> None:
    async def write() -> None:
        store = open_store(StoreOptions(kind="sqlite", path=Path(store_option.split(":", 1)[1])))
        try:
            claimed, host = key(subnet), holder(public_ip)
            await store.claim(
                Claim(
                    key=claimed,
                    attributes=LeaseAttributes(
                        public_ip=host.public_ip, public_ipv6=host.public_ipv6
                    ),
                    record=record(node_id, subnet, public_ip, machine=machine),
                    grant=await store.grant(3600),
                    expected_revision=0,
                )
            )
        finally:
            await store.close()

    asyncio.run(write())


def content_of(store_option: str) -> Snapshot:
    async def read() -> Snapshot:
        store = open_store(StoreOptions(kind="sqlite", path=Path(store_option.split(":", 1)[1])))
        try:
            return await store.read()
        finally:
            await store.close()

    return asyncio.run(read())


@contextmanager
def daemon(path: Path, **answers: Any) -> Iterator[None]:
    """Serves a control socket that answers with what it is told."""

    async def serve() -> None:
        def handler(answer: Any) -> Any:
            async def handle() -> Any:
                if isinstance(answer, Exception):
                    raise answer
                return answer

            return handle

        server = ControlServer(path, {op: handler(answer) for op, answer in answers.items()})
        await server.start()
        loop.call_soon_threadsafe(started.set)
        up.set()
        await done.wait()
        await server.close()

    loop = asyncio.new_event_loop()
    up, started, done = threading.Event(), asyncio.Event(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert up.wait(10 * PATIENCE)
        yield
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()


def test_table_shows_every_lease_and_marks_this_host(tunneld: Tunneld, options: list[str]) -> None:
    claim(options[0], "10.5.9.0/24", "192.0.2.9", OTHER)
    claim(options[0], "10.5.7.0/24", "192.0.2.7", OWN)
    outcome = tunneld("leases", *options)
    assert outcome.status == 0
    head, first, second = outcome.out.splitlines()
    assert head.split() == ["subnet", "public", "ip", "type", "node", "expires"]
    assert re.fullmatch(rf"10\.5\.7\.0/24  192\.0\.2\.7 .* {OWN} .*Z  this host", first)
    assert second.startswith("10.5.9.0/24")
    assert "this host" not in second


def test_json_holds_each_lease_whole(tunneld: Tunneld, options: list[str]) -> None:
    claim(options[0], "10.5.7.0/24", "192.0.2.7", OWN)
    before = datetime.now(UTC)
    document = json.loads(tunneld("leases", "--json", *options).out)
    [lease] = document["leases"]
    left_s = (datetime.fromisoformat(lease.pop("expires_at")) - before).total_seconds()
    assert 3590 < left_s < 3610
    assert lease == {
        "subnet": "10.5.7.0/24",
        "ipv6_subnet": None,
        "public_ip": "192.0.2.7",
        "public_ipv6": None,
        "backend_type": None,
        "node_id": OWN,
        "version": "0.1.0",
        "reservation": False,
        "this_host": True,
    }
    assert document["malformed"] == []


def test_table_shows_the_subnets_and_addresses_of_both_families(
    tunneld: Tunneld, options: list[str]
) -> None:
    claim(options[0], "10.5.7.0/24,fd00:10:5:7::/64", "192.0.2.7,fd99::7", OWN)
    claim(options[0], "fd00:10:5:9::/64", "fd99::9", OTHER)
    rows = tunneld("leases", *options).out.splitlines()[1:]
    assert sorted(row.split()[:2] for row in rows) == [
        ["10.5.7.0/24,fd00:10:5:7::/64", "192.0.2.7,fd99::7"],
        ["fd00:10:5:9::/64", "fd99::9"],
    ]
    found = json.loads(tunneld("leases", "--json", *options).out)["leases"]
    names = ("subnet", "ipv6_subnet", "public_ip", "public_ipv6", "node_id")
    assert sorted(([entry[name] for name in names] for entry in found), key=str) == [
        ["10.5.7.0/24", "fd00:10:5:7::/64", "192.0.2.7", "fd99::7", OWN],
        [None, "fd00:10:5:9::/64", None, "fd99::9", OTHER],
    ]


def test_network_without_leases_says_so(
    tunneld: Tunneld, options: list[str], tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"Network": "10.5.0.0/16"}')
    assert tunneld("network", "set", config, options[0]).status == 0
    assert tunneld("leases", *options).out == "no leases\n"


@pytest.mark.parametrize("command", [("leases",), ("network", "get"), ("leave",)])
def test_mistyped_store_file_is_named_and_not_made(
    tunneld: Tunneld, options: list[str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    mistyped = tmp_path / "leasse.db"
    rest = [] if command == ("network", "get") else options[1:]
    if command == ("leave",):
        rest += elsewhere(tmp_path)
    outcome = tunneld(*command, f"--store=sqlite:{mistyped}", *rest)
    assert outcome.status == 1
    assert f"there is no store {mistyped}" in outcome.err
    assert not list(tmp_path.glob("leasse.db*"))


@pytest.mark.parametrize("command", [("leases",), ("network", "get")])
@pytest.mark.parametrize("content", [b"", b"[store]\n", b"SQLite format 2"])
def test_file_of_another_kind_is_named_and_stays_as_it_is(
    tunneld: Tunneld, tmp_path: Path, command: tuple[str, ...], content: bytes
) -> None:
    mistyped = tmp_path / "tunneld.toml"
    mistyped.write_bytes(content)
    mistyped.chmod(0o644)
    outcome = tunneld(*command, f"--store=sqlite:{mistyped}")
    assert outcome.status == 1
    assert outcome.err.startswith(f"tunneld: {mistyped} is no store; expected ")
    assert mistyped.read_bytes() == content
    assert mistyped.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [mistyped]


def test_network_is_not_set_into_a_file_of_another_kind_but_into_an_empty_one(
    tunneld: Tunneld, tmp_path: Path
) -> None:
    config, other, empty = (tmp_path / name for name in ("network.json", "notes", "empty"))
    config.write_text('{"Network": "10.5.0.0/16"}')
    other.write_text("mine")
    empty.touch()
    refused = tunneld("network", "set", config, f"--store=sqlite:{other}")
    assert (refused.status, other.read_text()) == (1, "mine")
    assert f"{other} is no store" in refused.err
    assert tunneld("network", "set", config, f"--store=sqlite:{empty}").status == 0
    got = tunneld("network", "get", f"--store=sqlite:{empty}")
    assert got.out == '{"Network": "10.5.0.0/16"}\n'


@pytest.mark.parametrize("command", [("leases",), ("network", "get")])
def test_directory_in_place_of_the_store_is_named(
    tunneld: Tunneld, tmp_path: Path, command: tuple[str, ...]
) -> None:
    outcome = tunneld(*command, f"--store=sqlite:{tmp_path}")
    assert outcome.status == 1
    assert outcome.err.startswith(f"tunneld: {tmp_path} is no store")
    assert list(tmp_path.iterdir()) == []


def test_leave_asks_the_daemon(tunneld: Tunneld, options: list[str], tmp_path: Path) -> None:
    claim(options[0], "10.5.7.0/24", "192.0.2.7", OWN)
    path = tmp_path / "s"
    with daemon(path, leave="left"):
        outcome = tunneld("leave", f"--control-socket={path}", *options)
    assert (outcome.status, outcome.err) == (0, "")
    assert "the daemon gave up its lease" in outcome.out
    assert len(content_of(options[0]).leases) == 1  # it is the daemon's to remove


def test_daemon_that_cannot_leave_says_why(
    tunneld: Tunneld, options: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with daemon(path, leave=StoreUnavailableError("the store is away")):
        outcome = tunneld("leave", f"--control-socket={path}", *options)
    assert (outcome.status, outcome.err) == (1, "tunneld: the store is away\n")


def test_leave_without_a_daemon_removes_lease_and_record(
    tunneld: Tunneld, options: list[str], tmp_path: Path
) -> None:
    claim(options[0], "10.5.9.0/24", "192.0.2.9", OTHER)
    claim(options[0], "10.5.7.0/24", "192.0.2.7", OWN)
    outcome = tunneld("leave", *elsewhere(tmp_path), *options)
    assert (outcome.status, outcome.err) == (0, "")
    left = content_of(options[0])
    assert [lease.key for lease in left.leases] == [key("10.5.9.0/24")]
    assert [record.node_id for record in left.records] == [OTHER]


def test_leave_does_not_give_up_the_lease_of_a_host_that_the_state_directory_is_a_copy_of(
    tunneld: Tunneld, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunneld.cli.leave.machine", lambda: "this machine")
    claim(options[0], "10.5.7.0/24", "192.0.2.7", OWN, machine="another machine")
    outcome = tunneld("leave", *elsewhere(tmp_path), *options)
    assert outcome.status == 1
    assert "is another host's, at 192.0.2.7: the state directory is a copy" in outcome.err
    assert [lease.key for lease in content_of(options[0]).leases] == [key("10.5.7.0/24")]


def test_leave_is_done_although_subnet_env_cannot_be_removed(
    tunneld: Tunneld, options: list[str], tmp_path: Path
) -> None:
    claim(options[0], "10.5.7.0/24", "192.0.2.7", OWN)
    (tmp_path / "subnet.env").mkdir()
    outcome = tunneld(
        "leave",
        f"--control-socket={tmp_path / 's'}",
        f"--subnet-file={tmp_path / 'subnet.env'}",
        *options,
    )
    assert outcome.status == 0
    assert outcome.err.startswith("tunneld: warning: ")
    assert content_of(options[0]).leases == ()


@pytest.mark.parametrize(("subnet", "stays"), [("10.5.7.1/24", False), ("10.5.8.1/24", True)])
def test_leave_without_a_daemon_removes_subnet_env_of_that_lease_only(
    tunneld: Tunneld, options: list[str], tmp_path: Path, subnet: str, stays: bool
) -> None:
    claim(options[0], "10.5.7.0/24", "192.0.2.7", OWN)
    path = tmp_path / "subnet.env"
    path.write_text(
        f"FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={subnet}\n"
        "FLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
    )
    outcome = tunneld(
        "leave", f"--control-socket={tmp_path / 's'}", f"--subnet-file={path}", *options
    )
    assert outcome.status == 0
    assert path.exists() is stays


@pytest.mark.parametrize(
    ("subnets", "public_ips", "content"),
    [
        (
            "10.5.7.0/24,fd00:10:5:7::/64",
            "192.0.2.7,fd99::7",
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.7.1/24\n"
            "FLANNEL_IPV6_NETWORK=fd00:10:5::/48\nFLANNEL_IPV6_SUBNET=fd00:10:5:7::1/64\n",
        ),
        (
            "fd00:10:5:7::/64",
            "fd99::7",
            "FLANNEL_IPV6_NETWORK=fd00:10:5::/48\nFLANNEL_IPV6_SUBNET=fd00:10:5:7::1/64\n",
        ),
    ],
    ids=["dual stack", "IPv6-only"],
)
def test_leave_gives_up_a_lease_with_ipv6_and_its_subnet_env(
    tunneld: Tunneld,
    options: list[str],
    tmp_path: Path,
    subnets: str,
    public_ips: str,
    content: str,
) -> None:
    claim(options[0], "fd00:10:5:9::/64", "fd99::9", OTHER)
    claim(options[0], subnets, public_ips, OWN)
    path = tmp_path / "subnet.env"
    path.write_text(f"{content}FLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n")
    outcome = tunneld("leave", *elsewhere(tmp_path), *options)
    assert (outcome.status, outcome.err) == (0, "")
    assert f"{subnets} is free again" in outcome.out
    assert not path.exists()
    assert {entry.key for entry in content_of(options[0]).leases} == {key("fd00:10:5:9::/64")}


@pytest.mark.parametrize("state", ["no lease", "no node id", "in use"])
def test_leave_that_cannot_be_is_one_line(
    tunneld: Tunneld, options: list[str], tmp_path: Path, state: str
) -> None:
    claim(options[0], "10.5.9.0/24", "192.0.2.9", OTHER)
    arguments = ["leave", *elsewhere(tmp_path), *options]
    if state == "no node id":
        (tmp_path / "state" / "node-id").unlink()
    if state == "in use":
        with StateDir(tmp_path / "state"):
            outcome = tunneld(*arguments)
    else:
        outcome = tunneld(*arguments)
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert {"no lease": OWN, "no node id": "no node id", "in use": "in use by"}[
        state
    ] in outcome.err
    assert len(content_of(options[0]).leases) == 1


def test_status_prints_what_the_daemon_says(tunneld: Tunneld, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with daemon(path, status={"version": "0.1.0", "drops": {"no_route": 3}}):
        outcome = tunneld("status", "--json", "-control-socket", path)
    assert outcome.status == 0
    assert json.loads(outcome.out) == {"version": "0.1.0", "drops": {"no_route": 3}}


def test_status_without_a_daemon_says_where_to_look(tunneld: Tunneld, tmp_path: Path) -> None:
    outcome = tunneld("status", "--control-socket", tmp_path / "s")
    assert outcome.status == 1
    assert outcome.err.startswith(f"tunneld: no daemon answers on {tmp_path / 's'}")
    assert outcome.err.count("\n") == 1
