//! The layers of configuration: flag over environment over file over default, and where each value came from.

use std::{collections::BTreeMap, fmt, path::Path};

use thiserror::Error;

use super::{keys, properties};

/// Where a value came from. A later variant wins over an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// Nothing was set.
    Default,
    /// The file, as it was named, and the line.
    File(String, usize),
    /// An environment variable.
    Environment(String),
    /// `--override`, or a flag of its own.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name, line) => write!(f, "{name}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// One effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The text, blanks at both ends cut.
    pub(crate) value: String,
    /// Where it came from.
    pub(crate) origin: Origin,
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{origin}: {problem}")]
pub(crate) struct ConfigError {
    pub(crate) origin: Origin,
    pub(crate) problem: String,
}

impl ConfigError {
    /// A problem that no single value causes.
    pub(crate) fn general(problem: impl Into<String>) -> Self {
        Self { origin: Origin::Default, problem: problem.into() }
    }
}

/// Everything that is wrong, one line each.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) struct ConfigErrors(pub(crate) Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            let line_end = if at == 0 { "" } else { "\n" };
            match error.origin {
                Origin::Default => write!(f, "{line_end}{}", error.problem)?,
                _ => write!(f, "{line_end}{error}")?,
            }
        }
        Ok(())
    }
}

/// Where settings are read from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources<'a> {
    /// The file's name as given, and its text.
    pub(crate) file: Option<(&'a Path, &'a str)>,
    /// The process's environment; names that do not begin with `QUORATE_` are not looked at.
    pub(crate) environment: Vec<(String, String)>,
    /// `key=value` from the command line.
    pub(crate) overrides: &'a [String],
}

/// What was set, under the names of the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    set: BTreeMap<String, Setting>,
    /// What the operator should hear of once: keys without meaning here, variables that nobody reads.
    pub(crate) notes: Vec<String>,
}

const ENVIRONMENT_PREFIX: &str = "QUORATE_";

impl Settings {
    /// Lays the sources over each other and checks every name, and every value's form.
    ///
    /// # Errors
    /// All unknown keys and malformed values, not only the first.
    pub(crate) fn gather(sources: &Sources<'_>) -> Result<Self, ConfigErrors> {
        let mut gathered = Self::default();
        let mut errors = Vec::new();
        gathered.read_file(sources, &mut errors);
        gathered.read_environment(sources, &mut errors);
        gathered.read_overrides(sources, &mut errors);
        if errors.is_empty() { Ok(gathered) } else { Err(ConfigErrors(errors)) }
    }

    fn read_file(&mut self, sources: &Sources<'_>, errors: &mut Vec<ConfigError>) {
        let Some((path, text)) = sources.file else { return };
        let origin = |line| Origin::File(path.display().to_string(), line);
        match properties::read(text) {
            Ok(properties) => {
                for property in properties {
                    let (key, origin) = (property.key, origin(property.line));
                    if let Some(earlier) = self.set.get(&key) {
                        self.notes.push(format!(
                            "{origin}: {key} was set before, at {}; this one holds",
                            earlier.origin
                        ));
                    }
                    errors.extend(self.set(&key, &property.value, origin).err());
                }
            }
            Err(error) => {
                errors.push(ConfigError { origin: origin(error.line), problem: error.to_string() });
            }
        }
    }

    fn read_environment(&mut self, sources: &Sources<'_>, errors: &mut Vec<ConfigError>) {
        for (variable, value) in &sources.environment {
            let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            let key = name.to_lowercase().replace('_', ".");
            let own = format!("quorate.{key}");
            let origin = Origin::Environment(variable.clone());
            if is_known(&key) {
                errors.extend(self.set(&key, value, origin).err());
            } else if is_known(&own) {
                errors.extend(self.set(&own, value, origin).err());
            } else if !is_service_variable(name) {
                // Others put variables there as well, so this is not refused.
                let hint = keys::suggestion(&key);
                self.notes.push(format!("environment {variable}: no such key '{key}'{hint}; not read"));
            }
        }
    }

    fn read_overrides(&mut self, sources: &Sources<'_>, errors: &mut Vec<ConfigError>) {
        for assignment in sources.overrides {
            let outcome = match assignment.split_once('=') {
                Some((key, value)) => self.set(key.trim(), value, Origin::Flag),
                None => Err(ConfigError {
                    origin: Origin::Flag,
                    problem: format!("'{assignment}' is not key=value"),
                }),
            };
            errors.extend(outcome.err());
        }
    }

    fn set(&mut self, key: &str, value: &str, origin: Origin) -> Result<(), ConfigError> {
        let value = value.trim().to_owned();
        let Some(known) = keys::find(key) else {
            let Some(reason) = keys::why_ignored(key) else {
                let problem = format!("unknown key '{key}'{}", keys::suggestion(key));
                return Err(ConfigError { origin, problem });
            };
            self.notes.push(format!("{origin}: {key} has no effect: {reason}"));
            return Ok(());
        };
        if let Err(error) = known.check(&value) {
            return Err(ConfigError { origin, problem: error.to_string() });
        }
        self.set.insert(key.to_owned(), Setting { value, origin });
        Ok(())
    }

    /// What was set for `key`, or the table's default; `None` where there is neither.
    pub(crate) fn get(&self, key: &str) -> Option<Setting> {
        self.explicit(key).cloned().or_else(|| {
            let value = keys::find(key)?.default?.to_owned();
            Some(Setting { value, origin: Origin::Default })
        })
    }

    /// What was set for `key`, if anything was.
    pub(crate) fn explicit(&self, key: &str) -> Option<&Setting> {
        self.set.get(key)
    }

    /// Everything that was set, by name.
    pub(crate) fn all_set(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.set.iter().map(|(key, setting)| (key.as_str(), setting))
    }

    /// An error that blames the value of `key`.
    pub(crate) fn blame(&self, key: &str, problem: impl fmt::Display) -> ConfigError {
        let origin = self.get(key).map_or(Origin::Default, |setting| setting.origin);
        ConfigError { origin, problem: format!("{key}: {problem}") }
    }
}

/// Kubernetes gives each container such variables for every service; one may well be called `quorate`.
fn is_service_variable(name: &str) -> bool {
    name == "PORT" || name.starts_with("PORT_") || name.starts_with("SERVICE_")
}

fn is_known(key: &str) -> bool {
    keys::find(key).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(
        text: &str,
        environment: &[(&str, &str)],
        overrides: &[&str],
    ) -> Result<Settings, ConfigErrors> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
        let file = Some((Path::new("s.properties"), text));
        Settings::gather(&Sources { file, environment, overrides: &overrides })
    }

    #[test]
    fn flag_wins_over_environment_over_file_over_default() {
        let text = "broker.rack=file\nnode.id=1\nlog.dirs=/f";
        let environment = [("QUORATE_BROKER_RACK", "env"), ("QUORATE_NODE_ID", "2"), ("PATH", "/bin")];
        let settings = gather(text, &environment, &["broker.rack=flag"]).unwrap();
        let value = |key| settings.get(key).map(|setting| (setting.value, setting.origin)).unwrap();
        assert_eq!(value("broker.rack"), ("flag".to_owned(), Origin::Flag));
        assert_eq!(value("node.id"), ("2".to_owned(), Origin::Environment("QUORATE_NODE_ID".to_owned())));
        assert_eq!(value("log.dirs"), ("/f".to_owned(), Origin::File("s.properties".to_owned(), 3)));
        assert_eq!(value("consensus"), ("raftrs".to_owned(), Origin::Default));
    }

    #[test]
    fn every_unknown_key_is_an_error_with_its_line_and_the_nearest_name() {
        let errors = gather("node.id=1\nlog.dir.s=/f\nfrobnicate=9", &[], &["lsiteners=x"]).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "s.properties:2: unknown key 'log.dir.s'; did you mean 'log.dirs'?\n\
             s.properties:3: unknown key 'frobnicate'\n\
             command line: unknown key 'lsiteners'; did you mean 'listeners'?"
        );
    }

    #[test]
    fn a_kafka_key_without_meaning_is_explained_and_accepted() {
        let settings = gather("num.io.threads=8\nzookeeper.connect=h:1", &[], &[]).unwrap();
        assert_eq!(settings.notes.len(), 2);
        assert!(
            settings.notes[0].starts_with("s.properties:1: num.io.threads has no effect: "),
            "{:?}",
            settings.notes
        );
        assert!(settings.explicit("num.io.threads").is_none());
    }

    #[test]
    fn own_keys_need_their_prefix_but_once_in_the_environment() {
        let environment =
            [("QUORATE_HTTP_LISTENER", "none"), ("QUORATE_PORT_9092_TCP", "tcp://10.0.0.1:9092")];
        let settings = gather("", &environment, &[]).unwrap();
        assert_eq!(settings.get("quorate.http.listener").unwrap().value, "none");
        assert!(settings.notes.is_empty(), "{:?}", settings.notes);
        let settings = gather("", &[("QUORATE_LOG_DIR_S", "x")], &[]).unwrap();
        assert!(settings.notes[0].contains("did you mean 'log.dirs'"), "{:?}", settings.notes);
    }

    #[test]
    fn keys_of_the_backend_are_kept_for_it() {
        let settings = gather("consensus=etcd\nconsensus.etcd.endpoints=http://e:2379", &[], &[]).unwrap();
        assert_eq!(settings.explicit("consensus.etcd.endpoints").unwrap().value, "http://e:2379");
    }

    #[test]
    fn a_value_out_of_range_is_named_with_the_range() {
        let errors =
            gather("node.id=-1\nquorate.log.format=xml\nquorate.shards=many", &[], &["node.id"]).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "s.properties:1: '-1' is no value of 'node.id': a whole number from 0 to 2147483647\n\
             s.properties:2: 'xml' is no value of 'quorate.log.format': one of text, json\n\
             s.properties:3: 'many' is no value of 'quorate.shards': a whole number from 1 to 1024\n\
             command line: 'node.id' is not key=value"
        );
    }

    #[test]
    fn the_last_of_two_equal_keys_holds_and_is_noted() {
        let settings = gather("node.id=1\nnode.id=2", &[], &[]).unwrap();
        assert_eq!(settings.get("node.id").unwrap().value, "2");
        assert!(settings.notes[0].contains("s.properties:1"), "{:?}", settings.notes);
    }
}
