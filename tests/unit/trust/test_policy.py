from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.trust.values import addresses, key, net, nets, recorded
from tunneld.clock import Now
from tunneld.lease.model import RecordEncryption, Unreadable
from tunneld.trust import policy as rules
from tunneld.trust.decision import Claim, Trust
from tunneld.trust.identities import Identity
from tunneld.trust.memory import Memory
from tunneld.trust.policy import MODES, Mode, Policy, Remote, Verdict

HOUR_S = 3600.0
KEY = key(1)
SUBNET = net("10.5.1.0/24")
PLAIN = Remote(subnets=frozenset({SUBNET}), addresses=addresses("192.0.2.1"), encryption=None)
KEYED = replace(PLAIN, encryption=recorded(KEY))
UNREADABLE = replace(PLAIN, encryption=Unreadable(value=7, detail="Format is 2, expected 1"))
CLAIM = Claim(key=KEY, subnets=frozenset({SUBNET}))


def policy(mode: Mode, **rest: object) -> Policy:
    given: dict[str, object] = {"trust": Trust(), "memory": Memory(), **rest}
    return Policy(mode=mode, **given)  # type: ignore[arg-type]


def judge(
    of: Policy, remote: Remote = KEYED, claim: Claim | None = None, now_s: float = 0.0
) -> Verdict:
    return of.judge(SUBNET, remote, claim, now_s)


def said(verdict: Verdict) -> tuple[str, str]:
    return verdict.way, verdict.reason


@pytest.mark.parametrize(
    ("network", "floor", "expected"),
    [
        ("off", "off", "off"),
        ("off", "required", "required"),
        ("preferred", "required", "required"),
        ("required", "off", "required"),
        ("required", "preferred", "required"),
        ("off", "preferred", "preferred"),
        ("preferred", "off", "preferred"),
    ],
)
def test_the_stronger_of_network_and_floor_is_in_force(
    network: Mode, floor: Mode, expected: Mode
) -> None:
    assert rules.effective(network, floor) == expected


def test_the_floor_is_required_as_soon_as_trust_is_local() -> None:
    assert rules.default_floor(is_local=True) == "required"
    assert rules.default_floor(is_local=False) == "off"


REFUSALS = [
    ("required", "host-gw", "kernel", False, "host-gw backend leaves packets as they are"),
    ("preferred", "host-gw", "kernel", False, "host-gw backend leaves packets as they are"),
    ("preferred", "alloc", "none", False, "alloc backend leaves packets as they are"),
    ("required", "alloc", "none", False, "alloc backend leaves packets as they are"),
    ("required", "vxlan", "userspace", True, "DirectRouting sends in plain"),
    ("required", "vxlan", "kernel", False, "kernel's vxlan device sends in plain"),
    ("preferred", "vxlan", "kernel", False, "kernel's vxlan device sends in plain"),
]


@pytest.mark.parametrize(("mode", "backend", "datapath", "direct", "says"), REFUSALS)
def test_what_would_send_in_plain_is_refused(
    mode: Mode, backend: str, datapath: str, says: str, *, direct: bool
) -> None:
    found = rules.refusal(mode, backend_type=backend, datapath=datapath, uses_direct_routes=direct)
    assert found is not None
    assert says in found
    assert f"encryption is {mode}" in found


@pytest.mark.parametrize(
    ("mode", "backend", "datapath", "direct"),
    [
        ("off", "host-gw", "kernel", True),
        ("off", "vxlan", "kernel", False),
        ("preferred", "vxlan", "userspace", True),
        ("required", "udp", "userspace", False),
        ("required", "vxlan", "userspace", False),
    ],
)
def test_what_can_be_served_is_not_refused(
    mode: Mode, backend: str, datapath: str, *, direct: bool
) -> None:
    assert not rules.refusal(
        mode, backend_type=backend, datapath=datapath, uses_direct_routes=direct
    )


def test_off_is_plain_for_all() -> None:
    for remote in (PLAIN, KEYED, UNREADABLE):
        assert said(judge(policy("off"), remote)) == ("plain", "mode_off")


def test_a_pair_with_keys_goes_back_to_plain_in_two_steps() -> None:
    of = policy("required")
    assert said(judge(of, claim=CLAIM)) == ("encrypted", "keys")
    of.follow("off", [KEYED], 100.0)
    for now_s, way, until_s in ((100.0, "encrypted", 110.0), (110.0, "plain", 120.0)):
        found = judge(of, claim=CLAIM, now_s=now_s)
        assert (said(found), found.until_s) == ((way, "lowered"), until_s)
        assert found.key == KEY, "what comes the other way is taken"
        assert of.lowered_until_s(now_s) == 120.0
    assert said(judge(of, claim=CLAIM, now_s=120.0)) == ("plain", "mode_off")
    assert of.lowered_until_s(120.0) is None


def test_only_who_has_proved_its_keys_is_sent_more_by_them_on_the_way_back() -> None:
    of = policy("preferred")
    judge(of, claim=CLAIM)
    of.follow("off", [KEYED], 0.0)
    assert said(judge(of, now_s=1.0)) == ("plain", "mode_off")
    assert said(judge(of, PLAIN, CLAIM, 1.0)) == ("plain", "mode_off")


def test_who_was_talked_to_in_plain_is_so_until_keys_are_confirmed_whatever_it_had_before() -> None:
    of = policy("preferred")
    judge(of, claim=CLAIM)
    of.follow("off", [KEYED], 0.0)
    of.follow("preferred", [KEYED], 100.0)
    assert said(judge(of, PLAIN, now_s=101.0)) == ("plain", "no_keys"), "it hears of it later"
    found = judge(of, now_s=102.0)
    assert (said(found), found.until_s) == (("plain", "switching"), 112.0)
    found = judge(of, claim=CLAIM, now_s=103.0)
    assert (said(found), found.until_s) == (("encrypted", "keys"), 112.0), "it may switch later"


def test_required_ends_all_plain_at_once() -> None:
    of = policy("off")
    of.follow("preferred", [KEYED], 0.0)
    assert said(judge(of, now_s=1.0)) == ("plain", "switching")
    of.follow("required", [KEYED], 2.0)
    found = judge(of, now_s=2.0)
    assert (found.way, found.until_s) == ("encrypted", None)
    assert said(judge(of, PLAIN, now_s=2.0)) == ("unreachable", "required")


def test_a_mode_that_is_followed_twice_is_followed_once() -> None:
    of = policy("off")
    of.follow("preferred", [KEYED], 0.0)
    assert judge(of, now_s=1.0).until_s == 11.0
    of.follow("preferred", [KEYED], 5.0)
    assert judge(of, now_s=6.0).until_s == 11.0


def test_required_reaches_nobody_without_keys() -> None:
    assert said(judge(policy("required"), PLAIN)) == ("unreachable", "required")


@pytest.mark.parametrize("mode", ["preferred", "required"])
def test_a_record_that_cannot_be_read_means_keys(mode: Mode) -> None:
    verdict = judge(policy(mode), UNREADABLE)
    assert said(verdict) == ("unreachable", "unreadable_keys")
    assert "Format is 2, expected 1" in verdict.detail


def test_nobody_else_has_the_key_of_this_host() -> None:
    rules_of = policy("preferred")
    rules_of.own = KEY
    verdict = judge(rules_of, claim=CLAIM)
    assert (said(verdict), verdict.key) == (("unreachable", "own_key"), None)
    assert said(judge(rules_of, PLAIN)) == ("unreachable", "had_keys"), "nor in plain afterwards"


@pytest.mark.parametrize("mode", ["preferred", "required"])
def test_keys_are_used_and_confirmed_by_a_claim(mode: Mode) -> None:
    one = policy(mode)
    first = judge(one)
    assert (said(first), first.key, first.is_confirmed) == (("encrypted", "keys"), KEY, False)
    assert "no handshake" in first.detail
    assert judge(one, claim=CLAIM).is_confirmed


@pytest.mark.parametrize("mode", ["preferred", "required"])
def test_whom_trust_does_not_allow_is_unreachable(mode: Mode) -> None:
    one = policy(mode, trust=Trust(identities=[Identity(key=key(2), name="other")]))
    verdict = judge(one, claim=CLAIM)
    assert said(verdict) == ("unreachable", "untrusted")
    assert "not among the identities" in verdict.detail


def test_a_claim_of_something_else_is_unreachable() -> None:
    other = Claim(key=KEY, subnets=nets("10.5.9.0/24"))
    found = judge(policy("preferred"), claim=other)
    assert said(found) == ("unreachable", "claim")
    assert found.key is not None, "handshakes go on: its next claim may be this one"


def test_preferred_reaches_in_plain_who_never_had_keys() -> None:
    assert said(judge(policy("preferred"), PLAIN)) == ("plain", "no_keys")


@pytest.mark.parametrize(
    "later",
    [
        PLAIN,
        replace(PLAIN, addresses=addresses("192.0.2.77")),
        replace(PLAIN, subnets=nets("10.5.9.0/24")),
        replace(PLAIN, subnets=nets("10.5.0.0/16"), addresses=addresses("192.0.2.77")),
    ],
    ids=["as it was", "another host", "another subnet", "a wider subnet"],
)
def test_a_peer_that_had_keys_is_not_reached_in_plain_for_a_day(later: Remote) -> None:
    one = policy("preferred")
    judge(one, KEYED, now_s=0.0)
    judge(one, KEYED, now_s=5 * HOUR_S)
    verdict = judge(one, later, now_s=28 * HOUR_S)
    assert said(verdict) == ("unreachable", "had_keys")
    subnets = ",".join(sorted(map(str, later.subnets)))
    assert f"tunneld trust allow-plain {subnets}" in verdict.detail
    assert said(judge(one, later, now_s=29 * HOUR_S)) == ("plain", "no_keys")


def test_what_an_operator_allows_in_plain_is() -> None:
    one = policy("preferred")
    judge(one, KEYED)
    one.memory.allow_plain(SUBNET, 0.0)
    assert said(judge(one, PLAIN)) == ("plain", "no_keys")


@pytest.mark.parametrize("is_restarted", [False, True])
def test_the_record_that_a_tunneld_left_behind_does_not_count_once_plain_is_allowed(
    is_restarted: bool,
) -> None:
    one = policy("preferred")
    judge(one, KEYED)
    assert said(judge(one, KEYED, now_s=1.0)) == ("encrypted", "keys")
    one.memory.allow_plain(SUBNET, 2.0)
    if is_restarted:
        at = Now(wall_s=1_000.0, boot_s=3.0, boot_id="first")
        one = policy("preferred", memory=Memory.load(one.memory.dump(at), at))
    verdict = judge(one, KEYED, now_s=3.0)
    assert (said(verdict), verdict.key) == (("plain", "no_keys"), None)
    one.held(KEYED, 4.0)
    assert said(judge(one, PLAIN, now_s=5.0)) == ("plain", "no_keys"), "its record has ended"
    assert said(judge(one, KEYED, now_s=6.0)) == ("plain", "no_keys")
    # tunneld is started there again: as when it showed keys for the first time.
    again = replace(KEYED, encryption=replace(recorded(KEY), instance="f" * 16))
    assert said(judge(one, again, now_s=7.0)) == ("plain", "switching")
    assert said(judge(one, again, now_s=20.0)) == ("encrypted", "keys")


def test_the_keys_that_were_shown_last_are_those_of_before() -> None:
    one = policy("preferred")
    judge(one, KEYED)
    judge(one, UNREADABLE)  # in the same moment
    one.memory.allow_plain(SUBNET, 1.0)
    assert judge(one, KEYED, now_s=2.0).key is not None, "it is not what was shown last"


def test_a_tunneld_that_is_started_after_plain_was_allowed_is_not_reached_in_plain() -> None:
    one = policy("preferred")
    judge(one, KEYED)
    assert said(judge(one, PLAIN, now_s=1.0)) == ("unreachable", "had_keys")
    one.memory.allow_plain(SUBNET, 2.0)
    again = replace(KEYED, encryption=replace(recorded(KEY), instance="f" * 16))
    assert said(judge(one, again, now_s=3.0)) == ("encrypted", "keys")


def test_plain_is_allowed_for_that_host_alone_and_for_a_day() -> None:
    one = policy("preferred")
    other = replace(KEYED, subnets=nets("10.5.9.0/24"), addresses=addresses("192.0.2.99"))
    judge(one, KEYED)
    one.memory.allow_plain(SUBNET, 0.0)
    assert said(one.judge(net("10.5.9.0/24"), other, None, 1.0)) == ("encrypted", "keys")
    assert said(judge(one, KEYED, now_s=24 * HOUR_S - 1)) == ("plain", "no_keys")
    assert judge(one, KEYED, now_s=24 * HOUR_S).reason != "no_keys"
    assert said(judge(policy("required", memory=one.memory), KEYED))[0] != "plain"


def test_keys_that_are_not_trusted_are_remembered_too() -> None:
    one = policy("preferred", trust=Trust(revoked=[KEY]))
    judge(one, KEYED)
    assert said(judge(one, PLAIN)) == ("unreachable", "had_keys")


@pytest.mark.parametrize(
    ("listed", "way"),
    [
        ("10.5.1.0/24", "plain"),
        ("10.5.0.0/16", "plain"),
        ("192.0.2.0/28", "plain"),
        ("10.5.2.0/24", "unreachable"),
        ("192.0.2.128/25", "unreachable"),
    ],
)
def test_where_plain_peers_are_listed_nobody_else_is_one(listed: str, way: str) -> None:
    one = policy("preferred", plain_peers=[net(listed)])
    assert judge(one, PLAIN).way == way
    assert judge(policy("required", plain_peers=[net(listed)]), PLAIN).way == "unreachable"


def test_a_plain_peer_that_shows_keys_stays_plain_until_they_are_confirmed() -> None:
    one = policy("preferred")
    judge(one, PLAIN, now_s=0.0)
    verdict = judge(one, KEYED, now_s=100.0)
    assert (said(verdict), verdict.key, verdict.until_s) == (("plain", "switching"), KEY, 110.0)
    assert judge(one, KEYED, now_s=109.0).way == "plain"
    assert judge(one, KEYED, CLAIM, now_s=109.1).way == "encrypted"
    assert judge(one, KEYED, now_s=109.2).way == "encrypted", "once confirmed it is over"


def test_it_stays_plain_ten_seconds_at_most_and_once() -> None:
    one = policy("preferred")
    judge(one, PLAIN, now_s=0.0)
    judge(one, KEYED, now_s=100.0)
    assert judge(one, KEYED, now_s=110.0).way == "encrypted"
    # The record is taken away and put back.
    assert judge(one, PLAIN, now_s=111.0).way == "unreachable"
    assert judge(one, KEYED, now_s=112.0).way == "encrypted"


def test_both_families_of_a_peer_stay_plain() -> None:
    both = replace(PLAIN, subnets=nets("10.5.1.0/24", "fd00:5:1::/64"))
    one = policy("preferred")
    judge(one, both)
    keyed = replace(both, encryption=recorded(KEY))
    ways = [one.judge(subnet, keyed, None, 1.0).way for subnet in sorted(both.subnets, key=str)]
    assert ways == ["plain", "plain"]


@pytest.mark.parametrize(
    "before",
    [None, replace(PLAIN, subnets=nets("10.5.7.0/24"), addresses=addresses("192.0.2.7"))],
    ids=["nobody", "another"],
)
def test_a_peer_that_was_never_plain_is_not_plain_when_it_shows_keys(before: Remote | None) -> None:
    one = policy("preferred")
    if before is not None:
        judge(one, before)
    assert judge(one, KEYED).way == "encrypted"


def test_required_never_stays_plain() -> None:
    memory = Memory()
    judge(policy("off", memory=memory), PLAIN)
    assert judge(policy("required", memory=memory), KEYED).way == "encrypted"


def test_a_network_that_is_moved_by_a_restart_stays_plain_until_keys_are_confirmed() -> None:
    memory = Memory()
    judge(policy("off", memory=memory), PLAIN)
    assert said(judge(policy("preferred", memory=memory), KEYED)) == ("plain", "switching")


def test_a_peer_that_is_not_listed_does_not_stay_plain_while_it_switches() -> None:
    memory = Memory()
    judge(policy("off", memory=memory), PLAIN)
    one = policy("preferred", memory=memory, plain_peers=[net("10.9.0.0/16")])
    assert judge(one, KEYED).way == "encrypted"


def test_a_memory_that_has_news_says_so() -> None:
    one = policy("preferred")
    judge(one, PLAIN)
    assert one.has_news
    one.has_news = False
    judge(one, PLAIN, now_s=1.0)
    assert not one.has_news


SHOWN: list[RecordEncryption | Unreadable | None] = [
    None,
    recorded(KEY),
    recorded(key(2)),
    Unreadable(value=None, detail="?"),
    RecordEncryption(key="A" * 43 + "=", port=1, instance="0" * 16),
]

steps = st.lists(
    st.tuples(
        st.sampled_from(["show", "show", "show", "allow", "restart"]),
        st.sampled_from(SHOWN),
        st.sampled_from([0.0, 1.0, 9.0, 11.0, HOUR_S, 25 * HOUR_S]),
        st.sampled_from([None, CLAIM, Claim(key=key(2), subnets=frozenset({SUBNET}))]),
    ),
    max_size=30,
)


@settings(max_examples=300)
@given(steps, st.sampled_from(MODES), st.sampled_from(MODES))
def test_nothing_the_store_says_lowers_the_floor_or_makes_a_peer_with_keys_plain(
    history: list[tuple[str, RecordEncryption | Unreadable | None, float, Claim | None]],
    network: Mode,
    floor: Mode,
) -> None:
    mode = rules.effective(network, floor)
    assert MODES.index(mode) >= MODES.index(floor)
    memory = Memory()
    one = policy(mode, memory=memory)
    now_s = 0.0
    keys_s: float | None = None
    """When keys were last seen, unless plain was allowed since."""
    first_s = 0.0
    """When they were seen for the first time after that."""
    gone_s: dict[str, float] = {}
    """When plain was allowed, by the instance that had been seen last."""
    last: RecordEncryption | Unreadable | None = None
    """The keys shown last."""
    for what, entry, wait_s, claim in history:
        now_s += wait_s
        if what == "allow":
            memory.allow_plain(SUBNET, now_s)
            if keys_s is not None and isinstance(last, RecordEncryption):
                gone_s[last.instance] = now_s
            keys_s = None
            continue
        if what == "restart":
            one = policy(mode, memory=memory)
            continue
        verdict = one.judge(SUBNET, replace(PLAIN, encryption=entry), claim, now_s)
        if mode == "off":
            continue
        had = keys_s is not None and now_s - keys_s < 24 * HOUR_S
        if isinstance(entry, RecordEncryption):
            allowed_s = gone_s.get(entry.instance, -25 * HOUR_S)
            is_gone = now_s - allowed_s < 24 * HOUR_S
        else:
            is_gone = False
        shown = None if is_gone else entry
        if shown is not None:
            last = shown
            first_s = first_s if had else now_s
            keys_s = now_s
        if mode == "required":
            assert verdict.way != "plain"
        elif verdict.way == "plain" and (shown is not None or had):
            assert shown is not None, "a peer that had keys"
            assert verdict.reason == "switching"
            assert now_s - first_s < rules.SWITCH_S
        if verdict.way == "encrypted":
            assert isinstance(shown, RecordEncryption)
            assert str(verdict.key) == shown.key
