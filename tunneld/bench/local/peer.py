"""What other programs' overlays have in common: a device of their own, its MTU, a route."""

from __future__ import annotations

from abc import abstractmethod
from ipaddress import IPv4Interface
from pathlib import Path
from typing import ClassVar, Final

from tunneld.bench.local.overlay import READY_TIMEOUT_S, Overlay, last_line
from tunneld.bench.local.pair import Host
from tunneld.errors import LabError
from tunneld.lab import namespaces

DEVICE: Final = "peer0"


class PeerOverlay(Overlay):
    """A program by its path, which is the first option."""

    mtu_bytes: ClassVar[int]
    debian: ClassVar[str | None]
    """The package that has it."""
    programs: ClassVar[tuple[str, ...]]
    """What must be on the PATH, the program itself first."""

    @property
    def program(self) -> str:
        return self.options[0]

    def start(self) -> None:
        self.prepare()
        for host in self.pair.hosts:
            self.join(host)
        for number, host in enumerate(self.pair.hosts, start=1):
            self.wait_device(host)
            self.set_up(host)
            self.pair.attach(host, IPv4Interface(f"10.5.{number}.1/24"), self.mtu_bytes)

    def prepare(self) -> None:
        """Makes the keys of both hosts."""
        return

    @abstractmethod
    def join(self, host: Host) -> None:
        """Starts the program on a host."""

    def set_up(self, host: Host) -> None:
        """Gives the device its address, its MTU and the route."""
        in_host = ("ip", "-n", host.namespace)
        device = self.device(host)
        namespaces.run(*in_host, "address", "replace", f"{self.inner(host)}/32", "dev", device)
        namespaces.run(*in_host, "link", "set", device, "mtu", str(self.mtu_bytes), "up")
        namespaces.run(*in_host, "route", "replace", self.subnet(self.other(host)), "dev", device)

    def device(self, host: Host) -> str:
        """Returns the name of a host's device."""
        del host  # of most programs it is the same in every namespace
        return DEVICE

    def other(self, host: Host) -> Host:
        return self.pair.b if host is self.pair.a else self.pair.a

    def number(self, host: Host) -> int:
        return self.pair.hosts.index(host) + 1

    def subnet(self, host: Host) -> str:
        """Returns the subnet of a host's containers."""
        return f"10.5.{self.number(host)}.0/24"

    def inner(self, host: Host) -> str:
        """Returns the address of a host inside the tunnel."""
        return f"10.5.100.{self.number(host)}"

    def write(self, host: Host, name: str, text: str) -> Path:
        """Writes a file that only its owner reads."""
        path = host.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def wait_device(self, host: Host) -> None:
        """Waits for a host's device.

        Raises:
            LabError: the program ended, or makes none.
        """
        place = ("ip", "-n", host.namespace, "-o", "link", "show")

        def is_there() -> bool:
            status = self.processes[host.label].poll()
            if status is not None:
                msg = f"bench: {self.name} ended with {status}: {last_line(host)}"
                raise LabError(msg)
            return f" {self.device(host)}:" in namespaces.run(*place)

        if not namespaces.became_true(is_there, READY_TIMEOUT_S):
            msg = f"bench: {self.name} makes no device; it said last: {last_line(host)}"
            raise LabError(msg)
