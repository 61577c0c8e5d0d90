//! The raft crate logs through slog; here its lines become ours.

use std::fmt::{self, Write as _};

use slog::{Drain, KV, Key, Level, Logger, Never, OwnedKVList, Record, Serializer};

/// A logger that writes to tracing.
pub(crate) fn logger() -> Logger {
    Logger::root(Tracing, slog::o!())
}

struct Tracing;

struct Line(String);

impl Serializer for Line {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        Ok(write!(self.0, " {key}={value}")?)
    }
}

impl Drain for Tracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        if !enabled(record.level()) {
            return Ok(());
        }
        let mut line = Line(record.msg().to_string());
        // What cannot be formatted is left out of the line.
        let _left_out = record.kv().serialize(record, &mut line);
        let line = line.0;
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{line}"),
            Level::Warning => tracing::warn!(target: "raft", "{line}"),
            Level::Info => tracing::debug!(target: "raft", "{line}"),
            Level::Debug | Level::Trace => tracing::trace!(target: "raft", "{line}"),
        }
        Ok(())
    }
}

fn enabled(level: Level) -> bool {
    match level {
        Level::Critical | Level::Error => true,
        Level::Warning => tracing::enabled!(target: "raft", tracing::Level::WARN),
        Level::Info => tracing::enabled!(target: "raft", tracing::Level::DEBUG),
        Level::Debug | Level::Trace => tracing::enabled!(target: "raft", tracing::Level::TRACE),
    }
}
