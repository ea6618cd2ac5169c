"""The policy of a daemon's data threads: as the kernel tells it, and as `status` shows it."""

from __future__ import annotations

import os
from typing import Final

from testbed.process import Process, thread_ids
from testbed.wait import wait_until
from tests.e2e.single_host import SingleHost

POLICIES: Final = {"batch": os.SCHED_BATCH, "normal": os.SCHED_OTHER}

PREFIX: Final = "/coreos.com/network"
CONFIG: Final = '{"Network":"10.5.0.0/16","SubnetMax":"10.5.200.0"}'
NOBODYS_ADDRESS: Final = "10.5.254.1"
"""No subnet of that network can have it."""


def policies(daemon: Process) -> set[int]:
    """Returns the policies of its data threads."""
    threads = thread_ids(daemon.pid, "tunneld-")
    assert threads
    return {os.sched_getscheduler(thread) for thread in threads}


def wait_policy(host: SingleHost, daemon: Process, policy: str) -> None:
    def is_in_force() -> bool:
        is_shown = host.status()["backend"]["scheduling"] == policy
        return is_shown and policies(daemon) == {POLICIES[policy]}

    # Holds grow where a virtual machine stands still in between.
    wait_until(is_in_force, 60.0, f"{policy} scheduling")
