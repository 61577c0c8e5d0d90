//! `quorate server --check`: every effective value and where it came from.

use std::fmt::Write as _;

use super::{keys, settings::Settings};

/// One line a key, in the table's order, then the backend's own keys: `key=value  (origin)`.
pub(crate) fn report(settings: &Settings) -> String {
    let mut text = String::new();
    let backend = settings.all_set().filter(|(key, _)| key.starts_with(keys::BACKEND_PREFIX));
    let names = keys::KEYS.iter().map(|key| key.name).chain(backend.map(|(key, _)| key));
    for name in names {
        // Writing to a String does not fail.
        let _ = match settings.get(name) {
            Some(setting) => writeln!(text, "{name}={}  ({})", setting.value, setting.origin),
            None => writeln!(text, "{name}  (not set)"),
        };
    }
    text
}
