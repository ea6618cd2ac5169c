//! What an engine does with keys: its thread for them, whom it trusts, what it says of them.
//!
//! Path of a key: `py` → **`io::engine`** → `keying`.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::net::getsockname;
use tunneld_core::counters::WorkerCounters;
use tunneld_core::drop_reason::DropReason;
use tunneld_core::sad::Sad;
use tunneld_core::waiting::Waiting;
use tunneld_handshake::key::PublicKey;
use tunneld_handshake::node::{Moment, Node};
use tunneld_handshake::payload::Claim;
use zeroize::Zeroizing;

use super::{Control, Engine};
use crate::descriptor::{Descriptors, duplicate};
use crate::duty::Duty;
use crate::errands::Errands;
use crate::error::Error;
use crate::event::Events;
use crate::keying::exits::{Exits, Lane};
use crate::keying::thread::KeyingThread;
use crate::keying::{Encryption, Identities, Keying, OwnSecurity, Security};
use crate::thread_handle::ThreadHandle;

/// The keys of an engine, and the thread that agrees them.
pub(super) struct Keys {
    keying: Arc<Keying>,
    handle: ThreadHandle,
    /// By worker, where its packets wait for keys.
    waiting: Vec<Arc<Waiting>>,
}

impl Keys {
    pub(super) fn new(
        encryption: Encryption,
        workers: &[Descriptors],
        lanes: Vec<Lane>,
        events: &Arc<Events>,
    ) -> Result<Self, Error> {
        let handle = ThreadHandle::new(0, Duty::Keying)?;
        let [ipv4, ipv6] = workers.first().map_or([None; 2], |worker| worker.underlay.for_esp());
        let own = |socket: Option<&_>| {
            let number = socket.map(AsRawFd::as_raw_fd);
            number.map(|number| duplicate("ESP", number)).transpose()
        };
        let port = ipv4.or(ipv6).and_then(|socket| {
            SocketAddr::try_from(getsockname(socket).ok()?).ok().map(|bound| bound.port())
        });
        let exits = Exits { sockets: [own(ipv4)?, own(ipv6)?], lanes };
        let (events, pulse) = (Arc::clone(events), Arc::clone(&handle.pulse));
        let keying = Keying::new(encryption, exits, events, pulse, port.unwrap_or(0))?;
        let waiting = workers.iter().map(|_| Arc::default()).collect();
        Ok(Self { keying: Arc::new(keying), handle, waiting })
    }

    pub(super) fn start(&self, events: &Arc<Events>) -> Result<JoinHandle<()>, Error> {
        let (keying, waiting) = (self.keying(), self.waiting.clone());
        self.handle.spawn(events, move || KeyingThread { keying, waiting }.run())
    }

    pub(super) fn keying(&self) -> Arc<Keying> {
        Arc::clone(&self.keying)
    }

    pub(super) fn sad(&self) -> Arc<Sad> {
        Arc::clone(&self.keying.sad)
    }

    pub(super) fn waiting(&self, worker: usize) -> Arc<Waiting> {
        Arc::clone(&self.waiting[worker])
    }

    pub(super) const fn handle(&self) -> &ThreadHandle {
        &self.handle
    }

    pub(super) fn counters(&self) -> &WorkerCounters {
        &self.keying.counters
    }

    /// Wipes the keys, and counts what waited for some; the threads are gone.
    pub(super) fn end<'a>(&self, workers: impl Iterator<Item = (&'a Errands, &'a WorkerCounters)>) {
        self.keying.end();
        for ((errands, counters), waiting) in workers.zip(&self.waiting) {
            let mut room = Default::default();
            waiting.take(&mut room);
            let left = errands.take().packets.len() + room.iter().count();
            counters.drops(DropReason::Stopped).add(left as u64);
        }
    }
}

impl Engine {
    /// Closes both directions to whom is not trusted any more, before anything else happens.
    pub(super) fn commit_identities(&self, control: &mut Control, identities: Identities) {
        let Identities { drop, put } = identities;
        let gone = drop.into_iter().filter(|key| !put.iter().any(|(other, _)| other == key));
        for key in gone {
            if control.identities.remove(&key).is_some() {
                self.keying(|keying| keying.on_call(|state, at| state.drop(&key, at)));
            }
        }
        for (key, trusted) in put {
            if control.identities.insert(key, trusted) != Some(trusted) {
                let record = trusted.record();
                self.keying(|keying| keying.on_call(|state, at| state.put(key, record, at)));
            }
        }
    }

    fn keying<T>(&self, work: impl FnOnce(&Keying) -> Option<T>) -> Option<T> {
        self.keys.as_ref().and_then(|keys| work(&keys.keying))
    }

    fn keying_for(&self, call: &'static str) -> Result<&Keying, Error> {
        self.keys.as_ref().map(|keys| &*keys.keying).ok_or(Error::NoEncryption { call })
    }

    /// Changes the PSKs; new keys are made with all peers that have some.
    ///
    /// # Errors
    ///
    /// [`Error::Psks`], [`Error::NoEncryption`]; [`Error::Phase`] after the end.
    pub fn set_psks(&self, psks: &[Zeroizing<Vec<u8>>]) -> Result<(), Error> {
        const CALL: &str = "set_psks";
        let keying = self.keying_for(CALL)?;
        let psks = keying.psks(psks)?;
        let work = |node: &mut Node, at: &mut Moment<'_>| node.set_psks(psks, at);
        ended(keying.on_call(|state, at| state.on_node(at, work)), CALL)
    }

    /// Says what this host holds; if that is news, new keys are made with all peers that have some.
    ///
    /// # Errors
    ///
    /// [`Error::NoEncryption`]; [`Error::Phase`] after the end.
    pub fn set_claim(&self, claim: Claim) -> Result<(), Error> {
        const CALL: &str = "set_claim";
        let keying = self.keying_for(CALL)?;
        ended(keying.on_call(|state, at| state.set_claim(claim, at)), CALL)
    }

    /// Makes new keys with all peers that have some, within 2 s: this host is elsewhere, or what is
    /// agreed has changed.
    ///
    /// # Errors
    ///
    /// [`Error::NoEncryption`]; [`Error::Phase`] after the end.
    pub fn renew(&self) -> Result<(), Error> {
        const CALL: &str = "renew";
        let keying = self.keying_for(CALL)?;
        ended(keying.on_call(|state, at| state.on_node(at, Node::renew)), CALL)
    }

    /// Ends all keys and makes new ones: memory may have been copied.
    ///
    /// # Errors
    ///
    /// [`Error::NoEncryption`]; [`Error::Phase`] after the end.
    pub fn forget_keys(&self) -> Result<(), Error> {
        const CALL: &str = "forget_keys";
        let keying = self.keying_for(CALL)?;
        ended(keying.on_call(|state, at| state.on_node(at, Node::forget_keys)), CALL)
    }

    /// Shakes hands with a peer whether or not there is a packet for it; with whom is not trusted it
    /// does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NoEncryption`]; [`Error::Phase`] after the end.
    pub fn connect(&self, key: &PublicKey) -> Result<(), Error> {
        const CALL: &str = "connect";
        let keying = self.keying_for(CALL)?;
        let work = |node: &mut Node, at: &mut Moment<'_>| node.connect(key, at);
        ended(keying.on_call(|state, at| state.on_node(at, work)), CALL)
    }

    /// Returns how each identity that is trusted stands, sorted by key; none after the end.
    ///
    /// # Errors
    ///
    /// [`Error::NoEncryption`].
    pub fn security(&self) -> Result<Vec<Security>, Error> {
        let keying = self.keying_for("security")?;
        let read = keying.on_call(|state, at| state.security(at.now_ns));
        Ok(read.unwrap_or_default())
    }

    /// Returns what this host is.
    ///
    /// # Errors
    ///
    /// [`Error::NoEncryption`].
    pub fn security_self(&self) -> Result<OwnSecurity, Error> {
        Ok(self.keying_for("security_self")?.own())
    }
}

fn ended<T>(done: Option<T>, call: &'static str) -> Result<T, Error> {
    done.ok_or(Error::Phase { call, is: "stopped" })
}
