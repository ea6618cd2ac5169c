"""A round of chaos: faults happen, and what must never be broken is looked at until all is well."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from testbed.wait import wait_until
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.hosts import ChaosHost, Site
from tests.chaos.judgement import Size, back_after, grown

MEMORY_KIB: Final = 16_384
DESCRIPTORS: Final = 8
THREADS: Final = 6
"""asyncio makes them for calls that block, one by one when needed; six on two cores."""


@dataclass(frozen=True, slots=True)
class Happening:
    """A fault, the host it happens to, and what its details are drawn from."""

    fault: Fault
    host: ChaosHost
    seed: int

    def __str__(self) -> str:
        return f"{self.fault.name} @ {self.host.number}"


@dataclass(slots=True)
class Outcome:
    """What a round saw."""

    happenings: list[str]
    back_s: list[float] = field(default_factory=list)
    """For each pair: how long after the last fault's end its last silence ended."""

    def figure(self) -> dict[str, object]:
        times = sorted(self.back_s)
        return {
            "faults": " + ".join(self.happenings),
            "back_median_s": round(times[len(times) // 2], 3),
            "back_worst_s": round(times[-1], 3),
        }


class Chaos:
    """Rounds on one site, drawn from one seed; every fault comes up before one comes again."""

    def __init__(self, site: Site, seed: int) -> None:
        self._site = site
        self._rng = random.Random(seed)
        self._stock: list[Fault] = []
        self.sizes: list[Size] = []

    def rounds(self, count: int) -> Iterator[Outcome]:
        for _ in range(count):
            yield self.round(self._drawn())

    def growth(self) -> list[str]:
        """Returns which daemons have grown over the rounds."""
        return grown(self.sizes, memory_kib=MEMORY_KIB, descriptors=DESCRIPTORS, threads=THREADS)

    def _drawn(self) -> list[Happening]:
        count = 2 if self._rng.random() < 0.4 else 1
        hosts = self._rng.sample(self._site.hosts, count)
        faults = [self._next_fault()]
        if count == 2:
            faults.append(self._next_fault(other_than_store=faults[0].is_of_store))
        drawn = zip(faults, hosts, strict=True)
        return [Happening(fault, host, self._rng.getrandbits(32)) for fault, host in drawn]

    def _next_fault(self, other_than_store: bool = False) -> Fault:
        if not self._stock:
            self._stock = self._rng.sample(FAULTS, len(FAULTS))
        places = [n for n, f in enumerate(self._stock) if not (other_than_store and f.is_of_store)]
        return self._stock.pop(places[0]) if places else self._rng.choice(FAULTS[:20])

    def round(self, happenings: list[Happening]) -> Outcome:
        """Lets these faults happen at one time, and returns once all is well again."""
        site = self._site
        began_s = time.monotonic()
        with ThreadPoolExecutor() as pool:
            ways = [
                pool.submit(h.fault.act, site, h.host, random.Random(h.seed)) for h in happenings
            ]
        outcome = Outcome([str(h) for h in happenings])
        try:
            for way in ways:
                way.result()
            self._wait_back(outcome, time.monotonic())
            site.wait_ready()
            self._look(began_s)
        except Exception as error:
            error.add_note(f"in: {' + '.join(outcome.happenings)}")
            for host in site.hosts:
                error.add_note(f"host {host.number}: {json.dumps(host.status())}")
                error.add_note(host.said()[-3000:])
            raise
        return outcome

    def _wait_back(self, outcome: Outcome, over_s: float) -> None:
        """Waits until every pair is back; whatever is wrong with what came ends the round."""
        numbers = [host.number for host in self._site.hosts]
        pairs = [(sender, receiver) for sender in numbers for receiver in numbers]
        missing: list[str] = []

        def all_back() -> bool:
            reports = self._site.reports(over_s)
            times = {
                (sender, receiver): back_after(
                    reports[receiver]["came"].get(str(sender), ()),
                    over_s,
                    reports[receiver]["now"],
                )
                for sender, receiver in pairs
                if sender != receiver
            }
            missing[:] = [f"{s} to {r}" for (s, r), back_s in times.items() if back_s is None]
            outcome.back_s = [back_s for back_s in times.values() if back_s is not None]
            return not missing

        try:
            wait_until(all_back, 20.0, "every pair being back", poll_s=0.2)
        except TimeoutError as error:
            error.add_note(f"silent: {', '.join(missing)}")
            raise

    def _look(self, began_s: float) -> None:
        """Checks what holds at any time, now that all is well."""
        site = self._site
        for number, report in site.reports(began_s).items():
            assert not any(report["faults"].values()), (number, report["faults"])
        documents = {host.number: host.status() for host in site.hosts}
        for host in site.hosts:
            assert _subnet_of(documents[host.number]) == host.subnet, documents[host.number]
            wait_until(host.has_told_its_subnet, what=f"subnet.env of host {host.number}")
        holders = site.leases()
        assert sorted(holders.values()) == sorted(host.address for host in site.hosts), holders
        self.sizes += [host.size() for host in site.hosts]


def _subnet_of(document: dict[str, Any]) -> str:
    """Returns the lease of a status, as its gateway's address."""
    return str(document["lease"]["subnet"]).replace(".0/", ".1/")
