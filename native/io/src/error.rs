//! Why the engine refuses a call, or why one of its threads ended.

use std::fmt;

use rustix::io::Errno;
use tunneld_core::transaction;
use tunneld_esp::known_answers::WrongAnswer;
use tunneld_handshake::payload::MOST_LANES;
use tunneld_handshake::psk::PskError;

use crate::offload::Offload;

/// Why the engine refuses a call, or why one of its threads ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The lists of descriptors do not make whole workers.
    Workers {
        /// TUN queues given.
        tun_queues: usize,
        /// Workers that UDP sockets were given for.
        underlays: usize,
    },
    /// A worker has no UDP socket at all.
    NoSocket {
        /// Its number.
        worker: usize,
    },
    /// A descriptor cannot be used.
    Descriptor {
        /// What it was given as.
        role: &'static str,
        /// Its number.
        number: i32,
        /// What the kernel says.
        errno: Errno,
    },
    /// The kernel refuses something that every engine needs.
    Kernel {
        /// What was asked for.
        call: &'static str,
        /// What it says.
        errno: Errno,
    },
    /// Encryption was asked for without sockets, or sockets were given for none.
    EspSockets {
        /// Number of the worker.
        worker: usize,
        /// Whether there is encryption.
        is_encrypted: bool,
    },
    /// More workers than an SA pair set has lanes.
    Lanes {
        /// How many.
        workers: usize,
    },
    /// The library of the ciphers is broken.
    SelfTest(WrongAnswer),
    /// The PSKs are none.
    Psks(PskError),
    /// What needs keys was asked of an engine without encryption.
    NoEncryption {
        /// The call.
        call: &'static str,
    },
    /// The change is bad.
    Change(transaction::Error),
    /// An offload is not supported here.
    Offload(Offload),
    /// The call does not fit the engine's phase of life.
    Phase {
        /// The call.
        call: &'static str,
        /// What the engine is.
        is: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workers { tun_queues, underlays } => write!(
                f,
                "engine: {tun_queues} TUN queues and UDP sockets for {underlays} workers, \
                 expected the same number of both and at least one"
            ),
            Self::NoSocket { worker } => write!(
                f,
                "engine: no UDP socket for worker {worker}, expected one over IPv4, IPv6 or both"
            ),
            Self::Descriptor { role, number, errno } => {
                write!(f, "engine: {role} descriptor {number} cannot be used: {errno}")
            }
            Self::Kernel { call, errno } => write!(f, "engine: {call} failed: {errno}"),
            Self::EspSockets { worker, is_encrypted: true } => write!(
                f,
                "engine: no socket for ESP for worker {worker}, expected one over IPv4, IPv6 or both \
                 as there is encryption"
            ),
            Self::EspSockets { worker, is_encrypted: false } => write!(
                f,
                "engine: sockets for ESP for worker {worker}, expected none without encryption"
            ),
            Self::Lanes { workers } => write!(
                f,
                "engine: encryption with {workers} workers, expected at most {MOST_LANES}: \
                 start fewer"
            ),
            Self::SelfTest(error) => write!(f, "engine: {error}"),
            Self::Psks(error) => write!(f, "engine: {error}"),
            Self::NoEncryption { call } => write!(
                f,
                "engine: {call} is not possible without encryption: make the engine with an identity"
            ),
            Self::Change(error) => write!(f, "engine change refused: {error}"),
            Self::Offload(offload) => write!(
                f,
                "engine: offload {} is not supported by this kernel on these descriptors",
                offload.label()
            ),
            Self::Phase { call, is } => write!(f, "engine: {call} is not possible, it is {is}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<transaction::Error> for Error {
    fn from(error: transaction::Error) -> Self {
        Self::Change(error)
    }
}
