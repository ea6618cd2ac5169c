//! `exchange`: seals and opens packets with given keys, for tests beside other implementations.
//!
//! Reads one command a line from the standard input and writes one line for each:
//! `outbound|inbound NAME PROVIDER CIPHER KEY-AND-SALT SPI` makes an SA, `skip NAME COUNT` uses up
//! numbers, `seal NAME ipv4|ipv6|dummy PACKET` writes the sealed packet, `open NAME PACKET` what
//! was in it, or the fault. Keys, SPIs and packets are in hexadecimal. It is no part of the wheel.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::process::ExitCode;

use tunneld_esp::cipher::Cipher;
use tunneld_esp::keys::Key;
use tunneld_esp::packet::{Content, HEAD, TAIL};
use tunneld_esp::provider::Provider;
use tunneld_esp::sa::{InboundSa, OutboundSa};
use tunneld_esp::spi::Spi;

#[derive(Default)]
struct Sas {
    outbound: HashMap<String, OutboundSa>,
    inbound: HashMap<String, InboundSa>,
}

impl Sas {
    /// Does what a line says; returns what to write, `None` if it says nothing that can be done.
    fn run(&mut self, line: &str) -> Option<String> {
        match line.split(' ').collect::<Vec<_>>()[..] {
            [side, name, provider, cipher, material, spi] => {
                let (provider, cipher) = (Provider::named(provider)?, Cipher::named(cipher)?);
                let key = Key::new(provider, cipher, &bytes(material)?).ok()?;
                let spi = Spi::new(u32::from_str_radix(spi, 16).ok()?)?;
                match side {
                    "outbound" => {
                        self.outbound.insert(name.to_owned(), OutboundSa::new(spi, key, 0));
                    }
                    "inbound" => {
                        self.inbound.insert(name.to_owned(), InboundSa::new(spi, key, 0));
                    }
                    _ => return None,
                }
                Some(String::new())
            }
            ["skip", name, count] => {
                let count = count.parse().ok()?;
                Some(match self.outbound.get_mut(name)?.reserve(count, 0) {
                    Ok(_) => String::new(),
                    Err(refusal) => refusal.label().to_owned(),
                })
            }
            ["seal", name, content, packet] => self.seal(name, content, &bytes(packet)?),
            ["open", name, packet] => self.open(name, bytes(packet)?),
            _ => None,
        }
    }

    fn seal(&mut self, name: &str, content: &str, packet: &[u8]) -> Option<String> {
        let contents = [Content::Ipv4, Content::Ipv6, Content::Dummy];
        let content = contents.into_iter().find(|known| word(*known) == content)?;
        let mut slot = [&[0; HEAD][..], packet, &[0; TAIL]].concat();
        let sa = self.outbound.get(name)?;
        let sealed =
            sa.reserve(1, 0).and_then(|mut numbers| sa.seal(&mut numbers, content, &mut slot));
        Some(match sealed {
            Ok(len) => hex(&slot[..len]),
            Err(refusal) => refusal.label().to_owned(),
        })
    }

    fn open(&mut self, name: &str, mut packet: Vec<u8>) -> Option<String> {
        Some(match self.inbound.get_mut(name)?.open(&mut packet, 0) {
            Ok(opened) => format!("{} {}", word(opened.content), hex(&packet[opened.place])),
            Err(fault) => fault.label().to_owned(),
        })
    }
}

const fn word(content: Content) -> &'static str {
    match content {
        Content::Ipv4 => "ipv4",
        Content::Ipv6 => "ipv6",
        Content::Dummy => "dummy",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digit = |place: usize| char::from(digits.as_bytes()[place]).to_digit(16);
    if digits.len() % 2 != 0 {
        return None;
    }
    let byte = |place| Some((digit(place)? << 4 | digit(place + 1)?) as u8);
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn main() -> ExitCode {
    let (mut sas, mut out) = (Sas::default(), std::io::stdout());
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return ExitCode::FAILURE };
        let Some(said) = sas.run(&line) else {
            let _ = writeln!(std::io::stderr(), "exchange: cannot do {line:?}");
            return ExitCode::from(2);
        };
        if writeln!(out, "{said}").and_then(|()| out.flush()).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
