//! `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` with two messages, then the raw split.
//!
//! What the prologue and payloads are is the caller's: the tests shake hands with WireGuard by
//! other ones.
//!
//! Source: Noise Protocol Framework rev. 34, §5, §7, §9.

use std::fmt;

use snow::resolvers::BoxedCryptoResolver;
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::key::{Identity, PublicKey};
use crate::resolver::Resolver;

/// Bytes of an ephemeral public key, in clear.
pub const E_LEN: usize = 32;
/// Bytes of a sealed static public key.
pub const S_LEN: usize = 48;
/// Bytes that sealing adds to a payload.
pub const TAG_LEN: usize = 16;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PSK_PLACE: usize = 2;

/// Returns the prologue of a network: nodes of two networks share no keys.
pub fn prologue(network: &str) -> Vec<u8> {
    [b"tunneld/1\0", network.as_bytes()].concat()
}

/// A handshake message could not be made or read: a wrong key, network, PSK, or changed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoiseError;

impl fmt::Display for NoiseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handshake message does not open: other key, network or PSK, or changed")
    }
}

impl std::error::Error for NoiseError {}

impl From<snow::Error> for NoiseError {
    fn from(_: snow::Error) -> Self {
        Self
    }
}

/// Makes the cryptography of one handshake from the bytes of its ephemeral key.
pub type Suite = fn(Zeroizing<[u8; 32]>) -> BoxedCryptoResolver;

/// The suite in use.
pub fn suite(ephemeral: Zeroizing<[u8; 32]>) -> BoxedCryptoResolver {
    Box::new(Resolver::new(ephemeral))
}

/// What both ends of a handshake start from.
#[derive(Clone, Copy)]
pub struct Start<'a> {
    /// The own static key.
    pub identity: &'a Identity,
    /// What both must agree on beforehand, in clear.
    pub prologue: &'a [u8],
    /// The cryptography.
    pub suite: Suite,
}

impl Start<'_> {
    fn builder(&self, ephemeral: Zeroizing<[u8; 32]>) -> Result<Builder<'_>, NoiseError> {
        let pattern = PATTERN.parse()?;
        let builder = Builder::with_resolver(pattern, (self.suite)(ephemeral));
        Ok(builder.local_private_key(self.identity.private())?.prologue(self.prologue)?)
    }
}

/// Keys of a finished handshake, one for each direction. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Split {
    /// Of what the initiator sends.
    pub from_initiator: Zeroizing<[u8; 32]>,
    /// Of what the responder sends.
    pub from_responder: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Split")
    }
}

fn split(mut state: HandshakeState) -> Split {
    let (mut from_initiator, mut from_responder) = state.dangerously_get_raw_split();
    let keys = Split {
        from_initiator: Zeroizing::new(from_initiator),
        from_responder: Zeroizing::new(from_responder),
    };
    zeroize::Zeroize::zeroize(&mut from_initiator);
    zeroize::Zeroize::zeroize(&mut from_responder);
    forget_psk(&mut state);
    keys
}

/// Overwrites snow's copy of the PSK.
fn forget_psk(state: &mut HandshakeState) {
    let done = state.set_psk(PSK_PLACE, &[0; 32]);
    debug_assert!(done.is_ok(), "the pattern has a PSK at this place");
}

/// An initiator that has written its message and waits for the answer.
pub struct Initiator(Option<HandshakeState>);

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Initiator")
    }
}

impl Initiator {
    /// Writes `e`, `s` and the sealed payload to `out`.
    ///
    /// # Errors
    ///
    /// `remote` is a key of small order, or `out` has another length than the message.
    pub fn new(
        start: Start<'_>,
        remote: &PublicKey,
        ephemeral: Zeroizing<[u8; 32]>,
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<Self, NoiseError> {
        let builder = start.builder(ephemeral)?.remote_public_key(&remote.0)?;
        let mut state = builder.psk(PSK_PLACE as u8, &[0; 32])?.build_initiator()?;
        let written = state.write_message(payload, out)?;
        if written == out.len() { Ok(Self(Some(state))) } else { Err(NoiseError) }
    }

    /// Reads the answer by one PSK. Where it does not open, the state is as it was.
    ///
    /// # Errors
    ///
    /// The answer is of another handshake or PSK, changed, or was read already.
    pub fn read(
        &mut self,
        psk: &[u8; 32],
        message: &[u8],
        payload: &mut [u8],
    ) -> Result<Split, NoiseError> {
        let state = self.0.as_mut().ok_or(NoiseError)?;
        state.set_psk(PSK_PLACE, psk)?;
        let read = state.read_message(message, payload);
        forget_psk(state);
        let len = read?;
        let state = self.0.take().ok_or(NoiseError)?;
        if len == payload.len() { Ok(split(state)) } else { Err(NoiseError) }
    }
}

/// A responder that has read an initiation and may answer it.
pub struct Responder {
    state: HandshakeState,
    remote: PublicKey,
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Responder({})", self.remote)
    }
}

impl Responder {
    /// Reads an initiation: `e`, `s` and the sealed payload.
    ///
    /// # Errors
    ///
    /// It is for another key or network, changed, or has a key of small order in it.
    pub fn new(
        start: Start<'_>,
        ephemeral: Zeroizing<[u8; 32]>,
        message: &[u8],
        payload: &mut [u8],
    ) -> Result<Self, NoiseError> {
        let mut state = start.builder(ephemeral)?.build_responder()?;
        let len = state.read_message(message, payload)?;
        let remote = state.get_remote_static().and_then(|key| key.try_into().ok());
        let remote = PublicKey(remote.ok_or(NoiseError)?);
        if len == payload.len() { Ok(Self { state, remote }) } else { Err(NoiseError) }
    }

    /// Returns whom the initiation says it is from. Nobody has proved it before data opens.
    pub fn remote(&self) -> PublicKey {
        self.remote
    }

    /// Writes `e` and the sealed payload to `out`.
    ///
    /// # Errors
    ///
    /// `out` has another length than the message, or the initiator's keys are of small order.
    pub fn write(
        mut self,
        psk: &[u8; 32],
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<Split, NoiseError> {
        self.state.set_psk(PSK_PLACE, psk)?;
        let written = self.state.write_message(payload, out);
        forget_psk(&mut self.state);
        if written? == out.len() { Ok(split(self.state)) } else { Err(NoiseError) }
    }
}
