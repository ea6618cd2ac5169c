//! Changes to the tables: checked as a whole, then carried out as a whole.
//!
//! Path of a lease: `engine` (Python) → `py` → **`transaction`** → `fib` → swapped by `io`.
//! A change that has one bad item changes nothing, and the error names that item.

mod check;
mod error;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::adjacency::{Adjacency, Parameters};
use crate::adjacency_id::AdjacencyId;
use crate::counters::AdjacencyCounters;
use crate::encapsulation::Way;
use crate::fib::{Fib, Settings};
use crate::prefix::Prefix;
use crate::sad::Sad;

pub use error::Error;

/// The name that stands for this host itself among the targets.
pub const LOCAL: &str = "local";

/// Where a prefix leads, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetName {
    /// This host itself.
    Local,
    /// The adjacency of that name.
    Adjacency(String),
}

/// A transaction. What is dropped and put in one change is there afterwards; dropping what is not
/// there does nothing.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// New settings; `None`: as they are.
    pub settings: Option<Settings>,
    /// Adjacencies to forget, by name.
    pub drop_adjacencies: Vec<String>,
    /// Adjacencies to add or replace. One that is replaced keeps its counters.
    pub put_adjacencies: Vec<(String, Parameters)>,
    /// Prefixes to forget.
    pub drop_entries: Vec<Prefix>,
    /// Prefixes to add or redirect.
    pub put_entries: Vec<(Prefix, TargetName)>,
}

/// An adjacency in the tables.
#[derive(Debug)]
struct Known {
    /// Stands for the name in `entries` and in every FIB; used again once free.
    id: AdjacencyId,
    parameters: Parameters,
    counters: Arc<AdjacencyCounters>,
    /// Number of entries that lead here.
    uses: usize,
}

/// All that was committed so far. The source every FIB is built from.
#[derive(Debug)]
pub struct Tables {
    workers: usize,
    /// `None`: nothing is sealed here.
    sad: Option<Arc<Sad>>,
    generation: u64,
    settings: Option<Settings>,
    adjacencies: BTreeMap<Arc<str>, Known>,
    /// Names by id; free ids are `None`.
    names: Vec<Option<Arc<str>>>,
    /// The one that was freed first is used again first.
    free_ids: VecDeque<AdjacencyId>,
    /// Ids that a FIB in use may still know, with the counters that are in each FIB that does: a
    /// thread that sleeps keeps one for long. They are free when no such FIB is left, so that what is
    /// kept by the id of a peer that is gone is never taken for another's.
    retired_ids: Vec<(AdjacencyId, Arc<AdjacencyCounters>)>,
    /// Prefix to an adjacency, or `None` for local.
    entries: BTreeMap<Prefix, Option<AdjacencyId>>,
}

impl Tables {
    /// Returns empty tables for an engine of that many workers.
    pub const fn new(workers: usize) -> Self {
        Self {
            workers,
            sad: None,
            generation: 0,
            settings: None,
            adjacencies: BTreeMap::new(),
            names: Vec::new(),
            free_ids: VecDeque::new(),
            retired_ids: Vec::new(),
            entries: BTreeMap::new(),
        }
    }

    /// Lets adjacencies be sealed, by the sets of `sad`.
    #[must_use]
    pub fn sealing(self, sad: Arc<Sad>) -> Self {
        Self { sad: Some(sad), ..self }
    }

    /// Carries out `change` and returns the FIB that follows from it.
    ///
    /// # Errors
    ///
    /// [`Error`] names the first bad item; the tables are as they were.
    pub fn commit(&mut self, change: Change) -> Result<Fib, Error> {
        check::check(self, &change)?;
        self.release_ids();
        if change.settings.is_some() {
            self.settings = change.settings;
        }
        for prefix in &change.drop_entries {
            self.drop_entry(*prefix);
        }
        for (name, parameters) in &change.put_adjacencies {
            self.put_adjacency(name, *parameters);
        }
        for (prefix, target) in &change.put_entries {
            self.put_entry(*prefix, target);
        }
        // Last, when nothing leads to them any more. One that was put again keeps its counters.
        let put: BTreeSet<&str> =
            change.put_adjacencies.iter().map(|(name, _)| name.as_str()).collect();
        for name in change.drop_adjacencies.iter().filter(|name| !put.contains(name.as_str())) {
            self.drop_adjacency(name);
        }
        self.generation += 1;
        Ok(self.build())
    }

    fn put_adjacency(&mut self, name: &str, parameters: Parameters) {
        if let Some(known) = self.adjacencies.get_mut(name) {
            known.parameters = parameters;
            return;
        }
        let name: Arc<str> = name.into();
        let id = self.free_ids.pop_front().unwrap_or_else(|| {
            self.names.push(None);
            AdjacencyId(self.names.len() as u32 - 1)
        });
        self.names[id.0 as usize] = Some(Arc::clone(&name));
        let counters = Arc::new(AdjacencyCounters::new(self.workers));
        self.adjacencies.insert(name, Known { id, parameters, counters, uses: 0 });
    }

    fn drop_adjacency(&mut self, name: &str) {
        if let Some(known) = self.adjacencies.remove(name) {
            self.names[known.id.0 as usize] = None;
            self.retired_ids.push((known.id, known.counters));
        }
    }

    fn release_ids(&mut self) {
        let Self { free_ids, retired_ids, .. } = self;
        retired_ids.retain(|(id, counters)| {
            let is_known = Arc::strong_count(counters) > 1;
            if !is_known {
                free_ids.push_back(*id);
            }
            is_known
        });
    }

    fn put_entry(&mut self, prefix: Prefix, target: &TargetName) {
        self.drop_entry(prefix);
        let id = match target {
            TargetName::Local => None,
            TargetName::Adjacency(name) => self.adjacencies.get_mut(name.as_str()).map(|known| {
                known.uses += 1;
                known.id
            }),
        };
        self.entries.insert(prefix, id);
    }

    fn drop_entry(&mut self, prefix: Prefix) {
        let id = self.entries.remove(&prefix).flatten();
        let name = id.and_then(|id| self.names[id.0 as usize].as_ref());
        if let Some(known) = name.and_then(|name| self.adjacencies.get_mut(name)) {
            known.uses -= 1;
        }
    }

    fn build(&self) -> Fib {
        let vtep = self.settings.as_ref().and_then(|settings| settings.vtep.as_ref());
        let mut adjacencies = Vec::new();
        adjacencies.resize_with(self.names.len(), || None);
        for (name, known) in &self.adjacencies {
            let Known { id, parameters, ref counters, .. } = *known;
            adjacencies[id.0 as usize] = Some(Adjacency::new(
                Arc::clone(name),
                parameters,
                Way::new(parameters.encapsulation, vtep, self.sad.as_deref()),
                self.sad.as_deref(),
                Arc::clone(counters),
            ));
        }
        let entries = self.entries.iter().map(|(prefix, id)| (*prefix, *id));
        Fib::build(self.settings, adjacencies, entries)
    }

    /// Returns how many changes have been carried out.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the settings, once there are some.
    pub const fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    /// Returns the adjacencies, sorted by name.
    pub fn adjacencies(&self) -> impl Iterator<Item = (&str, &Parameters, &AdjacencyCounters)> {
        self.adjacencies.iter().map(|(name, known)| (&**name, &known.parameters, &*known.counters))
    }

    /// Returns the prefixes with the names of their targets, sorted by address and length.
    pub fn entries(&self) -> impl Iterator<Item = (Prefix, &str)> {
        self.entries.iter().map(|(prefix, id)| {
            let name = id.and_then(|id| self.names[id.0 as usize].as_deref());
            (*prefix, name.unwrap_or(LOCAL))
        })
    }
}

#[cfg(test)]
mod tests;
