"""The alloc backend: a lease and no more."""

from __future__ import annotations

from tests.unit.backend.values import HERE, OWN, backend, dual_peer, network
from tunneld.backend import parse_backend


def test_nothing_is_set_up_and_nobody_is_reached() -> None:
    found = backend("alloc", "dual")
    assert parse_backend(network("alloc", "dual"), "kernel") == found
    assert (found.datapath, found.port, found.device_template) == ("none", None, None)
    assert (found.vtep(HERE), found.devices(HERE, OWN)) == (None, ())
    assert found.reach(dual_peer("vxlan"), 4, HERE, on_link=()) is None


def test_mtu_is_the_underlays() -> None:
    assert backend("alloc").device_mtu_bytes(9000) == 9000
