"""The tables of where the time goes and of the core alone, on figures made up for the purpose."""

from __future__ import annotations

from typing import Any

from bench.report import tables


def profiled(figure: str, flavour: str, read: float, send: float) -> dict[str, Any]:
    objects = {"[kernel.kallsyms]": 90.0, "_native.abi3.so": 3.4, "_native.old.so": 1.2}
    parts = {"read TUN": read, "send": send}
    return {"figure": figure, "flavour": flavour, "parts": parts, "objects": objects}


def test_every_profiled_figure_has_a_row_that_names_its_largest_part() -> None:
    samples = [profiled("tcp1", "wire", 10.2, 30.6), profiled("flood", "gso", 40.0, 5.0)]
    assert tables.profile({"samples": samples}) == [
        ["figure", "underlay", "read TUN", "send", "code of tunneld's own", "most of it"],
        ["tcp1", "wire", "10 %", "31 %", "5 %", "send"],
        ["flood", "gso", "40 %", "5 %", "5 %", "read TUN"],
    ]


def test_a_case_without_counted_instructions_shows_a_dash() -> None:
    segment, lookup = [81.26, 90.0, 100.0], [7.0]
    samples = [
        {"name": "segment 1400", "ns_per_packet": segment, "instructions_per_packet": 1234.4},
        {"name": "lookup zipf 1000000", "ns_per_packet": lookup, "instructions_per_packet": None},
    ]
    assert tables.micro({"samples": samples})[1:] == [
        ["segment 1400", "81.3", "90.0 (85.6–95.0)", "1,234"],
        ["lookup zipf 1000000", "7.0", "7.0", "–"],
    ]


def test_lookups_are_compared_round_by_round() -> None:
    rounds = {
        "lookup zipf 1000": [1.0, 4.0, 2.0],
        "lookup zipf 1000000": [3.0, 4.0, 4.0],
        "lookup uniform 1000000": [9.0, 30.0, 21.0],
    }
    samples = [{"name": name, "ns_per_packet": times} for name, times in rounds.items()]
    assert tables.lookups({"samples": samples})[1:] == [
        ["Zipf's law: 1,000,000 prefixes / 1,000", "≤ 2", "2.0 (1.5–2.5)", "3.0", "yes"],
        ["all alike: 1,000,000 prefixes (ns)", "≤ 20", "21.0 (15.0–25.5)", "9.0", "**no**"],
    ]
