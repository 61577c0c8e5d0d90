//! What this build is, in numbers that others can compare.

use serde_json::json;

/// The layout of data folders: `meta.properties` and what stands beside Kafka's own files.
const ON_DISK_FORMAT: u32 = 1;
/// The requests that nodes send each other besides Kafka's: keys 32000 and above, tagged fields 10000 and above.
const PEER_PROTOCOL: u32 = 1;
/// Kafka's protocol as of this release.
const KAFKA_PROTOCOL: &str = "4.1";

/// One line, or the numbers as JSON.
pub(crate) fn text(as_json: bool) -> String {
    let version = env!("CARGO_PKG_VERSION");
    if !as_json {
        return format!(
            "quorate {version} (Kafka {KAFKA_PROTOCOL} protocol, on-disk format {ON_DISK_FORMAT}, peer protocol \
             {PEER_PROTOCOL}, backends {})",
            crate::backend::names().join(" ")
        );
    }
    json!({
        "version": version,
        "kafka_protocol": KAFKA_PROTOCOL,
        "on_disk_format": ON_DISK_FORMAT,
        "peer_protocol": PEER_PROTOCOL,
        "backends": crate::backend::names(),
    })
    .to_string()
}
