//! Secrets at rest: files of the node's X25519 key and of pre-shared keys, behind handles.
//!
//! Python passes paths and sees public keys and ids; the secrets stay here and are zeroized when
//! the handle is dropped. So these files, unlike all others, are opened here. No error and no `repr`
//! quotes what a file holds.
//!
//! Source: wg(8) (`genkey`: the form of the key file).

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pyo3::prelude::*;
use tunneld_handshake::{key, psk};
use zeroize::Zeroizing;

use crate::TrustError;

/// More than two PSKs with comments take; a larger file is another one.
const MAX_FILE_BYTES: usize = 16 * 1024;
/// What a line of base64 can decode to: `base64` wants room for whole groups of three.
const MAX_LINE_BYTES: usize = MAX_FILE_BYTES / 4 * 3 + 3;

/// The X25519 key by which this node is known to others.
#[pyclass(frozen, module = "tunneld._native")]
pub(crate) struct Identity(pub(crate) key::Identity);

#[pymethods]
impl Identity {
    /// Makes a key and its file (mode 0600), where there must be none.
    #[staticmethod]
    fn create(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| Self::made(&path, false))
    }

    /// Makes a key and puts its file in the place of the former one, in one step.
    #[staticmethod]
    fn replace(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| Self::made(&path, true))
    }

    /// Reads the key from its file, which nobody else may read.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| {
            let content = read_secret(&path, "key file", 0o077)?;
            let text = std::str::from_utf8(content.trim_ascii()).ok();
            text.and_then(|text| key::Identity::from_base64(text).ok()).map(Self).ok_or_else(|| {
                refused(format_args!(
                    "key file {}: it holds no X25519 key; expected 44 characters of base64: \
                     restore the file, or make this host a new identity with `tunneld identity new`",
                    path.display()
                ))
            })
        })
    }

    /// The public key, in base64 as WireGuard shows it.
    #[getter]
    fn public_key(&self) -> String {
        self.0.public().to_string()
    }
}

impl Identity {
    fn made(path: &Path, is_in_place: bool) -> PyResult<Self> {
        let mut secret = Zeroizing::new([0; key::LEN]);
        let mut name = [0; 4];
        if rand::fill(&mut secret[..]).is_err() || rand::fill(&mut name).is_err() {
            return Err(refused(format_args!(
                "cannot make a key: the kernel gives no random numbers"
            )));
        }
        // As `wg genkey` has it: other programs show the same public key for the file.
        secret[0] &= 248;
        secret[31] = (secret[31] & 127) | 64;
        let mut line = Zeroizing::new([b'\n'; 45]);
        let made = STANDARD
            .encode_slice(&secret[..], &mut line[..44])
            .ok()
            .and_then(|_| key::Identity::new(secret).ok())
            .ok_or_else(|| refused(format_args!("cannot make a key: X25519 refuses it")))?;
        let name = format!(".identity.{:08x}", u32::from_le_bytes(name));
        let temporary = path.with_file_name(name);
        let written = write(&temporary, &line[..]).and_then(|()| {
            // A link, unlike a rename, never takes the place of a file that is there.
            if is_in_place {
                fs::rename(&temporary, path)
            } else {
                fs::hard_link(&temporary, path).and_then(|()| fs::remove_file(&temporary))
            }
        });
        if let Err(error) = written {
            // Not there where it could not be made; else no second copy of a key may stay.
            let _ = fs::remove_file(&temporary);
            let remedy = if error.kind() == ErrorKind::AlreadyExists {
                "`tunneld identity new` replaces it"
            } else {
                "make room, check owner and mode of the directory, or name another with --state-dir"
            };
            return Err(refused(format_args!(
                "cannot make the key file {}: {}; {remedy}",
                path.display(),
                reason(&error)
            )));
        }
        if let Some(parent) = path.parent() {
            // The file is whole in any case: a directory that cannot be synced only risks its name.
            let _ = OpenOptions::new().read(true).open(parent).and_then(|held| held.sync_all());
        }
        Ok(Self(made))
    }
}

/// Writes a new file, for its owner alone.
fn write(path: &Path, line: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if rustix::process::geteuid().is_root() {
        // Root makes it for the daemon's user, whose directory this is.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let owner = fs::metadata(parent.unwrap_or(Path::new(".")))?;
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(line)?;
    file.sync_all()
}

/// One or two pre-shared keys: the second is what a rotation comes from, or goes to.
#[pyclass(frozen, module = "tunneld._native")]
pub(crate) struct Psks(pub(crate) Vec<Zeroizing<Vec<u8>>>);

#[pymethods]
impl Psks {
    /// Reads the keys from their file, which nobody else may read.
    ///
    /// `is_credential`: it is one of systemd's, whose mode has a group where an ACL lets the
    /// service's user in.
    #[staticmethod]
    #[pyo3(signature = (path, *, is_credential = false))]
    fn load(py: Python<'_>, path: PathBuf, is_credential: bool) -> PyResult<Self> {
        py.detach(|| {
            let content =
                read_secret(&path, "PSK file", if is_credential { 0o007 } else { 0o077 })?;
            parse_psks(&content, &path)
        })
    }

    /// The ids by which a handshake names them, 8 hexadecimal digits each, in the file's order.
    #[getter]
    fn ids(&self) -> PyResult<Vec<String>> {
        // They are the same in every network.
        let named = psk::Psks::new("", &self.0)
            .map_err(|error| refused(format_args!("the PSKs are not usable: {error}")))?;
        let hex = |id: &psk::Id| format!("{:08x}", u32::from_be_bytes(*id));
        Ok(named.ids().iter().take(self.0.len()).map(hex).collect())
    }
}

fn parse_psks(content: &[u8], path: &Path) -> PyResult<Psks> {
    let bad = |line: usize, what: &str| {
        refused(format_args!(
            "PSK file {}, line {line}: {what}; expected {} to {} random \
             bytes in base64 on a line: make them with `openssl rand -base64 32`",
            path.display(),
            psk::LENGTHS.start(),
            psk::LENGTHS.end()
        ))
    };
    let mut found: Vec<Zeroizing<Vec<u8>>> = Vec::with_capacity(psk::MOST);
    for (index, line) in content.split(|&byte| byte == b'\n').enumerate() {
        let number = index + 1;
        let text = line.trim_ascii();
        if text.is_empty() || text.starts_with(b"#") {
            continue;
        }
        if text.starts_with(b"\xef\xbb\xbf") {
            return Err(bad(number, "it begins with a byte order mark"));
        }
        let mut decoded = Zeroizing::new([0; MAX_LINE_BYTES]);
        let Ok(length) = STANDARD.decode_slice(text, decoded.as_mut_slice()) else {
            return Err(bad(number, "it is not base64"));
        };
        let read = &decoded[..length];
        if !psk::LENGTHS.contains(&length) {
            return Err(bad(number, &format!("the key has {length} bytes")));
        }
        if read.iter().all(|byte| *byte == read[0]) {
            return Err(bad(number, "the key is one byte repeated"));
        }
        if found.iter().any(|other| other.as_slice() == read) {
            return Err(bad(number, "it is the key above once more"));
        }
        if found.len() == psk::MOST {
            return Err(bad(number, "it is a third key, and a rotation has two"));
        }
        found.push(Zeroizing::new(read.to_vec()));
    }
    if found.is_empty() {
        return Err(bad(1, "the file holds no key"));
    }
    Ok(Psks(found))
}

/// Reads a file that only this user, or root, may read; `refused_bits` of its mode must be 0.
fn read_secret(path: &Path, what: &str, refused_bits: u32) -> PyResult<Zeroizing<Vec<u8>>> {
    let shown = path.display();
    let failed = |error: &std::io::Error| {
        refused(format_args!(
            "cannot read the {what} {shown}: {}; expected a file that this user may read",
            reason(error)
        ))
    };
    // A FIFO must keep nobody waiting.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| failed(&error))?;
    let found = file.metadata().map_err(|error| failed(&error))?;
    if !found.is_file() {
        return Err(refused(format_args!("the {what} {shown} is no regular file; expected one")));
    }
    if found.mode() & refused_bits != 0 {
        return Err(refused(format_args!(
            "the {what} {shown} is open to others (mode {:04o}); expected 0600: `chmod 600` it, and \
             replace the secret if somebody may have read it",
            found.mode() & 0o7777
        )));
    }
    // Whoever owns the directory could put another file there: the daemon's user, for root.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory =
        fs::metadata(parent.unwrap_or(Path::new("."))).map_err(|error| failed(&error))?;
    let user = rustix::process::geteuid().as_raw();
    if ![0, user, directory.uid()].contains(&found.uid()) {
        return Err(refused(format_args!(
            "the {what} {shown} belongs to user {}; expected root or user {user}: `chown` it, and \
             replace the secret if that user may have read it",
            found.uid()
        )));
    }
    // Of its full size at once: a buffer that grows leaves copies behind.
    let mut content = Zeroizing::new(vec![0; MAX_FILE_BYTES + 1]);
    let mut length = 0;
    while length < content.len() {
        match file.read(&mut content[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    if length > MAX_FILE_BYTES {
        return Err(refused(format_args!(
            "the {what} {shown} is larger than {MAX_FILE_BYTES} bytes; expected a key or two: name \
             the right file"
        )));
    }
    content.truncate(length);
    Ok(content)
}

fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

fn refused(message: std::fmt::Arguments<'_>) -> PyErr {
    TrustError::new_err(message.to_string())
}
