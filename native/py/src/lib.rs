//! The Python face of the data path. Types cross here; decisions and packets do not.
//!
//! Path of a lease: `tunneld.engine` → **`tunneld._native`** → `io` → `core`.
//! The whole surface; its stub is `tunneld/_native.pyi`.

#![forbid(unsafe_code)]

mod bench;
mod change;
mod encryption;
mod engine;
mod readings;
mod secrets;
mod security;

pyo3::import_exception!(tunneld.errors, EngineError);
pyo3::import_exception!(tunneld.errors, TrustError);

/// The native data path. Control calls only: no packet reaches Python.
#[pyo3::pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use super::engine::Engine;

    #[pymodule_export]
    use super::secrets::{Identity, Psks};

    #[pymodule_export]
    use super::bench::{
        Aead, aead_choices, load_echo, load_receive, load_receive_streams, load_round_trips,
        load_send, load_send_streams,
    };

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
