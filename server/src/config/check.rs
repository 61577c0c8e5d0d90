//! `quorate server --check`: every effective value and where it came from.

use std::fmt::Write as _;

use super::{keys, settings::Settings};

/// One line a key: `key=value  (origin)`. Secrets are not shown.
pub(crate) fn report(settings: &Settings) -> String {
    let mut keys: Vec<_> = keys::all().collect();
    keys.sort_by_key(|key| key.name);
    let mut text = String::new();
    for key in keys {
        let name = key.name;
        // Writing to a String does not fail.
        let _ = match settings.get(name) {
            Some(setting) if key.is_sensitive() => writeln!(text, "{name}=[hidden]  ({})", setting.origin),
            Some(setting) => writeln!(text, "{name}={}  ({})", setting.value, setting.origin),
            None => writeln!(text, "{name}  (not set)"),
        };
    }
    text
}
