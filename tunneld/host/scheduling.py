"""The scheduling of this process's threads: what each had of the processors, and its policy.

Neither policy here needs a privilege, and neither changes what `nice` says.

Source: Linux Documentation/scheduler/sched-stats.rst (/proc/PID/schedstat), sched(7),
sched_setscheduler(2).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tunneld.errors import HostError

Policy = Literal["batch", "normal"]

_NUMBERS: Final[dict[Policy, int]] = {"batch": os.SCHED_BATCH, "normal": os.SCHED_OTHER}
_POLICIES: Final[dict[int, Policy]] = {number: policy for policy, number in _NUMBERS.items()}

_TASKS: Final = Path("/proc/self/task")
_SCHEDSTAT: Final = re.compile(r"([0-9]+) ([0-9]+) ([0-9]+)\b")

_OTHERWISE: Final = "; or choose yourself: --scheduling=batch or --scheduling=normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimes:
    """What a thread has had of the processors, since it began or in some time."""

    ran_ns: int
    waited_ns: int
    """Time in which it was ready to run, and others ran."""
    slices: int
    """How often it was given a processor."""

    def since(self, earlier: RunTimes) -> RunTimes:
        """Returns what has come since an earlier reading."""
        return RunTimes(
            ran_ns=self.ran_ns - earlier.ran_ns,
            waited_ns=self.waited_ns - earlier.waited_ns,
            slices=self.slices - earlier.slices,
        )


def run_times(thread_id: int, tasks: Path = _TASKS) -> RunTimes | None:
    """Returns what a thread of this process has had so far; None: it has ended.

    Raises:
        HostError: the kernel does not count it, or does not tell.
    """
    path = tasks / str(thread_id) / "schedstat"
    try:
        return parse_run_times(path.read_bytes().decode("ascii", "replace"), path)
    except ProcessLookupError:
        return None
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.parent.exists():
            return None
        raise HostError(
            f"cannot read {path}: {error.strerror}; expected /proc of a kernel with"
            f" CONFIG_SCHED_INFO{_OTHERWISE}"
        ) from error


def parse_run_times(text: str, path: Path) -> RunTimes:
    """Returns what a schedstat file says.

    Raises:
        HostError: it is not in the kernel's form, or the kernel counts nothing: a thread that is
            known was given a processor once at least.
    """
    found = _SCHEDSTAT.match(text)
    if found is None:
        raise HostError(
            f"{path} says {text[:80]!r}; expected three numbers, as Linux has them{_OTHERWISE}"
        )
    ran_ns, waited_ns, slices = map(int, found.groups())
    if slices == 0:
        raise HostError(
            f"{path} says {text.strip()!r}, so the kernel does not count how long threads wait;"
            " expected CONFIG_SCHEDSTATS, or CONFIG_TASK_DELAY_ACCT with"
            f" `sysctl kernel.task_delayacct=1`{_OTHERWISE}"
        )
    return RunTimes(ran_ns=ran_ns, waited_ns=waited_ns, slices=slices)


def policy_of(thread_id: int) -> Policy | Literal["other"] | None:
    """Returns a thread's policy; None: it has ended, or the system does not tell."""
    try:
        return _POLICIES.get(os.sched_getscheduler(thread_id), "other")
    except OSError:
        return None


def make_nicer(thread_id: int, by: int) -> None:
    """Gives a thread less of busy processors than it has; one that has ended is passed over.

    Raises:
        HostError: the kernel, or a filter of system calls, refuses.
    """
    try:
        # Linux has the value by thread (setpriority(2), C library/kernel differences).
        nice = os.getpriority(os.PRIO_PROCESS, thread_id)
        os.setpriority(os.PRIO_PROCESS, thread_id, nice + by)
    except ProcessLookupError:
        return
    except OSError as error:
        raise HostError(
            f"cannot make thread {thread_id} nicer by {by}: {error.strerror}; expected "
            "setpriority(2) to be allowed by the unit's SystemCallFilter= or the container's "
            "seccomp profile"
        ) from error


def set_policy(thread_id: int, policy: Policy) -> None:
    """Gives a thread a policy; one that has ended is passed over.

    Raises:
        HostError: the kernel, or a filter of system calls, refuses.
    """
    try:
        os.sched_setscheduler(thread_id, _NUMBERS[policy], os.sched_param(0))
    except ProcessLookupError:
        return
    except OSError as error:
        raise HostError(
            f"cannot give thread {thread_id} the scheduling policy {policy}: {error.strerror};"
            " expected sched_setscheduler(2) to be allowed by the unit's SystemCallFilter= or the"
            " container's seccomp profile; or give --scheduling=normal"
        ) from error
