"""`make run`: ends with 0, leaves nothing, twice in a row and after a SIGKILL in the middle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.netns import run
from testbed.process import Process
from testbed.wait import wait_until
from tunneld.lab import namespaces
from tunneld.lab.topology import ROOT as LAB_ROOT

pytestmark = pytest.mark.root

TREE = Path(__file__).parents[2]


def make_run(name: str, *variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "run", f"LAB={name}", *variables],
        cwd=TREE,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def machine() -> dict[str, str]:
    """Returns what a lab could leave in the machine's own network namespace."""
    return {
        "rules": run("nft", "list", "ruleset"),
        "policies": run("ip", "rule", "show"),
        "routes": run("ip", "route", "show", "table", "main"),
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
    }


def processes_of(name: str) -> list[int]:
    """Returns the processes whose command line names the lab's namespaces or directory."""
    marks = (f"tnl-{name}-".encode(), f"{LAB_ROOT}/{name}/".encode())
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(mark in line for mark in marks):
            found.append(int(entry.name))
    return found


@pytest.fixture
def leaves_nothing(lab_name: str) -> Iterator[Callable[[], None]]:
    """Returns a check that nothing of the lab is left on this machine."""
    before = machine()

    def check() -> None:
        assert namespaces.existing(f"tnl-{lab_name}-") == []
        assert processes_of(lab_name) == []
        assert not (LAB_ROOT / lab_name).exists()
        assert not (LAB_ROOT / f"{lab_name}.lock").exists()
        assert machine() == before

    yield check
    check()


def assert_passed(
    done: subprocess.CompletedProcess[str],
    hosts: int,
    *,
    families: str = "4",
    backend: str = "udp (userspace)",
    counted: str = "tx and rx above 0 for all {pairs} peers, no drops",
    wire: str = "UDP 8285",
    cipher: str = "",
) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    for number in range(1, hosts + 1):
        assert f"│ h{number} " in said, "the drawing shows every host"
    pairs = hosts * (hosts - 1)
    assert said.count(": 3 of 3 answered") == pairs * len(families)
    assert said.count("Mbit/s (one TCP stream") == len(families)
    for family in families:
        assert f"Mbit/s (one TCP stream, IPv{family}, " in said
    assert f"backend:  {backend}, device " in said, "tunneld status is shown"
    assert f"counters: {counted.format(pairs=pairs)}" in said
    assert f"overlay traffic was {wire} only" in said
    assert "left behind: no namespace, no process, no rule, no file" in said
    if cipher:
        assert re.search(rf"keys: every peer is reached under keys \({cipher} by [a-z-]+\)", said)
        readable = re.search(
            r"plain text: in 0 packets .* without encryption it was in (\d+)", said
        )
        # Each ping and its answer, of which three go each way.
        assert readable
        assert int(readable[1]) == 2 * 3 * pairs * len(families)
        assert said.count("in plain ") == len(families), "the rate beside plain"


def test_make_run_passes_twice_in_a_row(lab_name: str, leaves_nothing: Callable[[], None]) -> None:
    for _ in range(2):
        assert_passed(make_run(lab_name), 2)
        leaves_nothing()


def test_make_run_passes_with_three_hosts_on_a_real_etcd(
    lab_name: str, leaves_nothing: Callable[[], None]
) -> None:
    done = make_run(lab_name, "HOSTS=3", "STORE=etcd")
    assert_passed(done, 3)
    assert "store:    etcd" in done.stdout


VXLAN = "VXLAN on UDP 8472"
ESP = "ESP on UDP 8286"
BY_KERNEL = "the kernel moves the packets of all {pairs} peers, and counts none"
# Each value of each variable; the networks themselves are those of the other modules.
VARIANTS: dict[str, dict[str, str]] = {
    "BACKEND=udp IPV6=only": {"families": "6"},
    "BACKEND=vxlan IPV6=only": {"families": "6", "backend": "vxlan (userspace)", "wire": VXLAN},
    "BACKEND=vxlan IPV6=1": {"families": "46", "backend": "vxlan (userspace)", "wire": VXLAN},
    "BACKEND=vxlan IPV6=only DATAPATH=kernel STORE=etcd": {
        "families": "6",
        "backend": "vxlan (kernel)",
        "wire": VXLAN,
        "counted": BY_KERNEL,
    },
    "BACKEND=host-gw IPV6=1": {
        "families": "46",
        "backend": "host-gw (kernel)",
        "wire": "plain packets",
        "counted": BY_KERNEL,
    },
    "ENCRYPTION=required IPV6=1": {"families": "46", "wire": ESP, "cipher": "[a-z0-9-]+"},
    "BACKEND=vxlan ENCRYPTION=preferred CIPHER=chacha20-poly1305 IPV6=only STORE=etcd": {
        "families": "6",
        "backend": "vxlan (userspace)",
        "wire": ESP,
        "cipher": "chacha20-poly1305",
    },
}


@pytest.mark.parametrize("variables", VARIANTS)
def test_make_run_passes_with_each_backend_family_and_data_path(
    lab_name: str, leaves_nothing: Callable[[], None], variables: str
) -> None:
    assert_passed(make_run(lab_name, *variables.split()), 2, **VARIANTS[variables])


# The client begins once a file is gone: only then the job can come to its end.
HELD_IPERF3 = """\
#!/bin/sh
case "$*" in *-c*) while [ -e {hold} ]; do sleep 0.1; done ;; esac
PATH="{path}" exec iperf3 "$@"
"""


def lab_run(name: str, directory: Path) -> tuple[Process, Path]:
    """Starts the main job and returns once traffic flows; it goes on when the file is removed."""
    hold, program = directory / "hold", directory / "bin/iperf3"
    hold.touch()
    program.parent.mkdir()
    program.write_text(HELD_IPERF3.format(hold=hold, path=os.environ["PATH"]))
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    job = Process(
        [str(TREE / ".venv/bin/tunneld"), "lab", "run", "--name", name],
        directory / "run.log",
        {**os.environ, "PATH": path},
    )
    job.wait_for_output("pinging from every container", 60.0)
    assert processes_of(name) != []
    return job, hold


def test_make_run_passes_after_a_sigkill_in_the_middle(
    lab_name: str, leaves_nothing: Callable[[], None], tmp_path: Path
) -> None:
    job, _ = lab_run(lab_name, tmp_path)
    job.kill()
    assert namespaces.existing(f"tnl-{lab_name}-") != [], "SIGKILL leaves no time to clean up"
    assert_passed(make_run(lab_name), 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_the_lab_down(
    lab_name: str,
    leaves_nothing: Callable[[], None],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    job, _ = lab_run(lab_name, tmp_path)
    job.signal(number)
    assert job.wait(30.0) == 128 + number
    leaves_nothing()


def test_lab_down_removes_what_a_killed_run_left(
    lab_name: str, leaves_nothing: Callable[[], None], tmp_path: Path
) -> None:
    job, _ = lab_run(lab_name, tmp_path)
    job.kill()
    run(str(TREE / ".venv/bin/tunneld"), "lab", "down", "--name", lab_name)
    leaves_nothing()


def test_two_commands_do_not_build_the_same_lab_at_once(
    lab_name: str, leaves_nothing: Callable[[], None], tmp_path: Path
) -> None:
    job, hold = lab_run(lab_name, tmp_path)
    second = subprocess.run(
        [TREE / ".venv/bin/tunneld", "lab", "run", "--name", lab_name],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert second.returncode == 1
    assert "another command" in second.stderr
    hold.unlink()
    assert job.wait(60.0) == 0, job.output()


def test_a_lab_stays_up_takes_commands_and_goes_down(
    lab_name: str, leaves_nothing: Callable[[], None]
) -> None:
    def lab(command: str, *argv: str) -> str:
        return run(str(TREE / ".venv/bin/tunneld"), "lab", command, "--name", lab_name, *argv)

    lab("up", "--hosts", "2")
    assert "h2: ready, 1 peer, log" in lab("status")
    address = lab("exec", "h2-c", "--", "ip", "-4", "-o", "address", "show", "eth0").split()[3]
    said = lab("exec", "h1-c", "--", "ping", "-c", "1", address.split("/")[0])
    assert "1 received" in said
    lab("down")


def test_the_status_of_a_lab_names_the_host_whose_daemon_ended(
    lab_name: str, leaves_nothing: Callable[[], None]
) -> None:
    tunneld = str(TREE / ".venv/bin/tunneld")
    up = [tunneld, "lab", "up", "--name", lab_name]
    run(*up)
    for pid in namespaces.pids(f"tnl-{lab_name}-h2"):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not namespaces.pids(f"tnl-{lab_name}-h2"), what="the end of a daemon")
    status, again = (
        subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        for command in ([tunneld, "lab", "status", "--name", lab_name], up)
    )
    assert status.returncode == 1
    assert "│ h1 " in status.stdout
    assert "h1: ready, 1 peer, log" in status.stdout
    assert f"h2: no daemon answers, log {LAB_ROOT}/{lab_name}/h2/tunneld.log" in status.stdout
    assert again.returncode == 1
    assert f"`tunneld lab down --name {lab_name}` first" in again.stderr
    run(tunneld, "lab", "down", "--name", lab_name)
    leaves_nothing()


@pytest.mark.parametrize("variable", ["BACKEND=ipip", "BACKEND=wireguard"])
def test_a_value_that_is_not_built_yet_ends_with_2_and_says_so(
    lab_name: str, leaves_nothing: Callable[[], None], variable: str
) -> None:
    done = make_run(lab_name, variable)
    assert done.returncode == 2
    assert "is not built yet" in done.stderr
    assert "lab: " not in done.stdout, "refused before anything is built"
    wait_until(lambda: not processes_of(lab_name), what="the end of what was started")
