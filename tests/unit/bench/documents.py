"""A document with every kind of plot, whose numbers are all unlike each other."""

from __future__ import annotations

from typing import Any

from tunneld.bench.document import Document
from tunneld.bench.noise import Conditions


def document(*, marked: bool = False, is_complete: bool = True) -> dict[str, Any]:
    made = Document("local", {"began": "2026-01-02", "machine": {"cpu": "A <b>"}}, {}, "raw")
    made.notes.append("fastd is absent: <not installed>")
    for number in (1, 2, 3):
        for place, subject in enumerate(("raw", "esp & co")):
            conditions = {"machine": Conditions(foreign_share=0.4567 if marked else 0.0)}
            case = {"subject": subject, "underlay": "wire", "offloads": "on, as they come"}
            rate = 8.7654e9 / (place + 1) + number * 1.23e7
            values = {"bits_per_s": rate, "tunnel_cpu_s_per_gb": 1.234 + place}
            made.add("tcp", number, {**case, "streams": 1}, values, conditions)
            points = [{"offered_bits_per_s": 3.21e8 * n, "loss": 0.0123 * n} for n in range(1, 4)]
            loss = {"points": points, "least_loss": 0.0123, "clean_bits_per_s": None}
            made.add("loss", number, {**case, "size": 1024}, loss, conditions)
            trips = [{"us": 51.3 * n, "share": 1 - 10.0**-n} for n in range(1, 4)]
            idle = {"p50": 51.3, "p99": 102.6, "p999": 153.9, "distribution": trips}
            made.add("idle", number, case, idle, conditions)
    return made.value(is_complete=is_complete)
