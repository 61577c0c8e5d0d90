//! "Did you mean": the known name that a mistyped one is nearest to.

/// The candidate nearest to `name`, if it is near enough to be meant: a third of the letters may differ.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lowered = name.to_lowercase().replace(['_', '-'], ".");
    let distance = |candidate: &str| strsim::damerau_levenshtein(&lowered, candidate);
    let best = candidates.into_iter().min_by_key(|candidate| distance(candidate))?;
    (distance(best) <= name.chars().count() / 3).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["log.dirs", "log.retention.ms", "listeners"];

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        assert_eq!(nearest("log.dir.s", NAMES), Some("log.dirs"));
        assert_eq!(nearest("lsiteners", NAMES), Some("listeners"));
        assert_eq!(nearest("log_retention_ms", NAMES), Some("log.retention.ms"));
    }

    #[test]
    fn nothing_is_suggested_for_a_name_that_is_near_to_none() {
        assert_eq!(nearest("zookeeper.connect", NAMES), None);
        assert_eq!(nearest("", NAMES), None);
    }
}
