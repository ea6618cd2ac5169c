"""Data threads beside programs that hold all processors. Needs root, etcd, and nobody else at work.

Tests that run at the same time sleep and wake all the time, and each of that gives a batch thread a
turn: then nobody is held up, and batch is right.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testbed.etcd import Etcd
from tests.e2e.policies import CONFIG, NOBODYS_ADDRESS, PREFIX, wait_policy
from tests.e2e.single_host import SingleHost

pytestmark = pytest.mark.root


@contextmanager
def busy_processors(host: SingleHost) -> Iterator[None]:
    """Holds every processor, and one thing more, and lets packets for nobody wait for them."""
    count = len(os.sched_getaffinity(0)) + 1
    programs = [host.space.start(sys.executable, "-c", "while True: pass") for _ in range(count)]
    programs.append(host.space.start("ping", "-q", "-i", "0.01", NOBODYS_ADDRESS))
    try:
        yield
        assert {program.exit_status for program in programs} == {None}
    finally:
        for program in programs:
            program.kill()


def test_batch_gives_way_to_normal_while_other_programs_hold_all_processors(
    host: SingleHost, etcd: Etcd
) -> None:
    etcd.put(f"{PREFIX}/config", CONFIG)
    daemon = host.start_daemon()
    host.wait_ready()
    wait_policy(host, daemon, "batch")
    with busy_processors(host):
        wait_policy(host, daemon, "normal")
        assert "policy=normal" in daemon.output()
        assert "for a processor and ran" in daemon.output()
    wait_policy(host, daemon, "batch")
    assert "policy=batch" in daemon.output()
    assert daemon.stop() == 0
