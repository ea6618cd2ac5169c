"""The document of `tunneld status` as it reads for people."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.control.values import READY, STARTING, dual_stack
from tunneld.control.status import render_status, render_text, table


def test_peer_that_is_not_reached_by_us_is_named_all_the_same() -> None:
    text = render_text(render_status(replace(READY, peers=(dual_stack(),))))
    assert "10.5.34.0/24, fd00:10:5:34::/64" in text


def test_text_names_what_an_operator_looks_for() -> None:
    text = render_text(render_status(READY))
    for part in ("ready", "10.5.17.0/24 at 192.0.2.11", "MTU 1472", "flannel0", "10.5.34.0/24"):
        assert part in text
    assert "MTU 1472, batch scheduling\n" in text
    assert "no_route" in text
    assert "too_big" not in text
    assert "outside_network" in text


def test_text_names_the_network_however_its_key_is_written() -> None:
    status = replace(READY, network='{"network": "10.77.0.0/16"}')
    assert "network:  10.77.0.0/16\n" in render_text(render_status(status))


def test_offloads_are_shown_with_what_is_not_on_and_why() -> None:
    def line(offloads: dict[str, str]) -> str:
        document = render_status(replace(READY, offloads=offloads))
        assert document["offloads"] == offloads
        return next(row for row in render_text(document).splitlines() if "offloads" in row)

    assert line({"tun_tso": "on", "udp_gso": "on"}) == "offloads: on"
    some = {"tun_tso": "on", "tun_uso": "unsupported", "udp_gso": "fallback: EIO"}
    assert line(some) == "offloads: on, but: tun_uso unsupported, udp_gso fallback: EIO"
    assert line({}) == "offloads: -"


def test_text_of_a_starting_daemon_says_what_it_waits_for() -> None:
    text = render_text(render_status(STARTING))
    assert "starting\n  the store is away\n" in text
    assert "not connected" in text
    assert "(connection refused)" in text
    assert "drops: none" in text


def test_text_fits_eighty_columns_but_for_the_peer_table() -> None:
    for line in render_text(render_status(READY)).split("peers:")[0].splitlines():
        assert len(line) <= 80


def test_table_aligns_numbers_to_the_right() -> None:
    assert table(("name", "n"), [("a", 5), ("bb", 10)]) == [
        "name   n",
        "a      5",
        "bb    10",
    ]


def test_what_the_kernel_dropped_is_shown_with_where() -> None:
    lost = {"device_queue": 12, "device_refused": 0, "receive_buffer": 3}
    document = render_status(replace(READY, kernel_drops=lost))
    assert document["kernel_drops"] == lost
    lines = render_text(document).splitlines()
    place = lines.index("dropped by the kernel:")
    assert lines[place + 1 : place + 3] == ["  device_queue    12", "  receive_buffer  3"]
