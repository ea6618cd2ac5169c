"""Booted hosts with tunneld as `make install` put it there, enabled as an operator would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from testbed.booted import BootedNetwork, configure, wait_connected
from testbed.netns import Rig

MakeNetwork = Callable[..., AbstractContextManager[BootedNetwork]]


@pytest.fixture(scope="session")
def network_of(
    root_tools: None, installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> MakeNetwork:
    """Makes networks of configured hosts that are not booted yet, and no store."""

    @contextmanager
    def make(*names: str) -> Iterator[BootedNetwork]:
        with Rig("systemd", tmp_path_factory.mktemp("systemd")) as rig:
            network = BootedNetwork(rig, installed=installed)
            try:
                for name in names:
                    configure(network.add(name))
                yield network
            finally:
                network.shut_down()

    return make


@pytest.fixture(scope="module")
def booted(network_of: MakeNetwork) -> Iterator[BootedNetwork]:
    """Two booted hosts whose containers reach each other."""
    with network_of("a", "b") as network:
        network.start_store()
        for host in network.hosts:
            host.machine.boot()
        first, second = network.hosts
        wait_connected(first, second)
        wait_connected(second, first)
        yield network
