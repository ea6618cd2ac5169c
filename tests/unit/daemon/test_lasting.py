"""Which lacks of a host end a start, and which are waited for."""

from __future__ import annotations

import errno
import os

import pytest

from tunneld.daemon.term import _lasts
from tunneld.errors import CapabilityError, HostError, TunDeviceError


def caused_by(error: HostError, number: int) -> HostError:
    error.__cause__ = OSError(number, os.strerror(number))
    return error


@pytest.mark.parametrize(
    ("error", "lasts"),
    [
        (CapabilityError("CAP_NET_ADMIN is missing"), True),
        (caused_by(TunDeviceError("no TUN driver"), errno.ENOENT), True),
        (caused_by(TunDeviceError("the name is held"), errno.EBUSY), False),
        (caused_by(TunDeviceError("too many open files"), errno.EMFILE), False),
        (caused_by(TunDeviceError("out of memory"), errno.ENOMEM), False),
        (HostError("anything else of the host"), False),
        (OSError(errno.EMFILE, "what no room has foreseen"), False),
    ],
    ids=str,
)
def test_only_a_right_and_a_driver_are_not_waited_for(error: Exception, lasts: bool) -> None:
    assert _lasts(error) is lasts
