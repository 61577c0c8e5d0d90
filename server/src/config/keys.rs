//! Every key that a configuration file may hold: the broker's, from the table that `quorate_core` shares with
//! DescribeConfigs, and the consensus backends'.

use quorate_core::metadata::configs::{self, IGNORED_KEYS, Key};

use super::unserved;
use crate::backend;

/// Keys of this prefix go to the consensus backend.
pub(crate) const BACKEND_PREFIX: &str = "consensus.";

/// All keys, the broker's first.
pub(crate) fn all() -> impl Iterator<Item = &'static Key> {
    configs::broker_keys().chain(backend::KEYS)
}

/// The key of this name, or the one whose `*` stands for the rest of it.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    let longest = |key: &&'static Key| key.name.len();
    all()
        .find(|key| key.name == name)
        .or_else(|| all().filter(|key| stands_for(key, name)).max_by_key(longest))
}

fn stands_for(key: &Key, name: &str) -> bool {
    let rest = key.name.strip_suffix('*').and_then(|beginning| name.strip_prefix(beginning));
    rest.is_some_and(|rest| !rest.is_empty())
}

/// Why a key that Kafka knows means nothing here.
pub(crate) fn why_ignored(name: &str) -> Option<&'static str> {
    let listed = IGNORED_KEYS.iter().find(|(key, _)| *key == name);
    listed.map(|(_, reason)| *reason).or_else(|| unserved::reason(name))
}

/// The key that a mistyped name is nearest to, as the end of a sentence.
pub(crate) fn suggestion(name: &str) -> String {
    let plain = name.to_lowercase().replace(['_', '-'], ".");
    configs::nearest(&plain, all().map(|key| key.name))
        .map_or_else(String::new, |near| format!("; did you mean '{near}'?"))
}
