use super::*;
use crate::adjacency_id::AdjacencyId;

fn adjacency(place: u32) -> Target {
    Target::Adjacency(AdjacencyId(place))
}

fn lookup(entries: &[(&str, Target)], address: &str) -> Option<Target> {
    let entry = |(text, target): &(&str, Target)| {
        let (address, length) = text.split_once('/').unwrap();
        (address.parse().unwrap(), length.parse().unwrap(), *target)
    };
    Ipv6Table::build(entries.iter().map(entry).collect()).lookup(address.parse().unwrap())
}

#[test]
fn an_empty_table_finds_nothing() {
    for address in ["::", "fd00::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
        assert_eq!(lookup(&[], address), None);
    }
}

#[test]
fn the_longest_prefix_wins_in_whatever_order_they_come() {
    let mut entries = [
        ("::/0", adjacency(0)),
        ("fd00::/8", adjacency(1)),
        ("fd00:5::/32", adjacency(2)),
        ("fd00:5:26::/64", Target::Local),
        ("fd00:5:26:0:8000::/65", adjacency(4)),
        ("fd00:5:26:0:8000::c8/128", adjacency(5)),
    ];
    for _ in 0..entries.len() {
        entries.rotate_left(1);
        for (address, target) in [
            ("2001:db8::9", adjacency(0)),
            ("fd01::1", adjacency(1)),
            ("fd00:5:27::1", adjacency(2)),
            ("fd00:5:26:0:7fff:ffff:ffff:ffff", Target::Local),
            ("fd00:5:26:0:8000::", adjacency(4)),
            ("fd00:5:26:0:8000::c8", adjacency(5)),
            ("fd00:5:26:0:8000::c9", adjacency(4)),
        ] {
            assert_eq!(lookup(&entries, address), Some(target), "{address}");
        }
    }
}

#[test]
fn a_prefix_covers_its_first_and_last_address_and_no_other() {
    let entries = [("fd00:5:26::/63", adjacency(7))];
    assert_eq!(lookup(&entries, "fd00:5:25:ffff:ffff:ffff:ffff:ffff"), None);
    assert_eq!(lookup(&entries, "fd00:5:26::"), Some(adjacency(7)));
    assert_eq!(lookup(&entries, "fd00:5:26:1:ffff:ffff:ffff:ffff"), Some(adjacency(7)));
    assert_eq!(lookup(&entries, "fd00:5:26:2::"), None);
}

#[test]
fn prefixes_at_both_ends_of_the_address_space_are_found() {
    let entries = [("::/128", adjacency(1)), ("ffff::/16", adjacency(2))];
    assert_eq!(lookup(&entries, "::"), Some(adjacency(1)));
    assert_eq!(lookup(&entries, "::1"), None);
    assert_eq!(lookup(&entries, "fffe:ffff::"), None);
    assert_eq!(lookup(&entries, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Some(adjacency(2)));
    assert_eq!(lookup(&[("::/0", adjacency(3))], "::"), Some(adjacency(3)));
}

/// xorshift64*: the same numbers in every run.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn address(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

#[test]
fn agrees_with_a_search_through_a_list() {
    let mut random = Seeded(9);
    let base = 0xfd00_0005_0026_0000_0000_0000_0000_0000u128;
    for round in 0..80 {
        // A narrow block makes prefixes nest and neighbour each other.
        let spread = [u128::MAX, 0xff_ffff << 60, 0xfff << 64, 0xfff][round % 4];
        let count = [0, 1, 2, 3, 200][round % 5];
        let mut list: Vec<(u128, u8, Target)> = Vec::new();
        for place in 0..count {
            let length = (random.next() % 129) as u8;
            let first = (base ^ random.address() & spread) & mask(length);
            if list.iter().all(|(other, len, _)| (*other, *len) != (first, length)) {
                // A few targets only, so that neighbours share one.
                list.push((first, length, adjacency(place % 5)));
            }
        }
        let entries = list
            .iter()
            .map(|(first, length, target)| (Ipv6Addr::from_bits(*first), *length, *target));
        let table = Ipv6Table::build(entries.collect());
        let edges = list.iter().flat_map(|(first, length, _)| {
            let last = first | !mask(*length);
            [*first, first.wrapping_sub(1), last, last.wrapping_add(1)]
        });
        let anywhere: Vec<u128> = (0..500).map(|_| base ^ random.address() & spread).collect();
        for bits in edges.chain(anywhere).chain([0, u128::MAX]) {
            let naive = list
                .iter()
                .filter(|(first, length, _)| bits & mask(*length) == *first)
                .max_by_key(|(_, length, _)| *length)
                .map(|(_, _, target)| *target);
            let address = Ipv6Addr::from_bits(bits);
            assert_eq!(table.lookup(address), naive, "{address}");
        }
    }
}

#[test]
fn a_million_subnets_cost_64_bytes_each_at_most_wherever_they_lie() {
    const COUNT: u32 = 1 << 20;
    let evenly = |i: u32| 0xfd00 << 112 | u128::from(i) << 65;
    // An odd factor makes each number below 2^40 another one.
    let anywhere = |i: u32| {
        u128::from((u64::from(i).wrapping_mul(0x9e_3779_b97f) & 0xff_ffff_ffff) << 24) << 64
    };
    for subnet in [evenly, anywhere] {
        let entry = |i: u32| (Ipv6Addr::from_bits(subnet(i)), 64, adjacency(i));
        let table = Ipv6Table::build((0..COUNT).map(entry).collect());
        let size = size_of_val(&*table.ranges) + size_of_val(&*table.index);
        assert!(size <= 64 * COUNT as usize + 1_000, "{size} bytes");
        for i in [0, 1, 0x8_0000, COUNT - 1] {
            let address = Ipv6Addr::from_bits(subnet(i) | 9);
            assert_eq!(table.lookup(address), Some(adjacency(i)));
        }
        assert_eq!(table.lookup(Ipv6Addr::from_bits(0xff << 120)), None);
    }
}
