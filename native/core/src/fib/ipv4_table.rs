//! Longest-prefix match over IPv4: a multibit trie of a root and at most two tables below it.
//!
//! A lookup is one to three loads from flat arrays. Prefixes are painted shortest first, each
//! over the ones before, so that a slot always holds the longest prefix that covers it. A table is
//! made only where a prefix is longer than what is above can tell, with just as many slots as the
//! longest prefix there needs: 16 subnets of 28 bits side by side take one line of the cache. Where
//! such tables would stand under most slots of another, both are one, which spares a load.
//!
//! Source: controlled prefix expansion, Srinivasan and Varghese 1999 (ACM TOCS 17:1); level
//! compression, Nilsson and Karlsson 1999 (IEEE JSAC 17:6).

use std::collections::HashMap;
use std::net::Ipv4Addr;

use crate::adjacency_id::AdjacencyId;
use crate::fib::Target;

const ROOT_BITS: u8 = 16;
/// Bits that a table below the root tells apart where there are others below it.
const UPPER_BITS: u8 = 8;

/// A table begins at a line of the cache, which has 16 slots.
const LINE_BITS: u32 = 4;
/// Most lines: some eight million tables below tables, and 8 GB.
const MAX_LINES: usize = 1 << Slot::STRIDE_SHIFT;
const MAX_STRIDE: u32 = u32::BITS - ROOT_BITS as u32;

/// Where the slots of a table lie: `1 << stride` of them.
#[derive(Debug, Clone, Copy)]
struct Table {
    stride: u32,
    first: usize,
}

impl Table {
    /// Returns the place of the slot for the bits that what is above has not told apart; they
    /// begin at the highest.
    const fn slot(self, rest: u32) -> usize {
        self.first + (rest >> (u32::BITS - self.stride)) as usize
    }
}

/// A slot: nothing, a target, or the table one level down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot(u32);

impl Slot {
    const EMPTY: Self = Self(0);
    const LOCAL: Self = Self(1);
    const FIRST_ADJACENCY: u32 = 2;
    /// Marks a slot that leads down.
    const DOWN: u32 = 1 << 31;
    /// In such a slot: where stands how much less than the most the stride is. Below it stands the
    /// line the table begins at.
    const STRIDE_SHIFT: u32 = 27;

    const fn of(target: Target) -> Self {
        match target {
            Target::Local => Self::LOCAL,
            Target::Adjacency(AdjacencyId(place)) => Self(place + Self::FIRST_ADJACENCY),
        }
    }

    const fn target(self) -> Option<Target> {
        match self {
            Self::EMPTY => None,
            Self::LOCAL => Some(Target::Local),
            Self(number) => Some(Target::Adjacency(AdjacencyId(number - Self::FIRST_ADJACENCY))),
        }
    }

    const fn above(table: Table) -> Self {
        let line = (table.first >> LINE_BITS) as u32;
        Self(line | (MAX_STRIDE - table.stride) << Self::STRIDE_SHIFT | Self::DOWN)
    }

    /// Returns the table below.
    const fn table(self) -> Option<Table> {
        if self.0 & Self::DOWN == 0 {
            return None;
        }
        let stride = MAX_STRIDE - ((self.0 & !Self::DOWN) >> Self::STRIDE_SHIFT);
        let line = self.0 & (MAX_LINES as u32 - 1);
        Some(Table { stride, first: (line as usize) << LINE_BITS })
    }
}

/// The table. Immutable once built.
#[derive(Debug)]
pub(super) struct Ipv4Table {
    root: Box<[Slot]>,
    /// Those of all tables.
    slots: Box<[Slot]>,
}

impl Ipv4Table {
    /// Builds the table from first addresses, lengths and targets of prefixes, all distinct.
    pub(super) fn build(mut entries: Vec<(Ipv4Addr, u8, Target)>) -> Self {
        let plan = Plan::of(&entries);
        // Order among equal lengths does not matter: such prefixes are disjoint.
        entries.sort_by_key(|(_, length, _)| *length);
        let mut table = Self {
            root: vec![Slot::EMPTY; 1 << ROOT_BITS].into_boxed_slice(),
            slots: vec![Slot::EMPTY; plan.slots].into_boxed_slice(),
        };
        for (address, length, target) in entries {
            table.paint(address.to_bits(), length, Slot::of(target), &plan);
        }
        table
    }

    pub(super) fn lookup(&self, address: Ipv4Addr) -> Option<Target> {
        let bits = address.to_bits();
        let mut slot = self.root[(bits >> 16) as usize];
        if let Some(table) = slot.table() {
            let rest = bits << ROOT_BITS;
            slot = self.slots[table.slot(rest)];
            if let Some(lower) = slot.table() {
                slot = self.slots[lower.slot(rest << UPPER_BITS)];
            }
        }
        slot.target()
    }

    fn paint(&mut self, bits: u32, length: u8, slot: Slot, plan: &Plan) {
        let first = (bits >> 16) as usize;
        let Some(length) = length.checked_sub(ROOT_BITS).filter(|length| *length > 0) else {
            self.root[first..first + (1 << (ROOT_BITS - length))].fill(slot);
            return;
        };
        let (table, rest) = (plan.below_root[&first_bits(bits, ROOT_BITS)], bits << ROOT_BITS);
        hang(table, &mut self.root[first], &mut self.slots);
        let second = table.slot(rest);
        if let Some(wider) = table.stride.checked_sub(u32::from(length)) {
            self.slots[second..second + (1 << wider)].fill(slot);
            return;
        }
        let lower = plan.below_upper[&first_bits(bits, ROOT_BITS + UPPER_BITS)];
        let mut above = self.slots[second];
        hang(lower, &mut above, &mut self.slots);
        self.slots[second] = above;
        let third = lower.slot(rest << UPPER_BITS);
        let wider = lower.stride - u32::from(length - UPPER_BITS);
        self.slots[third..third + (1 << wider)].fill(slot);
    }
}

/// Hangs a table below a slot, unless it is there; it says in each of its slots what that said.
fn hang(table: Table, above: &mut Slot, slots: &mut [Slot]) {
    if above.table().is_none() {
        slots[table.first..table.first + (1 << table.stride)].fill(*above);
        *above = Slot::above(table);
    }
}

const fn first_bits(bits: u32, count: u8) -> u32 {
    bits >> (u32::BITS - count as u32)
}

/// Which tables there are, and where each has its slots.
struct Plan {
    /// By the first 16 bits of addresses.
    below_root: HashMap<u32, Table>,
    /// By the first 24 bits; those under tables of [`UPPER_BITS`].
    below_upper: HashMap<u32, Table>,
    /// How many slots they have together.
    slots: usize,
}

impl Plan {
    fn of(entries: &[(Ipv4Addr, u8, Target)]) -> Self {
        let below_root = strides(entries, ROOT_BITS);
        let mut below_upper = strides(entries, ROOT_BITS + UPPER_BITS);
        let mut apart: HashMap<u32, usize> = HashMap::new();
        for (upper, stride) in &below_upper {
            *apart.entry(upper >> UPPER_BITS).or_insert(1 << UPPER_BITS) += 1 << stride;
        }
        // Two tables in a row become one where that takes at most twice the slots.
        let is_one = |first: &u32| {
            let needed = 1usize << below_root[first];
            apart.get(first).is_none_or(|apart| needed <= 2 * apart)
        };
        below_upper.retain(|upper, _| !is_one(&(upper >> UPPER_BITS)));
        let below_root = below_root.iter().map(|(first, stride)| {
            (*first, if is_one(first) { *stride } else { u32::from(UPPER_BITS) })
        });
        Self::lay_out(below_root.collect(), below_upper)
    }

    /// Gives the tables their slots, by the strides they have. Neighbours lie side by side.
    fn lay_out(below_root: HashMap<u32, u32>, below_upper: HashMap<u32, u32>) -> Self {
        let mut slots = 0usize;
        let mut place = |strides: HashMap<u32, u32>| {
            let mut strides: Vec<_> = strides.into_iter().collect();
            strides.sort_unstable();
            let tables = strides.into_iter().map(|(at, stride)| {
                let first = slots;
                slots = (first + (1 << stride)).next_multiple_of(1 << LINE_BITS);
                (at, Table { stride, first })
            });
            tables.collect()
        };
        let (below_root, below_upper) = (place(below_root), place(below_upper));
        assert!(slots >> LINE_BITS <= MAX_LINES, "a table of {slots} slots is not supported");
        Self { below_root, below_upper, slots }
    }
}

/// Returns what the longest of the prefixes needs beyond their first `above` bits, by those.
fn strides(entries: &[(Ipv4Addr, u8, Target)], above: u8) -> HashMap<u32, u32> {
    let mut strides = HashMap::new();
    for (address, length, _) in entries {
        if let Some(needed) = length.checked_sub(above).filter(|needed| *needed > 0) {
            let stride = strides.entry(first_bits(address.to_bits(), above)).or_default();
            *stride = u32::from(needed).max(*stride);
        }
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjacency(place: u32) -> Target {
        Target::Adjacency(AdjacencyId(place))
    }

    fn entry(text: &str, target: Target) -> (Ipv4Addr, u8, Target) {
        let (address, length) = text.split_once('/').unwrap();
        (address.parse().unwrap(), length.parse().unwrap(), target)
    }

    fn lookup(entries: &[(&str, Target)], address: &str) -> Option<Target> {
        let entries = entries.iter().map(|(text, target)| entry(text, *target)).collect();
        Ipv4Table::build(entries).lookup(address.parse().unwrap())
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        assert_eq!(lookup(&[], "10.5.0.1"), None);
    }

    #[test]
    fn the_longest_prefix_wins_in_whatever_order_they_come() {
        let mut entries = [
            ("0.0.0.0/0", adjacency(0)),
            ("10.0.0.0/8", adjacency(1)),
            ("10.5.0.0/16", adjacency(2)),
            ("10.5.26.0/24", Target::Local),
            ("10.5.26.128/25", adjacency(4)),
            ("10.5.26.200/32", adjacency(5)),
        ];
        for _ in 0..entries.len() {
            entries.rotate_left(1);
            for (address, target) in [
                ("9.9.9.9", adjacency(0)),
                ("10.6.0.1", adjacency(1)),
                ("10.5.27.1", adjacency(2)),
                ("10.5.26.127", Target::Local),
                ("10.5.26.128", adjacency(4)),
                ("10.5.26.200", adjacency(5)),
                ("10.5.26.201", adjacency(4)),
            ] {
                assert_eq!(lookup(&entries, address), Some(target), "{address}");
            }
        }
    }

    #[test]
    fn a_prefix_covers_its_first_and_last_address_and_no_other() {
        let entries = [("10.5.26.0/23", adjacency(7))];
        assert_eq!(lookup(&entries, "10.5.25.255"), None);
        assert_eq!(lookup(&entries, "10.5.26.0"), Some(adjacency(7)));
        assert_eq!(lookup(&entries, "10.5.27.255"), Some(adjacency(7)));
        assert_eq!(lookup(&entries, "10.5.28.0"), None);
    }

    #[test]
    fn leaves_of_every_size_stand_side_by_side() {
        let first = |length: u32| 0x0a05_0000 | length << 8;
        let entry =
            |length: u32| (Ipv4Addr::from_bits(first(length)), length as u8, adjacency(length));
        let mut entries: Vec<_> = (25..=32).rev().map(entry).collect();
        entries.push(self::entry("10.5.0.0/16", adjacency(0)));
        let table = Ipv4Table::build(entries);
        for length in 25..=32 {
            let past = first(length) + (1 << (32 - length));
            assert_eq!(table.lookup(Ipv4Addr::from_bits(first(length))), Some(adjacency(length)));
            assert_eq!(table.lookup(Ipv4Addr::from_bits(past - 1)), Some(adjacency(length)));
            assert_eq!(table.lookup(Ipv4Addr::from_bits(past)), Some(adjacency(0)));
        }
    }

    #[test]
    fn tables_that_would_stand_side_by_side_become_one() {
        let dense = (0..1 << 12).map(|i| (Ipv4Addr::from_bits(0x0a05_0000 | i << 4), 28));
        let sparse = (0..1 << 6).map(|i| (Ipv4Addr::from_bits(0x0a06_0000 | i << 10), 28));
        let nested = [(Ipv4Addr::new(10, 0, 0, 0), 8), (Ipv4Addr::new(10, 5, 26, 0), 24)];
        let prefixes: Vec<_> = dense.chain(sparse).chain(nested).collect();
        let entries = prefixes.iter().zip(0..);
        let table = Ipv4Table::build(
            entries.map(|((first, length), place)| (*first, *length, adjacency(place))).collect(),
        );
        let stride = |second: usize| table.root[0x0a00 | second].table().map(|table| table.stride);
        assert_eq!((stride(5), stride(6), stride(7)), (Some(12), Some(8), None));
        for ((first, length), place) in prefixes.iter().zip(0..(1 << 12) + (1 << 6)) {
            let last = first.to_bits() | !mask(*length);
            assert_eq!(table.lookup(Ipv4Addr::from_bits(last)), Some(adjacency(place)));
        }
        let between = Ipv4Addr::from_bits(0x0a06_0010);
        assert_eq!(table.lookup(between), Some(adjacency((1 << 12) + (1 << 6))));
    }

    /// xorshift64*: the same numbers in every run.
    struct Seeded(u64);

    impl Seeded {
        fn next(&mut self) -> u32 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
        }
    }

    fn mask(length: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
    }

    #[test]
    fn agrees_with_a_search_through_a_list() {
        let mut random = Seeded(9);
        for round in 0..90 {
            // A narrow block makes prefixes nest and neighbour each other.
            let spread = [0xffff_ffff, 0x0003_ffff, 0x0000_0fff][round % 3];
            // Where none is long, tables below one another become one.
            let longest = [32, 28, 26][round / 3 % 3];
            let mut list: Vec<(u32, u8, Target)> = Vec::new();
            for place in 0..200 {
                let length = (random.next() % (longest + 1)) as u8;
                let first = (0x0a05_0000 ^ random.next() & spread) & mask(length);
                if list.iter().all(|(other, len, _)| (*other, *len) != (first, length)) {
                    list.push((first, length, adjacency(place)));
                }
            }
            let entries = list
                .iter()
                .map(|(first, length, target)| (Ipv4Addr::from_bits(*first), *length, *target));
            let table = Ipv4Table::build(entries.collect());
            let edges = list.iter().flat_map(|(first, length, _)| {
                let last = first | !mask(*length);
                [*first, first.wrapping_sub(1), last, last.wrapping_add(1)]
            });
            let anywhere: Vec<u32> =
                (0..500).map(|_| 0x0a05_0000 ^ random.next() & spread).collect();
            for bits in edges.chain(anywhere) {
                let naive = list
                    .iter()
                    .filter(|(first, length, _)| bits & mask(*length) == *first)
                    .max_by_key(|(_, length, _)| *length)
                    .map(|(_, _, target)| *target);
                let address = Ipv4Addr::from_bits(bits);
                assert_eq!(table.lookup(address), naive, "{address}");
            }
        }
    }

    #[test]
    fn a_million_subnets_cost_five_megabytes_at_most() {
        let entry = |i: u32| (Ipv4Addr::from_bits(i << 4), 28, adjacency(i));
        let entries = (0..1 << 20).map(entry).collect();
        let table = Ipv4Table::build(entries);
        let slots = table.root.len() + table.slots.len();
        assert!(slots * size_of::<Slot>() < 5_000_000);
        for i in [0, 1, 0x8_0000, (1 << 20) - 1] {
            assert_eq!(table.lookup(Ipv4Addr::from_bits(i << 4 | 9)), Some(adjacency(i)));
        }
        assert_eq!(table.lookup(Ipv4Addr::from_bits(1 << 24)), None);
    }
}
