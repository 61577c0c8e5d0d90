//! What a topic's configuration means to the files of its partitions.

/// Settings of one log, from the topic's configuration. Plain data: another version is given by
/// [`super::Log::reconfigure`] and holds from the next append on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment that would grow beyond this is rolled. 1 to 2³¹−1.
    pub segment_bytes: u32,
    /// `segment.ms`: a segment older than this is rolled by the next append.
    pub segment_ms: i64,
    /// `index.interval.bytes`: how many bytes of batches an index entry stands for.
    pub index_interval_bytes: u32,
    /// `segment.index.bytes`: the largest index; a segment whose index is full is rolled.
    pub index_bytes_max: u32,
    /// `retention.ms`: records older than this may go. `None` keeps them, as Kafka's -1.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`: the oldest segments go while the log is larger. `None` sets no limit, as Kafka's -1.
    pub retention_bytes: Option<u64>,
    /// Whether `cleanup.policy` holds `delete`; without it retention removes nothing.
    pub deletes: bool,
}

impl Default for LogConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1000;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: WEEK_MS,
            index_interval_bytes: 4096,
            index_bytes_max: 10 << 20,
            retention_ms: Some(WEEK_MS),
            retention_bytes: None,
            deletes: true,
        }
    }
}
