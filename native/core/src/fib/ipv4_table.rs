//! Longest-prefix match over IPv4: a multibit trie with strides of 16, 8 and up to 8 bits.
//!
//! A lookup is one to three loads from flat arrays. Prefixes are painted shortest first, each
//! over the ones before, so that a slot always holds the longest prefix that covers it. A node of
//! 256 slots is made only where a prefix is longer than the root can tell, and below it a leaf with
//! just as many slots as the longest prefix there needs: subnets of 28 bits take 16 of them, one
//! line of the cache, rather than 256.
//!
//! Source: controlled prefix expansion, Srinivasan and Varghese 1999 (ACM TOCS 17:1).

use std::collections::HashMap;
use std::net::Ipv4Addr;

use crate::fib::{AdjacencyId, Target};

const ROOT_BITS: u8 = 16;
const NODE_BITS: u8 = 8;
const NODE_SLOTS: usize = 1 << NODE_BITS;
/// Bits that root and nodes tell apart.
const UPPER_BITS: u8 = ROOT_BITS + NODE_BITS;

/// Where the slots of a leaf lie: `1 << stride` of them, at a multiple of their number.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    stride: u32,
    first: usize,
}

impl Leaf {
    /// Returns the place of the slot for an address.
    const fn slot(self, bits: u32) -> usize {
        self.first + ((bits & 0xff) >> (8 - self.stride)) as usize
    }
}

/// A slot: nothing, a target, or what lies one level down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot(u32);

impl Slot {
    const EMPTY: Self = Self(0);
    const LOCAL: Self = Self(1);
    const FIRST_ADJACENCY: u32 = 2;
    /// Marks a slot that leads down.
    const DOWN: u32 = 1 << 31;
    /// In the slot above a leaf: where its stride less one stands.
    const STRIDE_SHIFT: u32 = 28;

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

    /// Returns the slot above a node. There are at most 2^16 nodes.
    const fn above_node(number: usize) -> Self {
        Self(number as u32 | Self::DOWN)
    }

    /// Returns the slot above a leaf, which tells its first slot by its own size: see [`lay_out`].
    const fn above_leaf(leaf: Leaf) -> Self {
        let number = (leaf.first >> leaf.stride) as u32;
        Self(number | (leaf.stride - 1) << Self::STRIDE_SHIFT | Self::DOWN)
    }

    /// Returns the first slot of the node below a slot of the root.
    const fn node(self) -> Option<usize> {
        if self.0 & Self::DOWN == 0 {
            return None;
        }
        Some((self.0 & !Self::DOWN) as usize * NODE_SLOTS)
    }

    /// Returns the leaf below a slot of a node.
    const fn leaf(self) -> Option<Leaf> {
        if self.0 & Self::DOWN == 0 {
            return None;
        }
        let stride = ((self.0 & !Self::DOWN) >> Self::STRIDE_SHIFT) + 1;
        let number = self.0 & ((1 << Self::STRIDE_SHIFT) - 1);
        Some(Leaf { stride, first: (number as usize) << stride })
    }
}

/// The table. Immutable once built.
#[derive(Debug)]
pub(super) struct Ipv4Table {
    root: Box<[Slot]>,
    nodes: Vec<Slot>,
    leaves: Box<[Slot]>,
}

impl Ipv4Table {
    /// Builds the table from first addresses, lengths and targets of prefixes, all distinct.
    pub(super) fn build(mut entries: Vec<(Ipv4Addr, u8, Target)>) -> Self {
        let (places, slots) = lay_out(&entries);
        // Order among equal lengths does not matter: such prefixes are disjoint.
        entries.sort_by_key(|(_, length, _)| *length);
        let mut table = Self {
            root: vec![Slot::EMPTY; 1 << ROOT_BITS].into_boxed_slice(),
            nodes: Vec::new(),
            leaves: vec![Slot::EMPTY; slots].into_boxed_slice(),
        };
        for (address, length, target) in entries {
            table.paint(address.to_bits(), length, Slot::of(target), &places);
        }
        table.nodes.shrink_to_fit();
        table
    }

    pub(super) fn lookup(&self, address: Ipv4Addr) -> Option<Target> {
        let bits = address.to_bits();
        let mut slot = self.root[(bits >> 16) as usize];
        if let Some(node) = slot.node() {
            slot = self.nodes[node + (bits >> 8 & 0xff) as usize];
            if let Some(leaf) = slot.leaf() {
                slot = self.leaves[leaf.slot(bits)];
            }
        }
        slot.target()
    }

    fn paint(&mut self, bits: u32, length: u8, slot: Slot, places: &HashMap<u32, Leaf>) {
        let first = (bits >> 16) as usize;
        let Some(rest) = length.checked_sub(ROOT_BITS).filter(|rest| *rest > 0) else {
            self.root[first..first + (1 << (ROOT_BITS - length))].fill(slot);
            return;
        };
        let second = self.node_below(first) + (bits >> 8 & 0xff) as usize;
        let Some(rest) = rest.checked_sub(NODE_BITS).filter(|rest| *rest > 0) else {
            self.nodes[second..second + (1 << (NODE_BITS - rest))].fill(slot);
            return;
        };
        let leaf = places[&(bits >> 8)];
        self.hang(leaf, second);
        let third = leaf.slot(bits);
        self.leaves[third..third + (1 << (leaf.stride - u32::from(rest)))].fill(slot);
    }

    /// Returns the node below a slot of the root; a new one says in each slot what that said.
    fn node_below(&mut self, at: usize) -> usize {
        self.root[at].node().unwrap_or_else(|| {
            let node = self.nodes.len();
            self.nodes.resize(node + NODE_SLOTS, self.root[at]);
            self.root[at] = Slot::above_node(node / NODE_SLOTS);
            node
        })
    }

    /// Hangs a leaf below a slot of a node, unless it is there; it says in each slot what that said.
    fn hang(&mut self, leaf: Leaf, at: usize) {
        if self.nodes[at].leaf().is_none() {
            self.leaves[leaf.first..leaf.first + (1 << leaf.stride)].fill(self.nodes[at]);
            self.nodes[at] = Slot::above_leaf(leaf);
        }
    }
}

/// Lays out the leaves: returns each by the first 24 bits of its addresses, and how many slots they
/// have together.
///
/// Small ones come first, so that the number of a leaf, which counts in its own size what lies
/// before it, is never above 2^24: there can be no more leaves.
fn lay_out(entries: &[(Ipv4Addr, u8, Target)]) -> (HashMap<u32, Leaf>, usize) {
    let mut strides: HashMap<u32, u32> = HashMap::new();
    for (address, length, _) in entries {
        if let Some(needed) = length.checked_sub(UPPER_BITS).filter(|needed| *needed > 0) {
            let stride = strides.entry(address.to_bits() >> 8).or_default();
            *stride = u32::from(needed).max(*stride);
        }
    }
    let mut strides: Vec<_> = strides.into_iter().map(|(upper, stride)| (stride, upper)).collect();
    strides.sort_unstable();
    let mut slots = 0usize;
    let mut places = HashMap::with_capacity(strides.len());
    for (stride, upper) in strides {
        let first = slots.next_multiple_of(1 << stride);
        slots = first + (1 << stride);
        places.insert(upper, Leaf { stride, first });
    }
    (places, slots)
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
        for round in 0..60 {
            // A narrow block makes prefixes nest and neighbour each other.
            let spread = [0xffff_ffff, 0x0003_ffff, 0x0000_0fff][round % 3];
            let mut list: Vec<(u32, u8, Target)> = Vec::new();
            for place in 0..200 {
                let length = (random.next() % 33) as u8;
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
        let slots = table.root.len() + table.nodes.capacity() + table.leaves.len();
        assert!(slots * size_of::<Slot>() < 5_000_000);
        for i in [0, 1, 0x8_0000, (1 << 20) - 1] {
            assert_eq!(table.lookup(Ipv4Addr::from_bits(i << 4 | 9)), Some(adjacency(i)));
        }
        assert_eq!(table.lookup(Ipv4Addr::from_bits(1 << 24)), None);
    }
}
