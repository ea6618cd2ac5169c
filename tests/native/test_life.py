"""Start, pause, end, and the signs of life in between."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from testbed.netns import Namespace
from testbed.wait import wait_until
from tests.native.conftest import PeerSocket
from tests.native.hosts import TIMEOUT_S, Host, engine_on_tun, network, over_ipv4, pause
from tests.native.packets import inner
from tunneld import _native
from tunneld.errors import EngineError

NAMES = {False: ["tunneld-both0"], True: ["tunneld-out0", "tunneld-in0"]}
"""By whether each direction has a thread of its own."""


def thread_names() -> set[str]:
    names = set()
    for path in Path("/proc/self/task").glob("*/comm"):
        # One that was listed may have ended since.
        with suppress(FileNotFoundError, ProcessLookupError):
            names.add(path.read_text().strip())
    return names


def test_descriptors_must_make_whole_workers() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far, pytest.raises(EngineError, match="2 TUN queues and UDP sockets for 1 workers"):
        _native.Engine(
            tun_fds=[near.fileno(), near.fileno()],
            underlay=[over_ipv4(near)],
            icmp_fd=far.fileno(),
            icmp6_fd=None,
            split=False,
        )
    with pytest.raises(EngineError, match="0 TUN queues and UDP sockets for 0 w"):
        _native.Engine(tun_fds=[], underlay=[], icmp_fd=None, icmp6_fd=None, split=False)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far, pytest.raises(EngineError, match="no UDP socket for worker 0"):
        _native.Engine(
            tun_fds=[near.fileno()],
            underlay=[over_ipv4()],
            icmp_fd=None,
            icmp6_fd=None,
            split=False,
        )


@pytest.mark.parametrize("role", ["TUN", "UDP", "ICMP", "ICMPv6"])
@pytest.mark.parametrize("number", [-1, 1_000_000])
def test_a_bad_descriptor_is_named_with_its_role(role: str, number: int) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far, pytest.raises(EngineError, match=f"{role} descriptor {number} "):
        _native.Engine(
            tun_fds=[number if role == "TUN" else near.fileno()],
            underlay=[over_ipv4(near, number if role == "UDP" else near.fileno())],
            icmp_fd=number if role == "ICMP" else far.fileno(),
            icmp6_fd=number if role == "ICMPv6" else far.fileno(),
            split=False,
        )


def test_threads_have_names_and_end_with_the_engine(host: Host, split: bool) -> None:
    wait_until(lambda: set(NAMES[split]) <= thread_names())
    host.engine.stop()
    # The kernel lists a thread for a moment after it can be joined.
    wait_until(lambda: not set(NAMES[split]) & thread_names())
    assert not any(beat["alive"] for beat in host.engine.heartbeat())
    assert host.engine.drain_events() == []


def test_a_thread_tells_its_number_in_the_kernel(host: Host, split: bool) -> None:
    def names() -> list[str]:
        tasks = Path("/proc/self/task")
        numbers = [beat["thread_id"] for beat in host.engine.heartbeat()]
        return [(tasks / str(number) / "comm").read_text().strip() for number in numbers if number]

    wait_until(lambda: names() == NAMES[split])


def test_heartbeats_rise_without_traffic_and_while_paused(host: Host, split: bool) -> None:
    def all_beat_after(before: list[_native.Heartbeat]) -> bool:
        pairs = zip(before, host.engine.heartbeat(), strict=True)
        return all(new["beats"] > old["beats"] and new["alive"] for old, new in pairs)

    start = host.engine.heartbeat()
    duties = ["outbound", "inbound"] if split else ["both"]
    assert [(beat["worker"], beat["duty"]) for beat in start] == [(0, duty) for duty in duties]
    wait_until(lambda: all_beat_after(start), what="a beat of every thread")
    host.engine.pause()
    paused = host.engine.heartbeat()
    wait_until(lambda: all_beat_after(paused), what="a beat of every paused thread")


def test_an_engine_starts_once_and_stops_as_often_as_it_is_told(host: Host) -> None:
    with pytest.raises(EngineError, match="it is running"):
        host.engine.start()
    host.engine.stop()
    host.engine.stop()
    with pytest.raises(EngineError, match="it is stopped"):
        host.engine.start()
    with pytest.raises(EngineError, match="it is stopped"):
        host.engine.commit({})


def test_counters_and_digest_answer_after_the_end(host: Host, peer_socket: PeerSocket) -> None:
    peer_socket("127.0.0.2")
    host.write(inner("10.5.1.2", "10.5.2.2"))
    host.wait_for_traffic("b", "tx_packets", 1)
    host.engine.stop()
    assert host.traffic("b")["tx_packets"] == 1
    assert host.engine.digest()["generation"] == 1


def test_an_engine_that_was_never_started_stops(space: Namespace) -> None:
    host = Host(space)
    host.engine.stop()
    host.device.close()
    assert [beat["alive"] for beat in host.engine.heartbeat()] == [False]


def test_the_descriptors_are_let_go_at_the_end(space: Namespace) -> None:
    def links() -> str:
        return space.run("ip", "-o", "link")

    engine = engine_on_tun(space, "tun7")
    engine.start()
    assert "tun7" in links()
    engine.stop()
    assert "tun7" not in links()


def test_a_device_that_vanishes_ends_its_thread_with_an_event(
    space: Namespace, split: bool
) -> None:
    engine = engine_on_tun(space, "tun8", split=split)
    engine.start()
    space.run("ip", "link", "delete", "tun8")
    assert select.select([engine.event_fd], [], [], TIMEOUT_S)[0]
    [event] = engine.drain_events()
    assert event["kind"] == "worker_ended"
    assert event["detail"].startswith("outbound thread of w" if split else "thread of worker 0: ")
    assert not select.select([engine.event_fd], [], [], 0)[0]
    assert [beat["alive"] for beat in engine.heartbeat()] == ([False, True] if split else [False])
    engine.stop()


def test_a_pause_leaves_what_comes_to_the_kernel(host: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket("127.0.0.2")
    pause(host.engine)
    peer.sendto(inner("10.5.2.2", "10.5.1.2"), ("127.0.0.1", 8285))
    host.write(inner("10.5.1.2", "10.5.2.2"))
    assert not select.select([host.device, peer], [], [], 0.3)[0]
    host.engine.resume()
    assert host.read()
    assert peer.recv(2000)


def test_a_dropped_engine_leaves_no_thread(space: Namespace, split: bool) -> None:
    host = Host(space, network(), split=split)
    host.engine.start()
    wait_until(lambda: set(NAMES[split]) <= thread_names())
    host.device.close()
    del host
    wait_until(lambda: not set(NAMES[split]) & thread_names())
