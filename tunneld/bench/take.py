"""Takes the sample of a step of the plan between two ends, wherever they are."""

from __future__ import annotations

from tunneld.bench import sides
from tunneld.bench.plan import Scope, Size, Step


def sample(ends: sides.Pair, step: Step, scope: Scope, *, is_up: bool = True) -> sides.Seen:
    """Takes the sample of a step.

    Raises:
        BenchError: an end failed.
    """
    match step.figure:
        case "tcp":
            streams = step.case["streams"]
            return sides.tcp(ends, streams=streams, duration_s=scope.stream_s, is_up=is_up)
        case "udp":
            sizes = bytes_of(step.case["size"])
            return sides.udp(ends, sizes=sizes, duration_s=scope.datagrams_s, is_up=is_up)
        case "loss":
            size = step.case["size"]
            return sides.loss(
                ends,
                size=size,
                duration_s=scope.loss_point_s,
                most_points=scope.loss_points,
                is_up=is_up,
            )
        case "idle" | "loaded":
            is_loaded = step.figure == "loaded"
            return sides.round_trips(ends, duration_s=scope.round_trips_s, is_loaded=is_loaded)


def bytes_of(size: Size) -> tuple[int, ...]:
    """Returns the sizes of datagrams, in turn."""
    return sides.IMIX_BYTES if size == "IMIX" else (size,)
