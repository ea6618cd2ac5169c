"""Two ends measure together: figures of one case, with what they cost.

A `Pair` gives orders to a near end and a far one at once; in namespaces both are processes of this
machine, over a network one is this process and the other answers by a channel.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from tunneld.bench.loss import Point, search
from tunneld.bench.noise import Conditions
from tunneld.bench.spread import percentile, steps
from tunneld.bench.traffic import TOKEN_BYTES, Order
from tunneld.errors import BenchError

IMIX_BYTES: Final = (64,) * 7 + (576,) * 4 + (1_400,)
"""Simple IMIX, 7:4:1, its largest so that it fits a tunnel on an MTU of 1500."""
DISTRIBUTION_STEPS: Final = 24
_INTERVAL_S: Final = 0.002
_GB: Final = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one machine spent while something was measured, in CPU seconds."""

    cpu_s: float
    """Of the whole machine, without what programs of others took."""
    tunnel_s: float
    """Of the tunnel's processes; 0: there is none, or it is not known."""
    conditions: Conditions

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> Cost:  # noqa: ANN401 - of another host
        """Reads what the other host says it spent.

        Raises:
            BenchError: it cannot be read.
        """
        try:
            return cls(
                cpu_s=float(fields["cpu_s"]),
                tunnel_s=float(fields["tunnel_s"]),
                conditions=Conditions(**fields["conditions"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            msg = f"bench: the other end says what it cost in a way that cannot be read: {error}"
            raise BenchError(msg) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an order for both ends."""

    near: dict[str, Any]
    far: dict[str, Any]
    costs: dict[str, Cost]
    """By the name of the machine: one that both ends are on, or one each."""


class Pair(Protocol):
    """A near end and a far one."""

    def measure(self, near: Sequence[Order], far: Sequence[Order]) -> list[Outcome]:
        """Has both carry out their orders, all at once; an outcome for each pair of them.

        Raises:
            BenchError: one end failed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The values of a sample, and what disturbed it, by machine."""

    values: dict[str, Any]
    conditions: dict[str, Conditions]


def tcp(pair: Pair, *, streams: int, duration_s: float, is_up: bool = True) -> Seen:
    """Measures a bulk transfer; `is_up`: from the near end to the far one."""
    [outcome] = _both(pair, kind="stream", streams=streams, duration_s=duration_s, is_up=is_up)
    got = outcome.far if is_up else outcome.near
    sent = outcome.near if is_up else outcome.far
    # What is in buffers when the sender ends must not count as a higher rate.
    seconds = max(got["seconds"], sent["seconds"])
    values = {"bytes": got["bytes"], "seconds": seconds, "bits_per_s": got["bytes"] * 8 / seconds}
    return _seen(values, outcome, got["bytes"])


def udp(
    pair: Pair,
    *,
    sizes: Sequence[int],
    duration_s: float,
    per_second: float | None = None,
    is_up: bool = True,
) -> Seen:
    """Measures what arrives of datagrams that one sender sends, at a rate or as fast as it can."""
    [outcome] = _both(
        pair,
        kind="datagrams",
        sizes=tuple(sizes),
        per_second=per_second,
        duration_s=duration_s,
        is_up=is_up,
    )
    sent, got = (outcome.near, outcome.far) if is_up else (outcome.far, outcome.near)
    seconds = max(sent["seconds"], got["seconds"])
    lost = max(0, sent["datagrams"] - got["datagrams"])
    values = {
        "sent": sent["datagrams"],
        "received": got["datagrams"],
        "late": got["late"],
        "bytes": got["bytes"],
        "offered_per_s": sent["datagrams"] / sent["seconds"],
        "delivered_per_s": got["datagrams"] / seconds,
        "delivered_bits_per_s": got["bytes"] * 8 / seconds,
        "loss": lost / sent["datagrams"] if sent["datagrams"] else None,
    }
    seen = _seen(values, outcome, got["bytes"])
    if got["datagrams"] and len(outcome.costs) == 1:
        [cost] = outcome.costs.values()
        if not cost.tunnel_s:
            return seen
        seen.values["tunnel_us_per_datagram"] = cost.tunnel_s / got["datagrams"] * 1e6
    return seen


def loss(
    pair: Pair,
    *,
    size: int,
    duration_s: float,
    most_points: int,
    is_up: bool = True,
) -> Seen:
    """Searches the highest rate with hardly any loss, from full speed down."""
    points, conditions = [], dict[str, Conditions]()

    def tried(rate: float | None) -> dict[str, Any]:
        seen = udp(pair, sizes=(size,), duration_s=duration_s, per_second=rate, is_up=is_up)
        for name, one in seen.conditions.items():
            conditions[name] = _worse(conditions.get(name), one)
        point = {
            "offered_bits_per_s": seen.values["offered_per_s"] * size * 8,
            "delivered_bits_per_s": seen.values["delivered_bits_per_s"],
            "loss": seen.values["loss"],
            "sent": seen.values["sent"],
            "received": seen.values["received"],
        }
        points.append(point)
        return seen.values

    full = tried(None)
    # Nothing gets through faster than what was delivered when all that goes was sent.
    fastest = max(1.0, min(full["delivered_per_s"] * 1.1, full["offered_per_s"]))
    steps_ = search(fastest, most_points)
    try:
        rate = next(steps_)
        while True:
            values_ = tried(rate)
            lost, offered = values_["loss"], values_["offered_per_s"]
            rate = steps_.send(Point(per_second=offered, loss=1.0 if lost is None else lost))
    except StopIteration as ending:
        found = ending.value
    clean = found.clean_per_second
    values = {
        "clean_bits_per_s": None if clean is None else clean * size * 8,
        "least_loss": found.least_loss,
        "points": points,
    }
    return Seen(values=values, conditions=conditions)


def round_trips(
    pair: Pair, *, duration_s: float, is_loaded: bool = False, count: int = 1_000_000
) -> Seen:
    """Measures single round trips, on an idle network or beside one TCP stream."""
    asked: dict[str, Any] = {"duration_s": duration_s, "interval_s": _INTERVAL_S, "count": count}
    near = [_order("echo", is_sender=True, **asked)]
    far = [_order("echo", is_sender=False, token=near[0].token, **asked)]
    if is_loaded:
        near.append(_order("stream", is_sender=True, duration_s=duration_s))
        far.append(_order("stream", is_sender=False, token=near[1].token, duration_s=duration_s))
    outcome = pair.measure(near, far)[0]
    trips_us = [ns / 1e3 for ns in outcome.near["round_trips_ns"]]
    sent = outcome.near["sent"]
    values: dict[str, Any] = {
        "sent": sent,
        "answered": len(trips_us),
        "lost_share": (sent - len(trips_us)) / sent if sent else None,
    }
    if trips_us:
        values |= {
            name: percentile(trips_us, share)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))
        }
        values["distribution"] = [
            {"us": round(value, 1), "share": round(share, 5)}
            for value, share in steps(trips_us, DISTRIBUTION_STEPS)
        ]
    return _seen(values, outcome, 0)


def _both(pair: Pair, *, kind: str, is_up: bool, **fields: Any) -> list[Outcome]:  # noqa: ANN401
    near = _order(kind, is_sender=is_up, **fields)
    far = _order(kind, is_sender=not is_up, token=near.token, **fields)
    return pair.measure([near], [far])


def _order(kind: str, *, is_sender: bool, token: bytes | None = None, **fields: Any) -> Order:  # noqa: ANN401
    token = token or secrets.token_bytes(TOKEN_BYTES)
    return Order(kind=kind, is_sender=is_sender, token=token, **fields)


def _seen(values: dict[str, Any], outcome: Outcome, size_bytes: int) -> Seen:
    if size_bytes:
        per_gb = _GB / size_bytes
        total = sum(cost.cpu_s for cost in outcome.costs.values())
        values["cpu_s_per_gb"] = total * per_gb
        if len(outcome.costs) == 1:
            [cost] = outcome.costs.values()
            if cost.tunnel_s:
                values["tunnel_cpu_s_per_gb"] = cost.tunnel_s * per_gb
        else:
            for name, cost in outcome.costs.items():
                values[f"{name}_cpu_s_per_gb"] = cost.cpu_s * per_gb
    conditions = {name: cost.conditions for name, cost in outcome.costs.items()}
    return Seen(values=values, conditions=conditions)


def _worse(one: Conditions | None, other: Conditions) -> Conditions:
    if one is None:
        return other
    both = (asdict(one), asdict(other))

    def known(name: str) -> list[float]:
        return [it[name] for it in both if it[name] is not None]

    return Conditions(
        foreign_share=max(known("foreign_share")),
        steal_share=max(known("steal_share")),
        stall_s=max(known("stall_s")),
        mhz_low=min(known("mhz_low"), default=None),
        mhz_high=max(known("mhz_high"), default=None),
    )
