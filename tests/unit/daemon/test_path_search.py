"""The search for what a path carries, on simulated paths. Expected values are the paths' own."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunneld.daemon.path_search import BELIEF_S, RAISE_S, PathSearch

LINK, OVERHEAD = 1450, 50
INTERVAL_S = 10.0


@dataclass
class Path:
    """A path that carries packets of up to `carries` bytes by each socket, and a clock."""

    carries: int | tuple[int, ...]
    link: int = LINK
    rtt_s: float = 0.05
    answers: bool = True
    loss: float = 0.0
    now_s: float = 1000.0
    probes: int = 0
    largest_at_once: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        numbers = itertools.count(1)
        self.search = PathSearch(
            link_bytes=self.link,
            inner_bytes=lambda outer_bytes: outer_bytes - OVERHEAD,
            draw=lambda: next(numbers),
        )
        self._arriving: list[tuple[float, int, int]] = []

    @property
    def _each(self) -> tuple[int, ...]:
        return self.carries if isinstance(self.carries, tuple) else (self.carries,)

    def use(self) -> None:
        self.search.use(self.now_s, INTERVAL_S)
        self.settle()

    def settle(self) -> None:
        """Lets time pass until nothing is under way."""
        for _ in range(10_000):
            due_s = self.search.due_s
            if due_s is None:
                return
            if self._arriving and self._arriving[0][0] <= due_s:
                self.now_s, token, socket = self._arriving.pop(0)
                self.search.answered(token, socket, self.now_s)
                continue
            self.now_s = max(self.now_s, due_s)
            probes = self.search.due(self.now_s)
            self.largest_at_once = max(self.largest_at_once, len(probes))
            self.search.expects(len(self._each))
            for probe in probes:
                for socket, carries in enumerate(self._each):
                    self.probes += 1
                    lost = self.rng.random() < self.loss
                    if self.answers and probe.size_bytes <= carries and not lost:
                        self._arriving.append((self.now_s + self.rtt_s, probe.token, socket))
            self._arriving.sort()
        raise AssertionError("the search does not end")

    def later(self, seconds: float) -> None:
        """Uses the path once a second for that long."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 1.0
            self.use()

    @property
    def holds(self) -> tuple[int, str, str]:
        return self.search.mtu_bytes, self.search.outer_df, self.search.state


@given(link=st.integers(100, 65_485), share=st.floats(0, 1))
@example(link=1450, share=1.0)
@example(link=1450, share=0.0)
def test_what_a_path_carries_is_found_to_the_byte_within_seconds(link: int, share: float) -> None:
    carries = 100 + int((link - 100) * share)
    path = Path(carries, link)
    path.use()
    assert path.holds == (carries, "kernel", "found")
    assert path.now_s - 1000.0 <= 8.0
    assert path.probes <= 200
    assert path.largest_at_once <= 8


@pytest.mark.parametrize("mtu_bytes", [576, 1280, 1400, 1420, 1492])
def test_links_that_exist_are_found_in_the_second_round(mtu_bytes: int) -> None:
    path = Path(mtu_bytes - OVERHEAD)
    path.use()
    assert path.holds == (mtu_bytes - OVERHEAD, "kernel", "found")
    assert path.now_s - 1000.0 <= 2.5


def test_path_as_wide_as_its_link_costs_two_probes() -> None:
    path = Path(LINK)
    path.use()
    assert (path.holds, path.probes) == ((LINK, "kernel", "found"), 2)
    path.later(60)
    assert path.probes <= 2 + 2 * 6


def test_of_several_sockets_the_narrowest_way_counts() -> None:
    path = Path((1450, 1450, 1321, 1400))
    path.use()
    assert path.holds[0] == 1321


@given(carries=st.integers(100, LINK), seed=st.integers(0, 1000))
def test_lost_probes_never_lead_to_more_than_passes(carries: int, seed: int) -> None:
    path = Path(carries, loss=0.3, rng=random.Random(seed))
    path.use()
    path.later(30)
    assert path.search.mtu_bytes <= carries or path.search.outer_df == "clear"


def test_peer_that_answers_nothing_gets_datagrams_that_may_be_fragmented() -> None:
    path = Path(LINK, answers=False)
    path.use()
    assert path.holds == (LINK, "clear", "silent")
    before = path.probes
    path.later(600)
    assert path.probes - before <= 12 * 6 + 40
    path.answers = True
    path.later(RAISE_S + 1)
    assert path.holds == (LINK, "kernel", "found")


def test_peer_that_goes_keeps_what_was_found_at_first() -> None:
    path = Path(1350)
    path.use()
    path.answers = False
    path.later(12)
    assert path.holds == (1350, "kernel", "found")
    path.later(120)
    assert path.holds == (1350, "clear", "silent")


def test_word_of_the_kernel_holds_at_once_and_stays_if_probes_agree() -> None:
    path = Path(1350)
    path.search.hint(1400, path.now_s)
    assert path.holds == (1350, "kernel", "searching")
    path.settle()
    assert path.holds == (1350, "kernel", "found")
    assert path.now_s - 1000.0 <= 1.5


def test_forged_word_of_the_kernel_lasts_a_round_trip() -> None:
    path = Path(LINK)
    path.use()
    path.search.hint(552, path.now_s)
    assert path.search.mtu_bytes == LINK
    begun_s = path.now_s
    path.settle()
    assert path.holds == (LINK, "probed", "found")
    # The least it was put to takes no longer than its own probes, of which one is answered.
    assert path.now_s - begun_s <= 1.5
    # The same word again, of datagrams still under way, changes nothing.
    path.search.hint(552, path.now_s)
    assert path.holds == (LINK, "probed", "found")
    path.later(BELIEF_S + 1)
    assert path.holds == (LINK, "kernel", "found")


def test_word_of_the_kernel_that_is_doubtful_is_believed_after_a_probe() -> None:
    path = Path(552 - OVERHEAD)
    path.search.hint(552, path.now_s)
    path.settle()
    assert path.holds == (552 - OVERHEAD, "kernel", "found")
    wide = Path(LINK)
    wide.use()
    wide.search.hint(1280, wide.now_s)
    assert wide.search.mtu_bytes == 1280 - OVERHEAD


def test_path_that_narrows_while_the_kernel_is_doubted_is_found_by_probes() -> None:
    path = Path(LINK)
    path.use()
    path.search.hint(552, path.now_s)
    path.settle()
    path.carries = 1300
    path.later(15)
    assert path.holds[0] == 1300


def test_word_of_the_kernel_about_a_silent_peer_is_kept_until_it_runs_out() -> None:
    path = Path(1350, answers=False)
    path.search.hint(1400, path.now_s)
    path.settle()
    assert path.holds == (1350, "clear", "silent")
    path.later(BELIEF_S + 1)
    assert path.search.mtu_bytes == LINK


def test_path_that_widens_is_used_wholly_within_a_minute_or_so() -> None:
    path = Path(1350)
    path.use()
    path.carries = 1400
    path.later(RAISE_S + 15)
    assert path.holds[0] == 1400


def test_path_that_narrows_in_silence_is_found_at_the_next_look() -> None:
    path = Path(LINK)
    path.use()
    path.carries = 500
    path.later(INTERVAL_S + 8)
    assert path.holds == (500, "kernel", "found")


def test_mtu_of_the_operators_route_is_never_exceeded() -> None:
    path = Path(LINK)
    path.use()
    path.search.hint(1400, path.now_s)
    path.search.set_cap(1400)
    path.settle()
    assert path.holds == (1350, "kernel", "found")
    path.later(130)
    assert path.holds[0] == 1350
    path.search.set_cap(None)
    path.later(RAISE_S + BELIEF_S)
    assert path.holds[0] == LINK


def test_new_mtu_of_the_link_is_taken_over_and_tried() -> None:
    path = Path(8950, link=1450)
    path.use()
    path.search.set_link(8950)
    assert path.search.mtu_bytes == 8950
    path.use()
    assert path.holds == (8950, "kernel", "found")
    path.search.set_link(1000)
    assert path.search.mtu_bytes == 1000


def test_answer_to_another_round_is_none() -> None:
    path = Path(LINK)
    path.search.answered(7, 0, path.now_s)
    assert path.search.use(path.now_s, INTERVAL_S)
    path.search.answered(999, 0, path.now_s)
    path.search.answered(path.search.tokens()[0], 0, path.now_s)
    assert path.search.is_probing
