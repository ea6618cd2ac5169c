"""A namespace with a loopback, and sockets of peers in it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.netns import Namespace, Rig, inside
from tests.native.hosts import TIMEOUT_S, Host, network, udp_socket
from tests.native.keyed import HostMaker, KeyedHost
from tunneld import _native

PeerSocket = Callable[[str], socket.socket]


@pytest.fixture(scope="module")
def space(module_rig: Rig) -> Namespace:
    return module_rig.namespace("native")


@pytest.fixture
def rig_space(rig: Rig) -> Namespace:
    """A namespace of the test's own, whose loopback it may change."""
    return rig.namespace("own")


@pytest.fixture(params=[False, True], ids=["joint", "split"])
def split(request: pytest.FixtureRequest) -> bool:
    """Whether each direction of a worker has a thread of its own: both ways move packets alike."""
    return bool(request.param)


@pytest.fixture
def host(space: Namespace, split: bool) -> Iterator[Host]:
    """Host a, running, in the network of `hosts.network`."""
    with Host(space, network(), split=split) as made:
        yield made


@pytest.fixture
def peer_socket(space: Namespace) -> Iterator[PeerSocket]:
    """Opens UDP sockets of peers, by underlay address."""
    with ExitStack() as opened:

        def open_one(address: str) -> socket.socket:
            with inside(space):
                sock = opened.enter_context(udp_socket(address))
            sock.settimeout(TIMEOUT_S)
            return sock

        yield open_one


@pytest.fixture
def make(space: Namespace, tmp_path: Path, split: bool) -> Iterator[HostMaker]:
    """Makes hosts, with an identity of its own for each number; they are not started."""
    with ExitStack() as made:

        def make_one(number: int, **how: object) -> KeyedHost:
            path = tmp_path / f"identity{number}"
            known = _native.Identity.load if path.exists() else _native.Identity.create
            host = KeyedHost(space, number, known(path), split=split, **how)  # type: ignore[arg-type]
            made.callback(host.close)
            return host

        yield make_one
