"""Fixtures that every folder shares. Everything they make is gone after the test."""

from __future__ import annotations

import gc
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from testbed import leftovers
from testbed.install import install_below
from testbed.netns import Rig

pytest_plugins = ("tests.support.ending", "tests.support.figures", "tests.support.store_fixtures")

ROOT_TOOLS = ("ip", "nsenter", "nft", "tcpdump", "ping", "iperf3", "etcd", "etcdctl")

# A case's time, or that of making one up, says nothing on a machine that also runs the root tests.
UNHURRIED = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", UNHURRIED)
settings.register_profile("fuzz", UNHURRIED, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_sessionstart() -> None:
    leftovers.remove_all()


def pytest_collection_finish() -> None:
    # What was loaded and collected stays to the end; the collector need not look at it each time.
    gc.freeze()


@pytest.fixture(scope="session")
def root_tools() -> None:
    """Fails, instead of skipping, where a root test cannot run."""
    if os.geteuid() != 0:
        pytest.fail("this test makes network namespaces: run it as root")
    missing = [tool for tool in ROOT_TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.fail(f"missing on the PATH: {', '.join(missing)}; `make setup` installs them")


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    """Leaves the process's logging as it was."""
    root, own = logging.getLogger(), logging.getLogger("tunneld")
    handlers, levels = list(root.handlers), (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.level, own.level = levels
    logging.captureWarnings(False)


@pytest.fixture
def rig(root_tools: None, tmp_path: Path) -> Iterator[Rig]:
    """Namespaces for one test."""
    with Rig("rig", tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def module_rig(root_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Namespaces for all tests of a module."""
    with Rig("mod", tmp_path_factory.mktemp("rig")) as made:
        yield made


@pytest.fixture(scope="session")
def installed(root_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install` puts on a host, below a directory: the DESTDIR."""
    destination = tmp_path_factory.mktemp("installed")
    install_below(destination)
    return destination
