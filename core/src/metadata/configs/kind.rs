//! What a value looks like.

use super::{ConfigError, Key};

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number of 16 bits, from and to these.
    Short(i64, i64),
    /// A whole number of 32 bits, from and to these.
    Int(i64, i64),
    /// A whole number of 64 bits, from and to these.
    Long(i64, i64),
    /// A number, from and to these.
    Double(f64, f64),
    /// Any text.
    Text,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Some of these, separated by commas; anything if there are none.
    List(&'static [&'static str]),
    /// A secret: never shown.
    Password,
}

impl Kind {
    /// Kafka's number of the type, as DescribeConfigs answers it.
    #[must_use]
    pub fn number(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::Text | Self::OneOf(_) => 2,
            Self::Int(..) => 3,
            Self::Short(..) => 4,
            Self::Long(..) => 5,
            Self::Double(..) => 6,
            Self::List(_) => 7,
            Self::Password => 9,
        }
    }

    fn accepts(self, value: &str) -> bool {
        match self {
            Self::Boolean => value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false"),
            Self::Short(from, to) | Self::Int(from, to) | Self::Long(from, to) => {
                value.parse::<i64>().is_ok_and(|number| (from..=to).contains(&number))
            }
            Self::Double(from, to) => value.parse::<f64>().is_ok_and(|number| (from..=to).contains(&number)),
            Self::Text | Self::Password => true,
            Self::OneOf(allowed) => allowed.contains(&value),
            Self::List(allowed) => {
                let mut items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
                items.all(|item| allowed.is_empty() || allowed.contains(&item))
            }
        }
    }

    fn expected(self) -> String {
        match self {
            Self::Boolean => "true or false".to_owned(),
            Self::Short(from, to) | Self::Int(from, to) | Self::Long(from, to) => {
                format!("a whole number from {from} to {to}")
            }
            Self::Double(from, to) => format!("a number from {from} to {to}"),
            Self::Text | Self::Password => "text".to_owned(),
            Self::OneOf(allowed) => format!("one of {}", allowed.join(", ")),
            Self::List(allowed) => format!("a list of some of {}", allowed.join(", ")),
        }
    }
}

impl Key {
    /// Checks a value.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn check(&'static self, value: &str) -> Result<(), ConfigError> {
        /// Longer than any sensible value, and short beside an entry of the metadata log.
        const VALUE_BYTES_MAX: usize = 32 * 1024;
        let invalid = |expected| {
            let value = value.chars().take(100).collect();
            Err(ConfigError::Invalid { name: self.name, value, expected })
        };
        if value.len() > VALUE_BYTES_MAX {
            return invalid(format!("at most {VALUE_BYTES_MAX} bytes"));
        }
        if self.kind.accepts(value.trim()) { Ok(()) } else { invalid(self.kind.expected()) }
    }

    /// Whether a value is a secret.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        self.kind == Kind::Password
    }

    /// Whether a value is a list.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(self.kind, Kind::List(_))
    }
}
