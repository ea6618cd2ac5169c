"""What an engine's keys need of the daemon: peers to begin with, clocks watched, a list kept."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.support.stores import until
from tests.unit.daemon.test_protection import KEYED, PLAIN, Host, config
from tests.unit.trust.values import key
from tunneld.daemon.keying import Keying
from tunneld.daemon.protection import Protection
from tunneld.engine import EngineEvent
from tunneld.fib.plan import Members
from tunneld.fib.state import EngineState, IdentityEndpoint
from tunneld.lease.model import IPNetwork
from tunneld.trust.secrets import Psks

THERE = str(key(3))
OWN = IPv4Network("10.5.1.0/24")
AT = IdentityEndpoint(endpoint=None, port=8286, instance=None)


class Engine:
    """Stands in for the engine: writes down what it is told, and answers whom the test says."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.told: list[object] = []
        self.answers: dict[str, Keying] = {}
        self.thread: int | None = None

    async def observe(self) -> EngineState:
        return EngineState(identities=dict.fromkeys(self.known, AT))

    def set_claim(self, subnets: Sequence[IPNetwork]) -> None:
        self.told.append(list(subnets))

    def set_psks(self, psks: Psks | None) -> None:
        self.told.append(psks)

    def forget_keys(self) -> None:
        self.told.append("forget")

    def connect(self, key: str) -> None:
        self.told.append(key)
        if key in self.answers:
            self.answers[key].take(event("keys_confirmed", key, "10.5.3.0/24"))

    def keying_thread(self) -> int | None:
        return self.thread


def event(kind: str, of: str | None, *claim: str) -> EngineEvent:
    return EngineEvent(
        kind=kind,
        adjacency=None,
        size_bytes=None,
        path_mtu_bytes=None,
        token=None,
        path=None,
        detail="",
        key=of,
        claim=claim,
        packets=7,
    )


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.state_dir.close()


def keying(
    host: Host, engine: Engine, protection: Protection, own: Collection[IPNetwork] = ()
) -> Keying:
    return Keying(
        engine,
        protection,
        host.state_dir,
        own=lambda: own,
        subnets_of=lambda _key: [OWN],
        now=lambda: host.now,
    )


def run_until(one: Keying, is_done: Callable[[], bool]) -> None:
    """Lets it work until that holds."""

    async def main() -> None:
        running = asyncio.create_task(one.run())
        await until(is_done)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_the_own_subnets_are_claimed_and_again_only_when_they_change(host: Host) -> None:
    engine = Engine()
    own: set[IPNetwork] = set()
    one = keying(host, engine, host.preferred(), own)
    for _ in range(2):
        one.follow_own()
    own.add(OWN)
    for _ in range(2):
        one.follow_own()
    assert engine.told == [[], [OWN]]


def test_events_about_keys_are_taken_and_no_others(host: Host) -> None:
    protection = host.preferred()
    protection.verdicts(Members(peers=(KEYED,)))
    one = keying(host, Engine(), protection)
    assert one.take(event("keys_confirmed", THERE, "10.5.3.0/24"))
    assert protection.claims.keys() == {THERE}
    assert one.take(event("keys_lost", THERE))
    assert protection.claims.keys() == frozenset()
    assert not one.take(event("path_mtu", None))
    assert not one.take(event("something", THERE))


def test_a_peer_that_answers_nothing_is_named_by_its_subnet(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    one = keying(host, Engine(), host.preferred())

    async def main() -> None:
        assert one.take(event("handshake_given_up", THERE))

    with caplog.at_level(logging.WARNING, "tunneld"):
        asyncio.run(main())
    (line,) = [entry for entry in caplog.records if "answers no handshake" in entry.getMessage()]
    assert line.__dict__["fields"]["peer"] == str(OWN)
    assert line.__dict__["fields"]["count"] == 7


def test_a_start_agrees_with_whom_it_was_in_agreement_with_before(host: Host) -> None:
    protection = host.preferred()
    engine = Engine(THERE)
    one = keying(host, engine, protection)
    asyncio.run(one.meet_former())
    assert engine.told == [], "nobody is waited for at the first start"
    one.take(event("keys_confirmed", THERE, "10.5.3.0/24"))
    one.close()
    assert protection.claims.keys() == frozenset(), "the keys are gone with the engine"
    written = json.loads((host.path / "agreed.json").read_text())
    assert written["Keys"] == [THERE]

    engine = Engine(THERE, "another")
    one = engine.answers[THERE] = keying(host, engine, host.preferred())
    asyncio.run(one.meet_former())
    assert engine.told == [THERE]
    # Of one that is trusted no more nothing is wanted.
    engine = Engine("another")
    asyncio.run(keying(host, engine, host.preferred()).meet_former())
    assert engine.told == []


def test_a_former_peer_that_is_gone_holds_a_start_up_for_a_while_only(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunneld.daemon.keying.MEET_S", 0.05)
    host.state_dir.save("agreed", {"Format": 1, "Keys": [THERE]})
    engine = Engine(THERE)
    one = keying(host, engine, host.preferred())
    asyncio.run(one.meet_former())
    assert engine.told == [THERE]
    one.close()
    assert THERE in (host.path / "agreed.json").read_text(), "it may have been slow alone"
    one = keying(host, engine, host.preferred())
    one.take(event("keys_lost", THERE))
    one.close()
    assert THERE not in (host.path / "agreed.json").read_text()


@pytest.mark.parametrize("written", [None, [], {"Keys": 7}, {"Keys": [7]}])
def test_a_list_that_cannot_be_read_is_none(host: Host, written: object) -> None:
    host.state_dir.save("agreed", written)
    engine = Engine(THERE)
    asyncio.run(keying(host, engine, host.preferred()).meet_former())
    assert engine.told == []


def test_who_was_agreed_with_is_written_down_also_for_a_daemon_that_is_killed(host: Host) -> None:
    one = keying(host, Engine(), host.preferred())
    one.take(event("keys_confirmed", THERE, "10.5.3.0/24"))
    run_until(one, (host.path / "agreed.json").exists)
    assert THERE in (host.path / "agreed.json").read_text()


@pytest.mark.parametrize(("step_s", "forgets"), [(2.5, True), (-3600.0, True), (1.5, False)])
def test_keys_are_forgotten_when_the_clock_has_been_set(
    host: Host, monkeypatch: pytest.MonkeyPatch, step_s: float, *, forgets: bool
) -> None:
    monkeypatch.setattr("tunneld.daemon.keying.TICK_S", 0.001)
    engine = Engine()
    looks: list[None] = []

    def thread() -> None:
        looks.append(None)
        if len(looks) == 3:  # time passes alike on both clocks, then one is set
            host.passes(hours=1)
        if len(looks) == 5:
            host.now = replace(host.now, wall_s=host.now.wall_s + step_s)

    engine.keying_thread = thread  # type: ignore[method-assign]
    run_until(keying(host, engine, host.preferred()), lambda: len(looks) > 8)
    assert engine.told == (["forget"] if forgets else [])


def test_whoever_is_plain_until_keys_are_agreed_is_begun_with_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunneld.daemon.keying.TICK_S", 0.001)
    protection = host.start()
    protection.adopt(config(None))
    protection.verdicts(Members(peers=(PLAIN,)))
    protection.close()
    protection = host.preferred()
    assert protection.verdicts(Members(peers=(KEYED,)))[SUBNET].reason == "switching"
    engine = Engine()
    one = keying(host, engine, protection)
    looks: list[None] = []

    def thread() -> None:
        looks.append(None)
        if len(looks) == 3:
            assert engine.told == [], "the engine does not know it yet"
            engine.known.add(THERE)

    engine.keying_thread = thread  # type: ignore[method-assign]
    run_until(one, lambda: len(looks) > 8)
    assert engine.told == [THERE]
    changes: list[None] = []

    def judge() -> None:
        changes.append(None)
        protection.verdicts(Members(peers=(KEYED,)))

    protection.on_change = judge
    host.passes(hours=10 / 3600)
    run_until(one, lambda: bool(changes))
    assert protection.claims.verdicts[SUBNET].way == "encrypted"
    assert changes == [None]


SUBNET = IPv4Network("10.5.3.0/24")


def test_psks_that_were_read_again_are_the_engines(host: Host) -> None:
    engine = Engine()
    protection = host.preferred()
    protection.on_psks = keying(host, engine, protection).take_psks
    protection.reload()
    assert engine.told == [protection.psks]


def test_the_thread_that_agrees_keys_is_nicer_than_the_others(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunneld.daemon.keying.TICK_S", 0.001)
    engine = Engine()
    over = threading.Event()
    started = threading.Event()

    def agree() -> None:
        engine.thread = threading.get_native_id()
        started.set()
        over.wait()

    thread = threading.Thread(target=agree)
    thread.start()
    started.wait()
    before = os.getpriority(os.PRIO_PROCESS, 0)

    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, engine.thread or 0)

    try:
        looks: list[int] = []

        def thread_id() -> int | None:
            looks.append(nice())
            return engine.thread

        engine.keying_thread = thread_id  # type: ignore[method-assign]
        run_until(keying(host, engine, host.preferred()), lambda: len(looks) > 3)
        assert looks[:4] == [before, before + 5, before + 5, before + 5]
        assert os.getpriority(os.PRIO_PROCESS, 0) == before
    finally:
        over.set()
        thread.join()
