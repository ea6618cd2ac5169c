"""Makes, joins and removes network namespaces, and runs programs inside them.

Acts on namespaces it is given by name and on the processes inside them, on nothing else.
Source: ip-netns(8).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tunneld.errors import LabError

_END_TIMEOUT_S = 30.0


def run(*argv: str, stdin: str = "", timeout_s: float = 90.0) -> str:
    """Runs a program to its end; returns its stdout.

    Raises:
        LabError: it is not installed, took too long, or ended with something else than 0.
    """
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError as error:
        msg = f"lab: {argv[0]} is not installed; `make setup` installs what the lab needs"
        raise LabError(msg) from error
    except subprocess.TimeoutExpired as error:
        msg = f"lab: {' '.join(argv)} did not end within {timeout_s:g} s"
        raise LabError(msg) from error
    if done.returncode != 0:
        said = " | ".join((done.stderr or done.stdout).split("\n")).strip(" |")
        msg = f"lab: {' '.join(argv)} ended with {done.returncode}: {said}"
        raise LabError(msg)
    return done.stdout


def inside(namespace: str, *argv: str) -> tuple[str, ...]:
    """Returns the command line that runs `argv` in a namespace."""
    return ("ip", "netns", "exec", namespace, *argv)


def start(
    namespace: str, *argv: str, log: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a program in a namespace, in a session of its own; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        return subprocess.Popen(
            inside(namespace, *argv),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env=None if env is None else dict(env),
        )


def existing(prefix: str) -> list[str]:
    """Returns the namespaces whose names begin with `prefix`."""
    lines = run("ip", "netns", "list").splitlines()
    return [name for line in lines if (name := line.split()[0]).startswith(prefix)]


def create(namespace: str) -> None:
    """Makes a namespace with its loopback up and IPv6 off on what comes into it.

    Without IPv6 no neighbour discovery mixes with the traffic that a capture judges.
    """
    run("ip", "netns", "add", namespace)
    run("ip", "-n", namespace, "link", "set", "lo", "up")
    sysctl(namespace, "net/ipv6/conf/default/disable_ipv6", 1)


def sysctl(namespace: str, name: str, value: int) -> None:
    """Sets a sysctl, given with slashes, in a namespace."""
    run(*inside(namespace, "tee", f"/proc/sys/{name}"), stdin=str(value))


def bridge(namespace: str, device: str, address: str | None, mtu_bytes: int) -> None:
    """Makes a bridge, without multicast snooping, which sends IGMP of its own."""
    kind = ("type", "bridge", "mcast_snooping", "0")
    run("ip", "-n", namespace, "link", "add", device, "mtu", str(mtu_bytes), *kind)
    if address is not None:
        add_address(namespace, device, address)
    run("ip", "-n", namespace, "link", "set", device, "up")


def plug(
    namespace: str,
    device: str,
    address: str | None,
    *,
    to: tuple[str, str],
    port: str,
    mtu_bytes: int,
) -> None:
    """Joins `device` in `namespace` by a veth pair to the bridge `to`: (namespace, name)."""
    port_namespace, bridge_name = to
    mtu = ("mtu", str(mtu_bytes))
    run(
        *("ip", "link", "add", device, "netns", namespace, *mtu),
        *("type", "veth", "peer", "name", port, "netns", port_namespace, *mtu),
    )
    run("ip", "-n", port_namespace, "link", "set", port, "master", bridge_name, "up")
    if address is not None:
        add_address(namespace, device, address)
    run("ip", "-n", namespace, "link", "set", device, "up")


def add_address(namespace: str, device: str, address: str) -> None:
    """Gives a device an address, usable at once; the first of IPv6 switches IPv6 on there."""
    if ":" in address:
        # Nobody else has the lab's addresses: to look for doubles would only take its second.
        sysctl(namespace, f"net/ipv6/conf/{device}/accept_dad", 0)
        sysctl(namespace, f"net/ipv6/conf/{device}/disable_ipv6", 0)
    run("ip", "-n", namespace, "address", "add", address, "dev", device)


def pids(namespace: str) -> list[int]:
    """Returns the processes inside a namespace."""
    return [int(pid) for pid in run("ip", "netns", "pids", namespace).split()]


def end_processes(namespace: str) -> None:
    """Asks what runs in a namespace to end, then makes it.

    Raises:
        LabError: something survived even SIGKILL.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids(namespace):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        if became_true(lambda: not pids(namespace), _END_TIMEOUT_S):
            return
    msg = f"lab: processes {pids(namespace)} in {namespace} do not end"
    raise LabError(msg)


def delete(namespace: str) -> None:
    """Removes an empty namespace with all its devices."""
    run("ip", "netns", "delete", namespace)


def became_true(predicate: Callable[[], bool], timeout_s: float, poll_s: float = 0.05) -> bool:
    """Waits for a condition; returns whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Ends our own children with SIGTERM (SIGKILL after 30 s); returns their exit statuses."""
    for process in processes:
        process.terminate()
    statuses = []
    for process in processes:
        try:
            statuses.append(process.wait(_END_TIMEOUT_S))
        except subprocess.TimeoutExpired:
            process.kill()
            statuses.append(process.wait())
    return statuses
