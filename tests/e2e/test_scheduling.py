"""The policy of the data threads of a real daemon, as the kernel tells it. Needs root and etcd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testbed.etcd import Etcd
from testbed.process import Process, thread_ids
from testbed.wait import wait_until
from tests.e2e.policies import (
    CONFIG,
    NOBODYS_ADDRESS,
    POLICIES,
    PREFIX,
    policies,
    wait_policy,
)
from tests.e2e.single_host import SingleHost

pytestmark = pytest.mark.root

# Root, without the right to choose the policy of a thread freely.
UNPRIVILEGED = ("setpriv", "--bounding-set", "-sys_nice")


@pytest.fixture(autouse=True)
def _network(etcd: Etcd) -> None:
    etcd.put(f"{PREFIX}/config", CONFIG)


@contextmanager
def idle(daemon: Process) -> Iterator[None]:
    """Has what a daemon starts inherit SCHED_IDLE; its data threads alone keep that."""
    os.sched_setscheduler(daemon.pid, os.SCHED_IDLE, os.sched_param(0))
    yield
    kept = thread_ids(daemon.pid, "tunneld-")
    for thread in set(thread_ids(daemon.pid)).difference(kept):
        os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


@pytest.mark.parametrize("policy", POLICIES)
def test_policy_that_is_asked_for_is_in_force_whatever_the_daemon_has(
    host: SingleHost, policy: str
) -> None:
    daemon = host.space.start(
        *("chrt", "--other" if policy == "batch" else "--batch", "0"),
        *host.run_command("--scheduling", policy, "--workers", "2"),
        log=host.directory / "tunneld.log",
        env=host.environment,
    )
    host.wait_ready()
    # One that has just been started may not have run yet.
    wait_until(lambda: len(thread_ids(daemon.pid, "tunneld-")) >= 2, what="all data threads")
    wait_policy(host, daemon, policy)
    assert os.sched_getscheduler(daemon.pid) != POLICIES[policy]
    text = host.tunneld("status", "--control-socket", str(host.control_socket)).stdout
    assert f", {policy} scheduling\n" in text
    assert daemon.stop() == 0
    assert "WARNING" not in daemon.output()


@pytest.mark.parametrize("asked", ["auto", "batch"])
def test_policy_that_cannot_be_given_is_said_once_and_packets_move(
    host: SingleHost, etcd: Etcd, asked: str
) -> None:
    etcd.delete(f"{PREFIX}/config")
    daemon = host.space.start(
        *UNPRIVILEGED,
        *host.run_command("--scheduling", asked, "--threads", "joint"),
        log=host.directory / "tunneld.log",
        env=host.environment,
    )
    daemon.wait_for_output("no network config")
    # The kernel takes an unprivileged thread out of SCHED_IDLE no more than `nice` could. Only the
    # data threads are to inherit it: beside other tests the daemon would hardly come to start.
    with idle(daemon):
        etcd.put(f"{PREFIX}/config", CONFIG)
        wait_until(lambda: thread_ids(daemon.pid, "tunneld-"), 100.0, "data threads")
    status = host.wait_ready()
    daemon.wait_for_output("the data threads are given no scheduling policy")
    cause = {"auto": "was started under another policy", "batch": "Operation not permitted"}
    assert daemon.output().count(cause[asked]) == 1
    assert policies(daemon) == {os.SCHED_IDLE}
    assert status["backend"]["scheduling"] is None

    host.space.try_run("ping", "-c", "1", "-W", "1", NOBODYS_ADDRESS)
    wait_until(lambda: host.status()["drops"]["no_route"] > 0, what="a packet in the data path")
    assert host.wait_ready()["lease"]
    assert daemon.stop() == 0


def test_nothing_is_said_of_policies_where_the_kernel_moves_the_packets(
    host: SingleHost, etcd: Etcd
) -> None:
    etcd.put(f"{PREFIX}/config", '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}')
    daemon = host.start_daemon("--scheduling", "batch")
    status = host.wait_ready()
    assert status["backend"]["scheduling"] is None
    assert daemon.output().count("--scheduling has no effect") == 1
    assert daemon.stop() == 0
