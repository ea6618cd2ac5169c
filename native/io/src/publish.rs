//! How a new FIB reaches the data threads, and how an old one ends.
//!
//! Path of a lease: `core::transaction` → **`publish`** → the threads, at their next batch.
//! A thread looks at one number per batch and takes the lock only when it has changed. The
//! publisher keeps every FIB until no thread holds it, so that freeing one never costs a packet.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tunneld_core::fib::Fib;

/// The FIB in force, as the threads see it.
pub(crate) struct Published {
    version: AtomicU64,
    current: Mutex<Arc<Fib>>,
}

impl Published {
    fn lock(&self) -> MutexGuard<'_, Arc<Fib>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The control side.
pub(crate) struct Publisher {
    published: Arc<Published>,
    retired: Vec<Arc<Fib>>,
}

impl Publisher {
    pub(crate) fn new() -> Self {
        let current = Mutex::new(Arc::new(Fib::empty()));
        let published = Arc::new(Published { version: AtomicU64::new(0), current });
        Self { published, retired: Vec::new() }
    }

    pub(crate) fn reader(&self) -> FibReader {
        let current = self.published.lock();
        FibReader {
            version: self.published.version.load(Ordering::Relaxed),
            fib: Arc::clone(&current),
            published: Arc::clone(&self.published),
        }
    }

    /// Puts `fib` in force from every thread's next batch on.
    pub(crate) fn publish(&mut self, fib: Fib) {
        let mut current = self.published.lock();
        let old = std::mem::replace(&mut *current, Arc::new(fib));
        // Before any thread can see the new version and let go of the old FIB.
        self.retired.push(old);
        self.published.version.fetch_add(1, Ordering::Release);
        drop(current);
        self.collect();
    }

    /// Returns the FIB in force.
    pub(crate) fn current(&self) -> Arc<Fib> {
        Arc::clone(&self.published.lock())
    }

    /// Frees the FIBs that no thread holds any more.
    pub(crate) fn collect(&mut self) {
        self.retired.retain(|fib| Arc::strong_count(fib) > 1);
    }

    #[cfg(test)]
    fn retired(&self) -> usize {
        self.retired.len()
    }
}

/// A data thread's side.
pub(crate) struct FibReader {
    published: Arc<Published>,
    version: u64,
    fib: Arc<Fib>,
}

impl FibReader {
    /// Returns the FIB in force. The same one must serve a whole batch.
    pub(crate) fn current(&mut self) -> &Fib {
        let version = self.published.version.load(Ordering::Acquire);
        if version != self.version {
            let current = self.published.lock();
            self.version = self.published.version.load(Ordering::Relaxed);
            self.fib = Arc::clone(&current);
        }
        &self.fib
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_a_new_fib_at_its_next_look() {
        let mut publisher = Publisher::new();
        let mut reader = publisher.reader();
        let before = std::ptr::from_ref(reader.current());
        publisher.publish(Fib::empty());
        assert_ne!(std::ptr::from_ref(reader.current()), before);
    }

    #[test]
    fn an_old_fib_lives_until_the_last_reader_let_go_and_dies_with_the_publisher() {
        let mut publisher = Publisher::new();
        let mut reader = publisher.reader();
        publisher.publish(Fib::empty());
        publisher.publish(Fib::empty());
        assert_eq!(publisher.retired(), 1, "the one the reader holds");
        reader.current();
        assert_eq!(publisher.retired(), 1, "a reader frees nothing");
        publisher.collect();
        assert_eq!(publisher.retired(), 0);
    }
}
