//! What the suite must be told of a backend that it knows only as a process.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use serde::Deserialize;
use thiserror::Error;

use crate::Capability;

/// Where a lab's own name is put into the options.
const LAB: &str = "{lab}";

/// The file that `quorate conformance --config` takes. Everything in it may be left out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessConfig {
    /// Given to the backend as they are, but that `{lab}` becomes the name of the cluster under test, which no other
    /// has, and that the endpoints of `external` are replaced.
    pub options: BTreeMap<String, String>,
    /// Put over `options`, they make a configuration that the backend's constructor must refuse.
    pub bad_options: BTreeMap<String, String>,
    /// The option that lists, separated by commas, the endpoints (`host:port`) of a quorum outside of the nodes. Each
    /// node is given proxies in their place.
    pub external: Option<String>,
    /// What the backend cannot do, and why: capabilities by name.
    pub lacks: BTreeMap<String, String>,
    /// Whether `options` make the backend keep no entries behind a snapshot, so that readers soon need one.
    pub short_tail: bool,
    /// How long nothing must happen for a case to believe that nothing will, in milliseconds: longer than a leader's
    /// silence is borne and the next one is elected.
    pub quiet_ms: u64,
    /// By when a cluster with a quorum must have settled, in milliseconds.
    pub patience_ms: u64,
    /// How the names of the files that hold the log end, for the cases that damage them; any file, if empty.
    pub log_files: String,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            options: BTreeMap::new(),
            bad_options: BTreeMap::new(),
            external: None,
            lacks: BTreeMap::new(),
            short_tail: false,
            quiet_ms: 2000,
            patience_ms: 20_000,
            log_files: String::new(),
        }
    }
}

/// The file says what cannot be.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{0}: {1}")]
    Unreadable(String, #[source] std::io::Error),
    /// It is not what is expected.
    #[error("{0}: {1}")]
    Wrong(String, #[source] serde_json::Error),
    /// A capability that does not exist.
    #[error("lacks: there is no capability '{0}'; there are {1}")]
    NoCapability(String, String),
    /// `external` names an option that is no list of endpoints.
    #[error("external: options.{0} must list host:port,…")]
    NoEndpoints(String),
}

impl ProcessConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or says what cannot be.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = fs::read(path).map_err(|error| ConfigError::Unreadable(name.clone(), error))?;
        let config: Self = serde_json::from_slice(&text).map_err(|error| ConfigError::Wrong(name, error))?;
        config.check()?;
        Ok(config)
    }

    /// Whether it can be.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self) -> Result<(), ConfigError> {
        for name in self.lacks.keys() {
            if !Capability::ALL.iter().any(|capability| capability.to_string() == *name) {
                let all: Vec<String> = Capability::ALL.iter().map(ToString::to_string).collect();
                return Err(ConfigError::NoCapability(name.clone(), all.join(", ")));
            }
        }
        let wrong = self.external.as_ref().filter(|_| self.endpoints().is_empty());
        wrong.map_or(Ok(()), |option| Err(ConfigError::NoEndpoints(option.clone())))
    }

    /// The quorum outside.
    pub(super) fn endpoints(&self) -> Vec<String> {
        let listed = self.external.as_ref().and_then(|option| self.options.get(option));
        let bare = |endpoint: &str| endpoint.rsplit("//").next().unwrap_or(endpoint).trim().to_owned();
        let endpoints = listed.into_iter().flat_map(|list| list.split(',')).map(bare);
        endpoints.filter(|endpoint| endpoint.contains(':')).collect()
    }

    /// The options of a node in the lab of a name, its endpoints replaced.
    pub(super) fn options_for(&self, lab: &str, endpoints: &[String], bad: bool) -> BTreeMap<String, String> {
        let mut options = self.options.clone();
        if let Some(external) = &self.external {
            options.insert(external.clone(), endpoints.join(","));
        }
        if bad {
            options.extend(self.bad_options.clone());
        }
        options.values_mut().for_each(|value| *value = value.replace(LAB, lab));
        options
    }

    pub(super) fn quiet(&self) -> Duration {
        Duration::from_millis(self.quiet_ms)
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> ProcessConfig {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn options_name_the_lab_and_the_proxies_before_the_quorum_outside() {
        let config = config(
            r#"{"options": {"prefix": "/c/{lab}", "at": "http://h:1, h:2"}, "external": "at",
                "bad_options": {"prefix": ""}}"#,
        );
        assert_eq!(config.endpoints(), ["h:1", "h:2"]);
        let options = config.options_for("x", &["p:3".to_owned(), "p:4".to_owned()], false);
        assert_eq!((options["prefix"].as_str(), options["at"].as_str()), ("/c/x", "p:3,p:4"));
        assert_eq!(config.options_for("x", &[], true)["prefix"], "");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, named) in
            [(r#"{"lacks": {"flight": "no wings"}}"#, "'flight'"), (r#"{"external": "at"}"#, "options.at")]
        {
            let error = config(text).check().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        assert!(serde_json::from_str::<ProcessConfig>(r#"{"optoins": {}}"#).is_err());
        assert!(config(r#"{"lacks": {"hand-over": "no need"}}"#).check().is_ok());
    }
}
