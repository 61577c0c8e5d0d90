//! What a person, and what a program, is told of a run.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use crate::{Stop, runner::Outcome};

/// A run of the suite.
#[derive(Clone, Debug)]
pub struct Report {
    /// The backend, in words.
    pub backend: String,
    /// Whether the full list was run.
    pub full: bool,
    /// What random choices came from.
    pub seed: u64,
    /// How long it took.
    pub took: Duration,
    /// Every case.
    pub outcomes: Vec<Outcome>,
    /// How to run a case again: a command line, without the case.
    pub again: String,
}

/// How many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Kept the contract.
    pub passed: usize,
    /// Did not.
    pub failed: usize,
    /// Did not apply.
    pub skipped: usize,
}

impl Counts {
    fn of<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Self {
        let mut counts = Self::default();
        for outcome in outcomes {
            match outcome.verdict {
                Ok(()) => counts.passed += 1,
                Err(Stop::Failed(_)) => counts.failed += 1,
                Err(Stop::Skipped(_)) => counts.skipped += 1,
            }
        }
        counts
    }

    fn words(self) -> String {
        let mut words = vec![format!("{} passed", self.passed)];
        if self.failed > 0 {
            words.push(format!("{} FAILED", self.failed));
        }
        if self.skipped > 0 {
            words.push(format!("{} skipped", self.skipped));
        }
        words.join(", ")
    }
}

/// One case on all its sizes.
struct Row<'a> {
    name: &'static str,
    outcomes: Vec<&'a Outcome>,
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// `1, 3 and 5`.
fn listed(numbers: impl IntoIterator<Item = usize>) -> String {
    let words: Vec<String> = numbers.into_iter().map(|number| number.to_string()).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

impl Report {
    /// How many of each.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::of(&self.outcomes)
    }

    /// The groups, in the order of the list.
    fn groups(&self) -> Vec<(&'static str, Vec<Row<'_>>)> {
        let mut groups: Vec<(&'static str, Vec<Row<'_>>)> = Vec::new();
        for outcome in &self.outcomes {
            if groups.last().is_none_or(|(group, _)| *group != outcome.group) {
                groups.push((outcome.group, Vec::new()));
            }
            let Some((_, rows)) = groups.last_mut() else { continue };
            match rows.last_mut().filter(|row| row.name == outcome.name) {
                Some(row) => row.outcomes.push(outcome),
                None => rows.push(Row { name: outcome.name, outcomes: vec![outcome] }),
            }
        }
        groups
    }

    /// For a person. Marks are coloured for a terminal.
    #[must_use]
    pub fn text(&self, coloured: bool) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text, coloured);
        text
    }

    fn write(&self, to: &mut String, coloured: bool) -> std::fmt::Result {
        let list = if self.full { "full" } else { "short" };
        let mut sizes: Vec<usize> = self.outcomes.iter().map(|outcome| outcome.nodes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        writeln!(to, "Conformance of {}: the {list} list, on {} nodes\n", self.backend, listed(sizes))?;
        for (group, rows) in self.groups() {
            let counts = Counts::of(rows.iter().flat_map(|row| row.outcomes.iter().copied()));
            writeln!(to, "{group}: {}", counts.words())?;
            for row in rows {
                row.write(to, coloured)?;
            }
            writeln!(to)?;
        }
        self.write_skipped(to)?;
        self.write_failed(to, coloured)?;
        writeln!(to, "{} in {}; seed {}", self.counts().words(), seconds(self.took), self.seed)
    }

    fn write_skipped(&self, to: &mut String) -> std::fmt::Result {
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for outcome in &self.outcomes {
            if let Err(Stop::Skipped(reason)) = &outcome.verdict {
                let names = reasons.entry(reason).or_default();
                if names.last() != Some(&outcome.name) {
                    names.push(outcome.name);
                }
            }
        }
        if reasons.is_empty() {
            return Ok(());
        }
        writeln!(to, "Skipped:")?;
        for (reason, names) in reasons {
            writeln!(to, "  {reason}:\n    {}", names.join("\n    "))?;
        }
        writeln!(to)
    }

    fn write_failed(&self, to: &mut String, coloured: bool) -> std::fmt::Result {
        for outcome in &self.outcomes {
            if let Err(Stop::Failed(reason)) = &outcome.verdict {
                let (name, nodes) = (outcome.name, outcome.nodes);
                writeln!(to, "{} {name} on {nodes} nodes:\n  {reason}", mark("FAILED", RED, coloured))?;
                writeln!(to, "  again: {} --case {name} --nodes {nodes} --seed {}\n", self.again, self.seed)?;
            }
        }
        Ok(())
    }

    /// For a program.
    #[must_use]
    pub fn json(&self) -> Value {
        let counts = self.counts();
        let case = |outcome: &Outcome| {
            let (word, reason) = match &outcome.verdict {
                Ok(()) => ("passed", None),
                Err(Stop::Failed(reason)) => ("failed", Some(reason)),
                Err(Stop::Skipped(reason)) => ("skipped", Some(reason)),
            };
            json!({
                "group": outcome.group,
                "name": outcome.name,
                "nodes": outcome.nodes,
                "outcome": word,
                "reason": reason,
                "seconds": outcome.took.as_secs_f64(),
            })
        };
        json!({
            "backend": self.backend,
            "list": if self.full { "full" } else { "short" },
            "seed": self.seed,
            "seconds": self.took.as_secs_f64(),
            "passed": counts.passed,
            "failed": counts.failed,
            "skipped": counts.skipped,
            "cases": self.outcomes.iter().map(case).collect::<Vec<_>>(),
        })
    }
}

const RED: &str = "\x1b[31;1m";
const GREEN: &str = "\x1b[32m";
const GREY: &str = "\x1b[2m";

fn mark(word: &str, colour: &str, coloured: bool) -> String {
    if coloured { format!("{colour}{word}\x1b[0m") } else { word.to_owned() }
}

impl Row<'_> {
    fn write(&self, to: &mut String, coloured: bool) -> std::fmt::Result {
        let counts = Counts::of(self.outcomes.iter().copied());
        let word = match counts {
            Counts { failed: 1.., .. } => mark("FAILED ", RED, coloured),
            Counts { passed: 1.., .. } => mark("ok     ", GREEN, coloured),
            _ => mark("skipped", GREY, coloured),
        };
        let sizes = listed(self.outcomes.iter().map(|outcome| outcome.nodes));
        let took = seconds(self.outcomes.iter().map(|outcome| outcome.took).sum());
        let line = format!("  {word} {:<62} {sizes:<10} {took:>7}", self.name);
        writeln!(to, "{}", line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(group: &'static str, name: &'static str, nodes: usize, verdict: crate::Verdict) -> Outcome {
        Outcome { group, name, nodes, verdict, took: Duration::from_millis(1500) }
    }

    fn report() -> Report {
        Report {
            backend: "toy".to_owned(),
            full: false,
            seed: 7,
            took: Duration::from_secs(3),
            outcomes: vec![
                outcome("lifecycle", "it_starts", 1, Ok(())),
                outcome("lifecycle", "it_starts", 3, Err(Stop::Failed("it waits".to_owned()))),
                outcome("log", "it_keeps", 3, Err(Stop::Skipped("it has no log".to_owned()))),
            ],
            again: "quorate conformance --plugin /x.so".to_owned(),
        }
    }

    #[test]
    fn a_person_reads_what_failed_how_to_run_it_again_and_why_something_was_skipped() {
        let text = report().text(false);
        for line in [
            "Conformance of toy: the short list, on 1 and 3 nodes",
            "lifecycle: 1 passed, 1 FAILED",
            "FAILED it_starts on 3 nodes:\n  it waits",
            "again: quorate conformance --plugin /x.so --case it_starts --nodes 3 --seed 7",
            "it has no log:\n    it_keeps",
            "1 passed, 1 FAILED, 1 skipped in 3.0 s; seed 7",
        ] {
            assert!(text.contains(line), "no '{line}' in:\n{text}");
        }
        assert!(!text.contains('\x1b'), "colours without a terminal");
    }

    #[test]
    fn a_program_reads_each_outcome() {
        let json = report().json();
        assert_eq!(json["failed"], 1);
        assert_eq!(json["cases"][1]["reason"], "it waits");
        assert_eq!(json["cases"][2]["outcome"], "skipped");
    }
}
