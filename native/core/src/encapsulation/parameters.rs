//! What the control plane says of an encapsulation, by names that its backend knows too.
//!
//! Path of a lease: `py` → **`encapsulation::parameters`** → `transaction`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tunneld_wire::ethernet::MacAddress;

use crate::prefix::Prefix;

/// What is put around an inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Nothing: the UDP payload is the inner packet (flannel's udp backend).
    Raw,
    /// A VXLAN and an Ethernet header.
    Vxlan {
        /// Inner Ethernet address of the peer.
        vtep_mac: MacAddress,
    },
    /// ESP, sealed for one identity.
    Esp {
        /// Public key of the peer.
        key: [u8; 32],
        /// The subnet that is reached by it, which the peer must claim.
        subnet: Prefix,
    },
}

impl Encapsulation {
    /// Reads what the control plane says: its name, and what it must know of the peer, each under
    /// a name of its own.
    ///
    /// # Errors
    ///
    /// [`Unreadable`]: the first thing that it cannot be.
    pub fn read(label: &str, mut of_peer: BTreeMap<String, String>) -> Result<Self, Unreadable> {
        let read = match label {
            "raw" => Self::Raw,
            "vxlan" => Self::Vxlan {
                vtep_mac: take(&mut of_peer, "vtep_mac", MacAddress::FORM, |text| {
                    text.parse().ok()
                })?,
            },
            "esp" => Self::Esp {
                key: take(&mut of_peer, "key", KEY_FORM, key)?,
                subnet: take(&mut of_peer, "subnet", "a subnet in CIDR notation", |text| {
                    text.parse().ok()
                })?,
            },
            _ => return Err(Unreadable::new("encapsulation", label, "raw, vxlan or esp")),
        };
        match of_peer.pop_first() {
            Some((name, value)) => Err(Unreadable { name, value, expected: "no such parameter" }),
            None => Ok(read),
        }
    }

    /// Returns the name outside this program.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vxlan { .. } => "vxlan",
            Self::Esp { .. } => "esp",
        }
    }

    /// Returns what it knows of the peer, as [`read`](Self::read) takes it.
    pub fn of_peer(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Raw => Vec::new(),
            Self::Vxlan { vtep_mac } => vec![("vtep_mac", vtep_mac.to_string())],
            Self::Esp { key, subnet } => {
                vec![("key", STANDARD.encode(key)), ("subnet", subnet.to_string())]
            }
        }
    }
}

/// What else is taken from a peer while it goes over from plain packets to sealed ones: the two
/// sides never do it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Meanwhile {
    /// Nothing.
    #[default]
    Nothing,
    /// Plain ones are sent, and what this identity has sealed is taken too.
    Sealed {
        /// Public key of the peer.
        key: [u8; 32],
    },
    /// Sealed ones are sent, and what comes plain from its address is taken too.
    Plain,
}

impl Meanwhile {
    /// Takes what the control plane says of it out of what the encapsulation `label` must know.
    ///
    /// # Errors
    ///
    /// [`Unreadable`]: what it cannot be.
    pub fn take(label: &str, of_peer: &mut BTreeMap<String, String>) -> Result<Self, Unreadable> {
        if label == "esp" {
            return match of_peer.remove(ALSO).as_deref() {
                None => Ok(Self::Nothing),
                Some("plain") => Ok(Self::Plain),
                Some(other) => Err(Unreadable::new(ALSO, other, "plain")),
            };
        }
        if of_peer.contains_key(ALSO_KEY) {
            return Ok(Self::Sealed { key: take(of_peer, ALSO_KEY, KEY_FORM, key)? });
        }
        Ok(Self::Nothing)
    }

    /// Returns what [`take`](Self::take) took.
    pub fn of_peer(self) -> Option<(&'static str, String)> {
        match self {
            Self::Nothing => None,
            Self::Sealed { key } => Some((ALSO_KEY, STANDARD.encode(key))),
            Self::Plain => Some((ALSO, "plain".to_owned())),
        }
    }
}

const ALSO: &str = "also";
const ALSO_KEY: &str = "also_key";

/// What the control plane said of an encapsulation, and what can be none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Name of the parameter.
    pub name: String,
    /// What it says.
    pub value: String,
    /// What it should have been.
    pub expected: &'static str,
}

impl Unreadable {
    fn new(name: &str, value: &str, expected: &'static str) -> Self {
        Self { name: name.to_owned(), value: value.to_owned(), expected }
    }
}

/// Takes out a parameter and reads it.
fn take<T>(
    of_peer: &mut BTreeMap<String, String>,
    name: &str,
    expected: &'static str,
    read: fn(&str) -> Option<T>,
) -> Result<T, Unreadable> {
    let value = of_peer.remove(name);
    let found = value.as_deref().and_then(read);
    found.ok_or_else(|| Unreadable::new(name, value.as_deref().unwrap_or("None"), expected))
}

const KEY_FORM: &str = "a public key: 44 characters of base64";

/// Reads a public key as WireGuard's are written.
fn key(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes 0 to 31, as coreutils' base64 writes them.
    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn read(of_peer: &[(&str, &str)]) -> Result<Encapsulation, Unreadable> {
        let owned = of_peer.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Encapsulation::read("esp", owned.collect())
    }

    #[test]
    fn esp_is_read_as_it_is_written() {
        let [key, subnet] = [("key", KEY), ("subnet", "10.5.3.0/24")];
        let esp = read(&[key, subnet]).unwrap();
        let subnet: Prefix = "10.5.3.0/24".parse().unwrap();
        assert_eq!(esp, Encapsulation::Esp { key: std::array::from_fn(|at| at as u8), subnet });
        assert_eq!(esp.label(), "esp");
        let written = esp.of_peer();
        let written: Vec<_> = written.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(written, [("key", KEY), ("subnet", "10.5.3.0/24")]);
    }

    #[test]
    fn what_is_no_key_or_subnet_is_named() {
        let subnet = ("subnet", "10.5.3.0/24");
        let long = format!("AAAA{KEY}");
        for key in ["", &KEY[..43], &KEY[4..], &long, &KEY.replace("h8=", "h9=")] {
            let refused = read(&[("key", key), subnet]).unwrap_err();
            assert_eq!((&*refused.name, &*refused.value), ("key", key));
        }
        assert_eq!(read(&[subnet]).unwrap_err().name, "key");
        for wrong in ["10.5.3.1/24", "10.5.3.0", "b"] {
            assert_eq!(read(&[("key", KEY), ("subnet", wrong)]).unwrap_err().value, wrong);
        }
        let more = read(&[("key", KEY), subnet, ("vtep_mac", "00:00:00:00:00:02")]).unwrap_err();
        assert_eq!((&*more.name, more.expected), ("vtep_mac", "no such parameter"));
    }

    fn meanwhile(label: &str, of_peer: &[(&str, &str)]) -> Result<Meanwhile, Unreadable> {
        let owned = of_peer.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut left = owned.collect();
        let taken = Meanwhile::take(label, &mut left)?;
        assert!(left.is_empty(), "{left:?}");
        let said: Vec<_> = taken.of_peer().into_iter().collect();
        let said: Vec<_> = said.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(said, of_peer, "it is told as it was said");
        Ok(taken)
    }

    #[test]
    fn what_is_taken_meanwhile_has_names_of_its_own() {
        let sealed = Meanwhile::Sealed { key: std::array::from_fn(|at| at as u8) };
        for label in ["raw", "vxlan"] {
            assert_eq!(meanwhile(label, &[]), Ok(Meanwhile::Nothing));
            assert_eq!(meanwhile(label, &[("also_key", KEY)]), Ok(sealed));
        }
        assert_eq!(meanwhile("esp", &[]), Ok(Meanwhile::Nothing));
        assert_eq!(meanwhile("esp", &[("also", "plain")]), Ok(Meanwhile::Plain));
        for (label, name, value) in
            [("raw", "also_key", "AAEC"), ("esp", "also", "sealed"), ("esp", "also", "")]
        {
            let of_peer = [(name.to_owned(), value.to_owned())];
            let refused = Meanwhile::take(label, &mut of_peer.into()).unwrap_err();
            assert_eq!((&*refused.name, &*refused.value), (name, value));
        }
    }
}
