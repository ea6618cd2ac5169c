from __future__ import annotations

import struct
from pathlib import Path

from tunneld.lab.traffic import MARKER, count_marked


def test_packets_with_the_marker_are_counted_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "some.pcap"
    half = len(MARKER) // 2
    packets = [MARKER * 2, b"", b"x" + MARKER, MARKER[:half], MARKER[half:], b"sealed"]
    header = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 256, 1)
    # Of a packet cut short only what was captured is in the file.
    records = [struct.pack("=IIII", 0, 0, len(p), len(p) + 9) + p for p in packets]
    path.write_bytes(header + b"".join(records))
    assert count_marked(path) == 2
