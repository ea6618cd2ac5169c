//! Which adjacency, as a number that tables, batches and counts are kept by.

/// Which adjacency, the same in every FIB while there is such an adjacency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AdjacencyId(pub(crate) u32);
