"""`tunneld bench local`: encapsulations between namespaces of this machine.

For each underlay, and with offloads on and off, every overlay is built once; then they take turns.
"""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from tunneld.bench import machine
from tunneld.bench.document import Document
from tunneld.bench.local import offloads, pair, peers
from tunneld.bench.local.agents import LocalPair
from tunneld.bench.local.overlay import Overlay
from tunneld.bench.local.pair import Flavour
from tunneld.bench.local.paths import BASE, PATHS
from tunneld.bench.plan import Scope, Step, steps
from tunneld.bench.progress import Progress
from tunneld.bench.session import Output, Session, about_now, carry_out
from tunneld.bench.take import sample
from tunneld.lab.build import require_rights, sole_use
from tunneld.lab.main_job import uninterruptible

Offloads = Literal["on", "off"]
BUILD_S: Final = 2.5
"""About how long it takes to build an overlay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is built."""

    paths: Sequence[str]
    peers: Sequence[peers.Peer] = ()
    absent: Sequence[str] = ()
    """Peers that were asked for and are not there, each with the reason."""
    underlays: Sequence[Flavour] = ("wire", "gso")
    offloads: Sequence[Offloads] = ("on",)

    @property
    def subjects(self) -> list[str]:
        return [*self.paths, *(peer.name for peer in self.peers)]

    def build(self, subject: str, directory: Path) -> Overlay:
        for peer in self.peers:
            if peer.name == subject:
                return peer.overlay(directory)
        return PATHS[subject](directory)


def run(choice: Choice, scope: Scope, output: Output) -> int:
    """Measures; returns the exit status.

    Raises:
        BenchError: the report cannot be written, or a measurement failed.
        CapabilityError: this process may not make network namespaces.
        LabError: an overlay does not come up, or another bench is running.
    """
    require_rights()
    base = BASE if BASE in choice.paths else choice.subjects[0]
    plan = asdict(scope) | {
        "subjects": choice.subjects,
        "underlays": list(choice.underlays),
        "offloads": list(choice.offloads),
    }
    document = Document("local", about_now(machine.describe()), plan, base)
    document.notes += choice.absent
    with sole_use(pair.LAB):
        return carry_out(document, output, lambda session: _measure(session, choice, scope))


def planned(choice: Choice, scope: Scope) -> tuple[float, int]:
    """Returns about how many seconds it takes, and how many steps."""
    places = list(itertools.product(choice.underlays, choice.offloads))
    each = list(steps(scope, choice.subjects, {}))
    build_s = BUILD_S * len(choice.subjects)
    return (build_s + sum(step.seconds for step in each)) * len(places), len(each) * len(places)


def _measure(session: Session, choice: Choice, scope: Scope) -> None:
    total_s, count = planned(choice, scope)
    progress = Progress(total_s, count)
    deadline = math.inf if scope.budget_s is None else time.monotonic() + scope.budget_s
    try:
        for underlay, state in itertools.product(choice.underlays, choice.offloads):
            progress.say(f"building {', '.join(choice.subjects)} on {underlay}, offloads {state}")
            about = {"underlay": underlay, "offloads": state}
            with _built(choice, underlay, state, session.document) as pairs:
                before = 0
                for step in steps(scope, list(pairs), about):
                    if time.monotonic() >= deadline:
                        session.document.notes.append(
                            f"out of time in round {step.round} of {scope.rounds} on {underlay}: "
                            "the machine is slower, or busier, than the plan"
                        )
                        return
                    if step.round != before:
                        session.checkpoint()
                        before = step.round
                    _take(session, progress, step, pairs[step.subject], scope)
            session.checkpoint()
    finally:
        progress.close()


@contextmanager
def _built(
    choice: Choice, underlay: Flavour, state: Offloads, document: Document
) -> Iterator[dict[str, LocalPair]]:
    """Overlays that stand next to each other; they are gone afterwards, whatever happened."""
    directory = Path(tempfile.mkdtemp(prefix="tunneld-bench-"))
    overlays: list[Overlay] = []
    pair.remove_all()  # what a killed run left
    try:
        with ExitStack() as stack:
            pairs = {}
            for subject in choice.subjects:
                overlay = choice.build(subject, directory)
                overlays.append(overlay)
                overlay.pair.build(underlay)
                overlay.start()
                if state == "off":
                    offloads.switch_off(overlay)
                overlay.wait_connected()
                one = LocalPair(
                    overlay.pair.a.container,
                    overlay.pair.b.container,
                    str(overlay.pair.target),
                    overlay.pids,
                )
                stack.callback(one.close)
                pairs[subject] = one
            for one in pairs.values():
                one.wait_ready()
            yield pairs
    finally:
        with uninterruptible():
            for overlay in overlays:
                overlay.stop()
            pair.remove_all()
            shutil.rmtree(directory, ignore_errors=True)


def _take(session: Session, progress: Progress, step: Step, ends: LocalPair, scope: Scope) -> None:
    case = {"subject": step.subject, **step.case}
    what = ", ".join(f"{name} {value}" for name, value in step.case.items())
    progress.step(f"round {step.round}: {step.figure} {step.subject}, {what}", step.seconds)
    seen = sample(ends, step, scope)
    session.document.add(step.figure, step.round, case, seen.values, seen.conditions)
