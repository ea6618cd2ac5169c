"""What `tunneld docker` makes of a daemon whose status is not of this command's version."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tunneld import __version__
from tunneld.docker import lease
from tunneld.errors import ControlError

SUBNET_ENV = """\
FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.7.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=true
"""


def status() -> dict[str, Any]:
    """The parts of a status that Docker's side reads, as docs/operations.md has them."""
    return {
        "version": "0.0.9",
        "state": "ready",
        "problems": [],
        "lease": {"subnet": "10.5.7.0/24", "ipv6_subnet": None},
        "backend": {"devices": ["flannel0"]},
        "firewall": {"mode": "auto", "forward_rules": True},
    }


@contextmanager
def answering(path: Path, document: object) -> Iterator[None]:
    """A daemon that answers one request."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.makefile("rb").readline()
                connection.sendall(json.dumps({"ok": True, "result": document}).encode() + b"\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join(30.0)


def read(tmp_path: Path, document: object) -> lease.LocalLease:
    subnet_file, path = tmp_path / "subnet.env", tmp_path / "s"
    subnet_file.write_text(SUBNET_ENV)
    with answering(path, document):
        return lease.read(subnet_file, path)


def test_daemon_of_this_form_adds_its_devices(tmp_path: Path) -> None:
    found = read(tmp_path, status())
    assert (found.devices, found.problems, dict(found.left)) == (("flannel0",), (), {})


@pytest.mark.parametrize(
    ("older", "named"),
    [
        (lambda it: it.pop("firewall"), "'firewall'"),
        (lambda it: it["firewall"].pop("mode"), "'mode'"),
        (lambda it: it["firewall"].pop("forward_rules"), "'forward_rules'"),
        (lambda it: it["backend"].pop("devices"), "'devices'"),
        (lambda it: it.update(backend=None), "unusable"),
        (lambda it: it["lease"].pop("ipv6_subnet"), "'ipv6_subnet'"),
        (lambda it: it.pop("problems"), "'problems'"),
        (lambda it: it.pop("state"), "'state'"),
    ],
)
def test_daemon_of_an_older_version_is_named_with_what_its_status_lacks(
    tmp_path: Path, older: Callable[[dict[str, Any]], object], named: str
) -> None:
    document = status()
    older(document)
    with pytest.raises(ControlError) as caught:
        read(tmp_path, document)
    assert named in str(caught.value)
    assert "version 0.0.9" in str(caught.value)
    assert f"this command, {__version__}: restart the daemon" in str(caught.value)


@pytest.mark.parametrize("document", [{}, [], None, "ready"])
def test_status_without_anything_is_one_line(tmp_path: Path, document: object) -> None:
    with pytest.raises(ControlError, match="version unknown"):
        read(tmp_path, document)
