"""What a bench measured, made up for the purpose."""

from __future__ import annotations

from typing import Any


def tcp1(overlay: str, number: int, gbit_per_s: float, **more: Any) -> dict[str, Any]:
    """Returns one measurement of a TCP stream in one direction."""
    return {
        "flavour": "wire",
        "figure": "tcp1",
        "round": number,
        "overlay": overlay,
        "bits_per_s": gbit_per_s * 1e9,
        "bytes": 10**9,
        "retransmits": 0,
        "tunnel_cpu_s_per_gb": 1.0,
        "machine_cpu_s_per_gb": 2.0,
        "foreign_share": 0.0,
        **more,
    }
