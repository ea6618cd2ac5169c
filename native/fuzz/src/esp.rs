//! ESP: datagrams of anybody, authentic packets that hold anything, and whatever is sealed.
//!
//! Random bytes as good as never have the right ICV. So there is a way in behind it: the input is
//! the text of a packet, which is sealed here, apart from the crate that opens it.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use tunneld_esp::cipher::Cipher;
use tunneld_esp::fault::Fault;
use tunneld_esp::keys::Key;
use tunneld_esp::open::Opened;
use tunneld_esp::packet::{Content, HEAD, ICV, MIN_LEN, TAIL};
use tunneld_esp::provider::Provider;
use tunneld_esp::sa::{InboundSa, OutboundSa};
use tunneld_esp::spi::{Kind, Spi};

use crate::mutate::digest;

const MATERIAL: [u8; 36] = [0x3c; 36];
/// The last number that a receiver who has seen none tells from one below 0.
const LAST: u64 = (1 << 32) - 8_128;

/// Takes an input: a byte for cipher (bits 0, 1), provider (2) and way (3, 4), then a datagram; or
/// a number of 8 bytes and a text; or a payload to seal.
///
/// # Errors
///
/// The rule that was broken.
pub(crate) fn run(input: &[u8]) -> Result<u64, String> {
    let Some((first, rest)) = input.split_first() else { return Ok(0) };
    let cipher = Cipher::ALL[usize::from(first & 3) % Cipher::ALL.len()];
    let provider = Provider::ALL[usize::from(first >> 2 & 1)];
    let ends = Ends { provider, cipher };
    let outcome = match (first >> 3 & 3, rest.split_first_chunk::<8>()) {
        (0, _) => ends.foreign(rest)?,
        (1, Some((number, text))) => ends.authentic(u64::from_be_bytes(*number), text)?,
        (way, _) => ends.sealed(way, rest)?,
    };
    Ok(digest(&[&[*first & 0x1f][..], &outcome].concat()))
}

struct Ends {
    provider: Provider,
    cipher: Cipher,
}

impl Ends {
    fn key(&self, provider: Provider) -> Result<Key, String> {
        let material = &MATERIAL[..self.cipher.material_len()];
        Key::new(provider, self.cipher, material).map_err(|refused| refused.to_string())
    }

    fn inbound(&self, spi: Spi) -> Result<InboundSa, String> {
        Ok(InboundSa::new(spi, self.key(self.provider)?, 0))
    }

    /// A datagram of somebody without the key: nothing opens, and nothing changes.
    fn foreign(&self, datagram: &[u8]) -> Result<Vec<u8>, String> {
        let (kind, spi) = match Kind::of(datagram) {
            None => (0, spi()?),
            Some(Kind::Keepalive) => (1, spi()?),
            Some(Kind::Handshake) => (2, spi()?),
            Some(Kind::Data(spi)) => (3, spi),
        };
        let mut sa = self.inbound(spi)?;
        let fault = match sa.open(&mut datagram.to_vec(), 0) {
            Ok(opened) => return Err(format!("a foreign datagram opens: {opened:?}")),
            Err(fault) => fault,
        };
        if (fault == Fault::Malformed) != (datagram.len() < MIN_LEN) {
            return Err(format!("{} bytes are {fault}", datagram.len()));
        }
        if kind == 3 && fault == Fault::OtherSpi {
            return Err("a datagram is of another SPI than it said".to_owned());
        }
        let mut honest = self.packet(spi, 1, &[1, 2, 2, 59])?;
        match sa.open(&mut honest, 0) {
            Ok(Opened { content: Content::Dummy, .. }) => Ok(vec![kind, place(fault)]),
            other => Err(format!("after a foreign datagram an honest one is {other:?}")),
        }
    }

    /// A packet of somebody with the key, by any number and with anything in it.
    fn authentic(&self, number: u64, text: &[u8]) -> Result<Vec<u8>, String> {
        let datagram = self.packet(spi()?, number, text)?;
        let mut sa = self.inbound(spi()?)?;
        let mut memory = datagram.clone();
        let result = sa.open(&mut memory, 0);
        let is_new = (1..=LAST).contains(&number);
        let is_authentic = match &result {
            Ok(opened) => {
                check(&memory, text, opened)?;
                true
            }
            Err(Fault::Padding | Fault::NextHeader | Fault::InnerLength) => true,
            Err(_) => false,
        };
        if is_authentic != (is_new && datagram.len() >= MIN_LEN) {
            return Err(format!("number {number:#x} with {} bytes: {result:?}", datagram.len()));
        }
        let again = sa.open(&mut datagram.clone(), 0);
        if is_authentic && again != Err(Fault::Replayed) {
            return Err(format!("a second time it is {again:?}"));
        }
        Ok(vec![shape(&result), (text.len() % 4) as u8])
    }

    /// Whatever is sealed opens at the other provider, up to what it says of its length.
    fn sealed(&self, way: u8, payload: &[u8]) -> Result<Vec<u8>, String> {
        let content = match way {
            1 => Content::Dummy,
            2 => Content::Ipv4,
            _ => Content::Ipv6,
        };
        let other = Provider::ALL.iter().find(|other| **other != self.provider);
        let key = self.key(*other.ok_or("there is one provider")?)?;
        let mut slot = [&[0; HEAD][..], payload, &[0; TAIL]].concat();
        let sa = OutboundSa::new(spi()?, key, 0);
        let len = sa
            .reserve(1, 0)
            .and_then(|mut numbers| sa.seal(&mut numbers, content, &mut slot))
            .map_err(|refusal| refusal.to_string())?;
        if len % 4 != 0 || len < MIN_LEN {
            return Err(format!("a packet has {len} bytes"));
        }
        slot.truncate(len);
        let result = self.inbound(spi()?)?.open(&mut slot, 0);
        match &result {
            Ok(opened)
                if opened.content == content
                    && slot[opened.place.clone()].len() <= payload.len() =>
            {
                if slot[opened.place.clone()] != payload[..opened.place.len()] {
                    return Err("what opens is not what was sealed".to_owned());
                }
            }
            Err(Fault::NextHeader | Fault::InnerLength) if content != Content::Dummy => {}
            other => return Err(format!("what was sealed is {other:?}")),
        }
        Ok(vec![shape(&result), (payload.len() % 4) as u8])
    }

    /// Returns a packet with `text` in it, made without the crate that is tried.
    fn packet(&self, spi: Spi, number: u64, text: &[u8]) -> Result<Vec<u8>, String> {
        let algorithm = match self.cipher {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::Aes128Gcm => &AES_128_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let (key, salt) = MATERIAL[..self.cipher.material_len()].split_at(self.cipher.key_len());
        let key = UnboundKey::new(algorithm, key).or(Err("a key is refused"))?;
        let spi = spi.number().to_be_bytes();
        let number = number.to_be_bytes();
        let aad = Aad::from([&spi[..], &number].concat());
        let nonce = Nonce::try_assume_unique_for_key(&[salt, &number].concat());
        let mut text = text.to_vec();
        let icv = LessSafeKey::new(key)
            .seal_in_place_separate_tag(nonce.or(Err("a nonce is refused"))?, aad, &mut text)
            .or(Err("a text is not sealed"))?;
        Ok([&spi[..], &number[4..], &number, &text, icv.as_ref()].concat())
    }
}

fn spi() -> Result<Spi, String> {
    Spi::new(0xc000_0041).ok_or_else(|| "an SPI is refused".to_owned())
}

/// What opens lies within its text, and is as long as it says.
fn check(memory: &[u8], text: &[u8], opened: &Opened) -> Result<(), String> {
    let Opened { content, place } = opened;
    let padding = text.len().checked_sub(2).map_or(0, |end| usize::from(text[end]));
    if place.start != HEAD || place.end + padding + 2 + ICV > memory.len() {
        return Err(format!("{place:?} of {} bytes, padded with {padding}", memory.len()));
    }
    let packet = &memory[place.clone()];
    let field = |at: usize| {
        packet.get(at..at + 2).map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1]))
    };
    let is_whole = match content {
        Content::Ipv4 => {
            packet.first().is_some_and(|first| first >> 4 == 4) && field(2) == packet.len()
        }
        Content::Ipv6 => {
            packet.first().is_some_and(|first| first >> 4 == 6) && field(4) + 40 == packet.len()
        }
        Content::Dummy => packet.is_empty(),
    };
    if is_whole { Ok(()) } else { Err(format!("{content:?} of {} bytes", packet.len())) }
}

fn shape(result: &Result<Opened, Fault>) -> u8 {
    match result {
        Ok(opened) => 100 + opened.content.next_header(),
        Err(fault) => place(*fault),
    }
}

fn place(fault: Fault) -> u8 {
    Fault::ALL.iter().position(|known| *known == fault).unwrap_or_default() as u8
}
