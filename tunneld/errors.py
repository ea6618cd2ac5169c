"""Every error tunneld raises on purpose: one tree, which the native core raises from too. Pure.

A message is one line and answers, in this order: what failed, on which value, what was
expected, what the operator can do. `exit_status` is what a command ends with when the error
reaches the command line.
"""

from __future__ import annotations

from typing import ClassVar


class TunneldError(Exception):
    """Root of the tree. Caught at the edge (`cli`) and nowhere deeper."""

    exit_status: ClassVar[int] = 1


class UsageError(TunneldError):
    """A wrong command line, environment variable or config file."""

    exit_status: ClassVar[int] = 2


class NotBuiltError(UsageError):
    """A value that tunneld knows but cannot serve yet."""


class TrustError(UsageError):
    """A file of identities, keys or revocations is not usable, or what is asked of it."""


class NetworkConfigError(TunneldError):
    """The network config (`<prefix>/config`) is not usable."""


class LeaseError(TunneldError):
    """A lease could not be acquired, kept or understood."""


class SubnetTakenError(LeaseError):
    """Another node wrote the lease key between our listing and our write. Try the next one."""


class GrantLostError(LeaseError):
    """The store no longer knows the grant that carries our lease: its time ran out."""


class SubnetExhaustedError(LeaseError):
    """The network has no free subnet left."""


class StoreError(TunneldError):
    """The store answered, but not with what was asked for."""


class StoreUnavailableError(StoreError):
    """The store does not answer. Trying again later may help."""


class StoreRefusedError(StoreError):
    """The store refuses us: certificate, user, password or permission."""


class StoreDeniedError(StoreRefusedError):
    """The store answers, and does not let this user do what it was asked to."""


class StoreFullError(StoreError):
    """The store answers, and takes no writes: it has no room."""


class HostError(TunneldError):
    """The operating system refuses what the data path needs."""


class NoThreadError(HostError):
    """The kernel gives no further thread."""

    def __init__(self, purpose: str) -> None:
        super().__init__(
            f"cannot start a thread to {purpose}; expected the kernel to give one: raise TasksMax= "
            "of the unit, the pids limit of the container, or `ulimit -u`"
        )


class CapabilityError(HostError):
    """CAP_NET_ADMIN (or CAP_NET_RAW) is missing."""


class TunDeviceError(HostError):
    """`/dev/net/tun` is missing or unusable."""


class DeviceLostError(HostError):
    """The overlay device is gone, or no longer ours alone: the data path must be opened again."""


class PeerRouteError(HostError):
    """What leads to some peers cannot be put, and names one of them; everything else is there."""


class PortInUseError(HostError):
    """Another program holds the backend's UDP port."""


class InterfaceError(HostError):
    """The underlay interface is not found, or more than one fits."""


class StateDirInUseError(HostError):
    """Another daemon runs on the same state directory."""


class EngineError(TunneldError):
    """The native data path refuses a change or has ended."""


class ControlError(TunneldError):
    """The daemon's control socket does not answer, or answers with an error."""


class DockerError(TunneldError):
    """Docker does not answer, refuses, or holds something else than the lease asks for."""


class LabError(TunneldError):
    """The lab's namespaces, store or daemons did not come up or did not pass its checks."""


class BenchError(TunneldError):
    """A measurement could not be taken, or the other end did not agree to it."""
