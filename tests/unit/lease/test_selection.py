"""Which leases of the table may be peers."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.leases import lease, table, usable
from tests.unit.lease.effort import calls_of
from tests.unit.lease.following import HOSTS, OWN, tracking
from tests.unit.lease.values import NETWORK
from tunneld.lease.model import Lease, LeaseAttributes, SubnetKey
from tunneld.lease.network import parse
from tunneld.lease.ownership import Overwritten, judge
from tunneld.lease.selection import Selection
from tunneld.lease.tracker import LeaseTracker


def select(*leases: Lease) -> Selection:
    return tracking(OWN, *leases).peers_of(OWN, NETWORK)


def reasons(selection: Selection) -> list[tuple[str, str]]:
    return [(entry.name, entry.reason) for entry in selection.skipped]


def test_leases_of_the_others_are_accepted_sorted_by_subnet() -> None:
    far, near = lease("10.5.9.0/24", "192.0.2.19"), lease("10.5.2.0/24", "192.0.2.12")
    assert select(far, near) == Selection(accepted=(usable(near), usable(far)), skipped=())


def test_own_lease_is_neither_accepted_nor_skipped() -> None:
    assert select() == Selection(accepted=(), skipped=())


@pytest.mark.parametrize(
    ("subnet", "public_ip", "reason"),
    [
        ("10.6.2.0/24", "192.0.2.12", "outside_network"),
        ("10.0.0.0/8", "192.0.2.12", "outside_network"),
        ("0.0.0.0/0", "192.0.2.12", "outside_network"),
        ("10.5.1.128/25", "192.0.2.12", "overlaps_own"),
        ("10.5.0.0/16", "192.0.2.12", "overlaps_own"),
        ("10.5.1.0/24", "192.0.2.12", "overlaps_own"),
        ("10.5.2.0/24", "192.0.2.11", "own_public_ip"),
        ("10.5.2.0/24", "0.0.0.0", "unusable_public_ip"),
        ("10.5.2.0/24", "127.0.0.1", "unusable_public_ip"),
        ("10.5.2.0/24", "224.0.0.1", "unusable_public_ip"),
        ("10.5.2.0/24", "255.255.255.255", "unusable_public_ip"),
        ("10.5.2.0/24", "10.5.9.9", "unusable_public_ip"),
    ],
)
def test_lease_that_would_harm_is_skipped(subnet: str, public_ip: str, reason: str) -> None:
    good = lease("10.5.7.0/24", "192.0.2.17")
    tracker = LeaseTracker()
    tracker.reset(table(lease(subnet, public_ip), good))
    selection = tracker.peers_of(OWN, NETWORK)
    assert selection.accepted == (usable(good),)
    assert reasons(selection) == [(subnet, reason)]


def test_ipv6_only_lease_is_outside_of_an_ipv4_network() -> None:
    only = Lease(
        key=SubnetKey(IPv4Network("0.0.0.0/0"), IPv6Network("fd00::/64")),
        attributes=LeaseAttributes(public_ip=OWN.attributes.public_ip),
    )
    assert reasons(select(only)) == [("fd00::/64", "outside_network")]


def test_of_overlapping_leases_the_one_created_first_counts() -> None:
    wide = lease("10.5.4.0/22", "192.0.2.14", create=9)
    early = lease("10.5.5.0/24", "192.0.2.15", create=7)
    late = lease("10.5.6.0/24", "192.0.2.16", create=11)
    selection = select(wide, late, early)
    assert selection.accepted == (usable(early), usable(late))
    assert reasons(selection) == [("10.5.4.0/22", "overlaps_peer")]


def test_wide_lease_that_was_there_first_keeps_out_all_inside() -> None:
    wide = lease("10.5.4.0/22", "192.0.2.14", create=3)
    inside = [lease(f"10.5.{number}.0/24", f"192.0.2.{number}", create=number) for number in (5, 6)]
    selection = select(*inside, wide)
    assert selection.accepted == (usable(wide),)
    assert len(selection.skipped) == 2


def test_lease_that_cannot_be_used_does_not_keep_out_another() -> None:
    useless = lease("10.5.4.0/22", "0.0.0.0", create=3)
    good = lease("10.5.5.0/24", "192.0.2.15", create=9)
    assert select(useless, good).accepted == (usable(good),)


class TestBothFamilies:
    NETWORK = parse(
        '{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48"}'
    )
    OWN = lease("10.5.1.0/24,fd00:10:5:1::/64", "192.0.2.11,fd99::11", create=5)

    def select(self, *leases: Lease) -> Selection:
        return tracking(self.OWN, *leases).peers_of(self.OWN, self.NETWORK)

    def test_both_subnets_of_a_good_lease_are_usable(self) -> None:
        good = lease("10.5.2.0/24,fd00:10:5:2::/64", "192.0.2.12,fd99::12")
        assert self.select(good) == Selection(accepted=(usable(good),), skipped=())

    @pytest.mark.parametrize("subnet", ["10.5.2.0/24", "fd00:10:5:2::/64"])
    def test_peer_of_one_family_is_usable_in_that(self, subnet: str) -> None:
        half = lease(subnet, "192.0.2.12,fd99::12")
        assert self.select(half) == Selection(accepted=(usable(half),), skipped=())

    @pytest.mark.parametrize(
        ("bad", "public_ips", "reason"),
        [
            ("10.6.2.0/24", "192.0.2.12,fd99::12", "outside_network"),
            ("10.5.1.0/24", "192.0.2.12,fd99::12", "overlaps_own"),
            ("10.5.2.0/24", "192.0.2.11,fd99::12", "own_public_ip"),
            ("10.5.2.0/24", "127.0.0.1,fd99::12", "unusable_public_ip"),
            ("fd00:10:6:2::/64", "192.0.2.12,fd99::12", "outside_network_v6"),
            ("fd00:10:5:1::/64", "192.0.2.12,fd99::12", "overlaps_own_v6"),
            ("fd00:10:5::/60", "192.0.2.12,fd99::12", "overlaps_own_v6"),
            ("fd00:10:5:2::/64", "192.0.2.12,fd99::11", "own_public_ip_v6"),
            ("fd00:10:5:2::/64", "192.0.2.12,::", "unusable_public_ip_v6"),
            ("fd00:10:5:2::/64", "192.0.2.12,::1", "unusable_public_ip_v6"),
            ("fd00:10:5:2::/64", "192.0.2.12,ff02::1", "unusable_public_ip_v6"),
            ("fd00:10:5:2::/64", "192.0.2.12,fe80::12", "unusable_public_ip_v6"),
            ("fd00:10:5:2::/64", "192.0.2.12,fd00:10:5:9::9", "unusable_public_ip_v6"),
        ],
    )
    def test_fault_in_one_family_leaves_the_other_usable(
        self, bad: str, public_ips: str, reason: str
    ) -> None:
        other = "10.5.2.0/24" if ":" in bad else "fd00:10:5:2::/64"
        mixed = lease(",".join(sorted((bad, other))), public_ips)
        selection = self.select(mixed)
        assert selection.accepted == (usable(mixed, bad),)
        assert reasons(selection) == [(str(mixed.key), reason)]

    def test_lease_with_a_fault_in_each_family_is_told_and_counted_once_for_each(self) -> None:
        bad = lease("10.6.2.0/24,fd00:10:6:2::/64", "192.0.2.12,fd99::12")
        tracker = tracking(self.OWN, bad)
        first = tracker.newly_skipped(tracker.peers_of(self.OWN, self.NETWORK))
        assert [entry.reason for entry in first] == ["outside_network", "outside_network_v6"]
        assert tracker.newly_skipped(tracker.peers_of(self.OWN, self.NETWORK)) == ()
        assert tracker.skip_counts["outside_network_v6"] == 1

    def test_of_leases_that_share_one_subnet_the_one_created_first_counts_there(self) -> None:
        early = lease("10.5.2.0/24,fd00:10:5:2::/64", "192.0.2.12,fd99::12", create=7)
        late = lease("10.5.3.0/24,fd00:10:5:2::/64", "192.0.2.13,fd99::13", create=9)
        selection = self.select(late, early)
        assert selection.accepted == (usable(early), usable(late, "fd00:10:5:2::/64"))
        assert reasons(selection) == [(str(late.key), "overlaps_peer_v6")]

    def test_flanneld_that_tells_no_ipv6_address_stays_a_matter_of_the_backend(self) -> None:
        udp = lease("10.5.2.0/24,fd00:10:5:2::/64", "192.0.2.12")
        assert self.select(udp) == Selection(accepted=(usable(udp),), skipped=())

    def test_subnet_of_a_family_that_the_network_has_no_more_is_withheld_in_silence(self) -> None:
        both = lease("10.5.2.0/24,fd00:10:5:2::/64", "192.0.2.12,fd99::12")
        assert select(both) == Selection(accepted=(usable(both, "fd00:10:5:2::/64"),), skipped=())


class TestIpv6Only:
    NETWORK = parse('{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48"}')
    OWN = lease("fd00:10:5:1::/64", "fd99::11", create=5)

    def test_hosts_without_ipv4_are_peers_though_all_have_one_public_ip(self) -> None:
        peers = [lease(f"fd00:10:5:{number}::/64", f"fd99::{number}") for number in (2, 3)]
        found = tracking(self.OWN, *peers).peers_of(self.OWN, self.NETWORK)
        assert found == Selection(accepted=tuple(map(usable, peers)), skipped=())

    def test_host_that_wrote_over_the_own_lease_is_no_peer(self) -> None:
        thief = lease("fd00:10:5:1::/64", "fd99::66")
        found = tracking(thief).peers_of(self.OWN, self.NETWORK)
        assert reasons(found) == [("fd00:10:5:1::/64", "overlaps_own_v6")]

    def test_lease_over_which_another_host_has_written_is_lost(self) -> None:
        thief = lease("fd00:10:5:1::/64", "fd99::66", create=5, mod=8)
        assert judge(tracking(thief), self.OWN) == Overwritten(thief)

    def test_ipv4_lease_is_outside(self) -> None:
        found = tracking(self.OWN, OWN).peers_of(self.OWN, self.NETWORK)
        assert reasons(found) == [("10.5.1.0/24", "outside_network")]


def test_ten_times_the_leases_take_hardly_more_than_ten_times_the_work() -> None:
    own, wide = lease("10.200.0.0/24", "198.51.100.1"), parse('{"Network": "10.0.0.0/8"}')

    def work(size: int) -> int:
        tracker = tracking(
            *(
                lease(str(IPv4Network((0x0A000000 + 256 * number, 24))), f"192.0.{number >> 8}.1")
                for number in range(size)
            )
        )
        assert len(tracker.peers_of(own, wide).accepted) == size
        return calls_of(lambda: tracker.peers_of(own, wide))

    assert work(10_000) < 15 * work(1_000)


def test_leases_that_overlap_take_hardly_more_work_than_those_that_do_not() -> None:
    wide = parse('{"Network": "10.0.0.0/8", "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48"}')
    own = lease("10.255.0.0/24,fd00:10:5:ffff::/64", "198.51.100.1,fd98::1")
    size = 4_000

    def work(overlapping: bool) -> int:
        def entry(number: int) -> Lease:
            # Half of them first, each in a subnet of its own; the others, if they overlap, all in
            # one around these.
            late = overlapping and number % 2
            ipv4 = "10.0.0.0/9" if late else IPv4Network((0x0A000000 + 256 * number, 24))
            return lease(
                f"{ipv4},fd00:10:5:{number:x}::/64",
                f"192.0.{number >> 8}.{number & 255},fd99::{number:x}",
                create=number + (size if late else 0) + 2,
            )

        tracker = tracking(*map(entry, range(size)))
        found = tracker.peers_of(own, wide)
        assert len(found.skipped) == (size // 2 if overlapping else 0)
        return calls_of(lambda: tracker.peers_of(own, wide))

    assert work(True) < 2 * work(False)


@st.composite
def any_subnet(draw: st.DrawFn) -> str:
    length = draw(st.sampled_from([14, 20, 22, 23, 24, 25]))
    return str(IPv4Network((0x0A050000 + draw(st.integers(0, 4095)), length), strict=False))


@given(st.lists(st.builds(lease, any_subnet(), HOSTS, create=st.integers(1, 9)), max_size=12))
def test_accepted_leases_never_overlap_and_every_other_has_a_reason(leases: list[Lease]) -> None:
    tracker = tracking(*leases)
    selection = tracker.peers_of(OWN, NETWORK)
    accepted = [entry.lease for entry in selection.accepted]
    for number, entry in enumerate(accepted):
        assert entry.subnet.subnet_of(NETWORK.network)
        assert not entry.subnet.overlaps(OWN.subnet)
        assert not any(entry.subnet.overlaps(other.subnet) for other in accepted[:number])
    names = [str(entry.key) for entry in accepted] + [entry.name for entry in selection.skipped]
    assert sorted(names) == sorted(str(entry.key) for entry in tracker.leases)
