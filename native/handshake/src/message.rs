//! The three messages: where each field stands. Big-endian, each of one length.
//!
//! A datagram that begins with four zero bytes is one of these; no answer is longer than what
//! asked for it.

use crate::kdf::MAC_LEN;
use crate::noise::{E_LEN, S_LEN, TAG_LEN};
use crate::payload::{self, field};

/// Version of the handshake.
pub const VERSION: u8 = 1;

const HEADER_LEN: usize = 8;
const INDEX_LEN: usize = 4;
const SEALED_LEN: usize = payload::LEN + TAG_LEN;

/// Bytes of what Noise writes into an initiation.
pub const NOISE_1_LEN: usize = E_LEN + S_LEN + SEALED_LEN;
/// Bytes of what Noise writes into a response.
pub const NOISE_2_LEN: usize = E_LEN + SEALED_LEN;

/// Bytes of an initiation: header, sender index, Noise, mac1, cookie.
pub const INITIATION_LEN: usize = HEADER_LEN + INDEX_LEN + NOISE_1_LEN + 2 * MAC_LEN;
/// Bytes of a response: header, sender index, receiver index, Noise, mac1, cookie.
pub const RESPONSE_LEN: usize = HEADER_LEN + 2 * INDEX_LEN + NOISE_2_LEN + 2 * MAC_LEN;
/// Bytes of a cookie message: header, receiver index, mac1 of what it answers, cookie.
pub const COOKIE_LEN: usize = HEADER_LEN + INDEX_LEN + 2 * MAC_LEN;

const NOISE_1_PLACE: usize = HEADER_LEN + INDEX_LEN;
const NOISE_2_PLACE: usize = HEADER_LEN + 2 * INDEX_LEN;

/// A mac1 or a cookie.
pub type Mac = [u8; MAC_LEN];

/// A message that has the form of one. Nothing in it is proved.
#[derive(Debug, Clone, Copy)]
pub enum Message<'a> {
    /// Somebody wants SAs.
    Initiation(Initiation<'a>),
    /// The answer to an initiation.
    Response(Response<'a>),
    /// The answer to an initiation under load.
    Cookie(Cookie),
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageError {
    /// The header is of another protocol, another version or an unknown type.
    Header,
    /// The type is known, and has another length.
    Length,
}

/// An initiation as it came.
#[derive(Debug, Clone, Copy)]
pub struct Initiation<'a>(&'a [u8; INITIATION_LEN]);

/// A response as it came.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a>(&'a [u8; RESPONSE_LEN]);

/// A cookie message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    /// The sender index of the initiation that it answers.
    pub receiver: u32,
    /// The mac1 of the initiation that it answers.
    pub mac1: Mac,
    /// What to send along with the initiation.
    pub cookie: Mac,
}

#[repr(u8)]
enum Kind {
    Initiation = 1,
    Response = 2,
    Cookie = 3,
}

fn header(kind: Kind) -> [u8; HEADER_LEN] {
    [0, 0, 0, 0, kind as u8, VERSION, 0, 0]
}

/// Reads a datagram that begins with four zero bytes.
///
/// # Errors
///
/// It is of another version, type or length.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, MessageError> {
    let Some([0, 0, 0, 0, kind, VERSION, _, _]) = bytes.first_chunk::<HEADER_LEN>() else {
        return Err(MessageError::Header);
    };
    let message = match kind {
        1 => bytes.try_into().ok().map(|bytes| Message::Initiation(Initiation(bytes))),
        2 => bytes.try_into().ok().map(|bytes| Message::Response(Response(bytes))),
        3 => bytes.try_into().ok().map(|bytes| Message::Cookie(Cookie::parse(bytes))),
        _ => return Err(MessageError::Header),
    };
    message.ok_or(MessageError::Length)
}

impl Initiation<'_> {
    /// Returns the number by which the initiator knows its handshake.
    pub fn sender(&self) -> u32 {
        u32::from_be_bytes(field(self.0, HEADER_LEN))
    }

    /// Returns what Noise reads.
    pub fn noise(&self) -> &[u8] {
        &self.0[NOISE_1_PLACE..NOISE_1_PLACE + NOISE_1_LEN]
    }

    /// Returns all before mac1.
    pub fn before_mac1(&self) -> &[u8] {
        before_mac1(self.0)
    }

    /// Returns mac1.
    pub fn mac1(&self) -> Mac {
        mac1(self.0)
    }

    /// Returns the cookie, zeros without one.
    pub fn cookie(&self) -> Mac {
        field(self.0, INITIATION_LEN - MAC_LEN)
    }
}

impl Response<'_> {
    /// Returns the sender index of the initiation that it answers.
    pub fn receiver(&self) -> u32 {
        u32::from_be_bytes(field(self.0, HEADER_LEN + INDEX_LEN))
    }

    /// Returns what Noise reads.
    pub fn noise(&self) -> &[u8] {
        &self.0[NOISE_2_PLACE..NOISE_2_PLACE + NOISE_2_LEN]
    }

    /// Returns all before mac1.
    pub fn before_mac1(&self) -> &[u8] {
        before_mac1(self.0)
    }

    /// Returns mac1.
    pub fn mac1(&self) -> Mac {
        mac1(self.0)
    }
}

fn before_mac1(message: &[u8]) -> &[u8] {
    &message[..message.len() - 2 * MAC_LEN]
}

fn mac1(message: &[u8]) -> Mac {
    field(message, message.len() - 2 * MAC_LEN)
}

impl Cookie {
    fn parse(bytes: &[u8; COOKIE_LEN]) -> Self {
        let (mac1, cookie) = (field(bytes, 12), field(bytes, 28));
        Self { receiver: u32::from_be_bytes(field(bytes, HEADER_LEN)), mac1, cookie }
    }

    /// Writes the message.
    pub fn emit(&self) -> [u8; COOKIE_LEN] {
        let mut out = [0; COOKIE_LEN];
        out[..8].copy_from_slice(&header(Kind::Cookie));
        out[8..12].copy_from_slice(&self.receiver.to_be_bytes());
        out[12..28].copy_from_slice(&self.mac1);
        out[28..].copy_from_slice(&self.cookie);
        out
    }
}

/// An initiation while it is written: [`Self::noise`], then [`Self::finish`].
pub struct InitiationDraft([u8; INITIATION_LEN]);

impl InitiationDraft {
    /// Begins with the header and the own index.
    pub fn new(sender: u32) -> Self {
        let mut out = [0; INITIATION_LEN];
        out[..8].copy_from_slice(&header(Kind::Initiation));
        out[8..12].copy_from_slice(&sender.to_be_bytes());
        Self(out)
    }

    /// Returns the place of what Noise writes.
    pub fn noise(&mut self) -> &mut [u8] {
        &mut self.0[NOISE_1_PLACE..NOISE_1_PLACE + NOISE_1_LEN]
    }

    /// Returns the message with its mac1 and no cookie.
    pub fn finish(mut self, mac: impl FnOnce(&[u8]) -> Mac) -> [u8; INITIATION_LEN] {
        write_mac1(&mut self.0, mac);
        self.0
    }
}

/// Puts a cookie into an initiation.
pub fn set_cookie(initiation: &mut [u8; INITIATION_LEN], cookie: &Mac) {
    initiation[INITIATION_LEN - MAC_LEN..].copy_from_slice(cookie);
}

/// A response while it is written.
pub struct ResponseDraft([u8; RESPONSE_LEN]);

impl ResponseDraft {
    /// Begins with the header and both indices.
    pub fn new(sender: u32, receiver: u32) -> Self {
        let mut out = [0; RESPONSE_LEN];
        out[..8].copy_from_slice(&header(Kind::Response));
        out[8..12].copy_from_slice(&sender.to_be_bytes());
        out[12..16].copy_from_slice(&receiver.to_be_bytes());
        Self(out)
    }

    /// Returns the place of what Noise writes.
    pub fn noise(&mut self) -> &mut [u8] {
        &mut self.0[NOISE_2_PLACE..NOISE_2_PLACE + NOISE_2_LEN]
    }

    /// Returns the message with its mac1.
    pub fn finish(mut self, mac: impl FnOnce(&[u8]) -> Mac) -> [u8; RESPONSE_LEN] {
        write_mac1(&mut self.0, mac);
        self.0
    }
}

fn write_mac1(message: &mut [u8], mac: impl FnOnce(&[u8]) -> Mac) {
    let place = message.len() - 2 * MAC_LEN;
    let mac1 = mac(&message[..place]);
    message[place..place + MAC_LEN].copy_from_slice(&mac1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_long_as_the_table_says() {
        assert_eq!((INITIATION_LEN, RESPONSE_LEN, COOKIE_LEN), (204, 160, 44));
    }

    #[test]
    fn every_field_has_its_place() {
        let mut draft = InitiationDraft::new(0x0102_0304);
        draft.noise().fill(0x55);
        let mut initiation = draft.finish(|before| [before.len() as u8; 16]);
        set_cookie(&mut initiation, &[0x77; 16]);
        let expected = [&[0, 0, 0, 0, 1, 1, 0, 0, 1, 2, 3, 4][..], &[0x55; 160], &[172; 16]];
        assert_eq!(initiation[..], [expected.concat(), vec![0x77; 16]].concat());
        let Ok(Message::Initiation(read)) = parse(&initiation) else { panic!("no initiation") };
        assert_eq!((read.sender(), read.noise()), (0x0102_0304, &[0x55; 160][..]));
        assert_eq!((read.mac1(), read.cookie()), ([172; 16], [0x77; 16]));

        let mut draft = ResponseDraft::new(0x0102_0304, 0x0506_0708);
        draft.noise().fill(0x55);
        let response = draft.finish(|before| [before.len() as u8; 16]);
        let head = [0, 0, 0, 0, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(response[..], [&head[..], &[0x55; 112], &[128; 16], &[0; 16]].concat());
        let Ok(Message::Response(read)) = parse(&response) else { panic!("no response") };
        assert_eq!((read.receiver(), read.mac1()), (0x0506_0708, [128; 16]));
        assert_eq!((read.noise(), read.before_mac1()), (&[0x55; 112][..], &response[..128]));

        let cookie = Cookie { receiver: 0x0102_0304, mac1: [0x66; 16], cookie: [0x77; 16] };
        let bytes = cookie.emit();
        let head = [0, 0, 0, 0, 3, 1, 0, 0, 1, 2, 3, 4];
        assert_eq!(bytes[..], [&head[..], &[0x66; 16], &[0x77; 16]].concat());
        assert!(matches!(parse(&bytes), Ok(Message::Cookie(read)) if read == cookie));
    }

    #[test]
    fn another_version_type_or_length_is_no_message() {
        for (kind, right) in [(1, 204), (2, 160), (3, 44)] {
            let mut whole = vec![0; 300];
            (whole[4], whole[5]) = (kind, VERSION);
            for len in 0..=300 {
                let expected = match len {
                    0..8 => Some(MessageError::Header),
                    _ if len == right => None,
                    _ => Some(MessageError::Length),
                };
                assert_eq!(parse(&whole[..len]).err(), expected, "type {kind}, {len} bytes");
            }
        }
        for (place, value) in [(0, 1), (3, 1), (4, 0), (4, 4), (5, 0), (5, 2)] {
            let mut other = Cookie { receiver: 0, mac1: [0; 16], cookie: [0; 16] }.emit();
            other[place] = value;
            assert_eq!(parse(&other).err(), Some(MessageError::Header), "byte {place} is {value}");
        }
        // Bytes that are zero in this version are not looked at.
        let mut later = Cookie { receiver: 0, mac1: [0; 16], cookie: [0; 16] }.emit();
        later[6] = 0xff;
        assert!(parse(&later).is_ok());
    }
}
