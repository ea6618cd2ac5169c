from __future__ import annotations

import errno
from ipaddress import IPv4Address

import pytest

from tests.support.narrow_path import FAR, FAR_V6, NEAR, NEAR_V6, narrow_path
from tests.support.netns import Rig, inside
from tests.support.wait import wait_until
from tunneld.errors import HostError
from tunneld.host.path_mtu import path_mtu
from tunneld.host.sockets import open_underlay_sockets
from tunneld.lease.model import IPAddress

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("here", "there", "header_bytes"),
    [(NEAR, FAR, 28), (NEAR_V6, FAR_V6, 48)],
    ids=["IPv4", "IPv6"],
)
def test_path_mtu_follows_what_the_kernel_learns_and_forgets(
    rig: Rig, here: IPAddress, there: IPAddress, header_bytes: int
) -> None:
    near = narrow_path(rig)
    with inside(near):
        assert path_mtu(here, there, 8285) == 1500
        (worker,) = open_underlay_sockets([here], 8285, 1)
        (opened,) = worker.ipv4 or worker.ipv6
        with opened:
            opened.sendto(bytes(1500 - header_bytes), (str(there), 8285))
            wait_until(lambda: path_mtu(here, there, 8285) == 1400, what="the learned MTU")
            with pytest.raises(OSError, match="Message too long") as refused:
                opened.sendto(bytes(1401 - header_bytes), (str(there), 8285))
            assert refused.value.errno == errno.EMSGSIZE
            opened.sendto(bytes(1400 - header_bytes), (str(there), 8285))
        near.run("ip", f"-{here.version}", "route", "flush", "cache")
        assert path_mtu(here, there, 8285) == 1500
        near.run("ip", "link", "set", "eth0", "mtu", "1300")
        assert path_mtu(here, there, 8285) == 1300


def test_endpoint_without_a_route_is_an_error(rig: Rig) -> None:
    space = rig.namespace("host")
    with inside(space), pytest.raises(HostError, match=r"127\.0\.0\.1 to 203\.0\.113\.9"):
        path_mtu(IPv4Address("127.0.0.1"), IPv4Address("203.0.113.9"), 8285)
