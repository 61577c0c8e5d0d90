//! The table of `docs/choosing-a-backend.md`.

use std::{fs, path::Path, process::Command};

use super::measures::{Measured, millis};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/choosing-a-backend.md");
const BEGIN: &str = "<!-- the table: written by `make backends` -->\n";
const END: &str = "<!-- the table ends -->\n";

const HEAD: &str = "\
| backend | first leader | leader killed | leader paused | and resumed | leader cut off | leader deaf | changes/s | memory, MiB | library, MiB | fault runs passed |
|---|---|---|---|---|---|---|---|---|---|---|
";

/// One line.
pub(crate) fn row(name: &str, measured: &Measured, library: &Path) -> String {
    let Measured { first_leader, leader_killed, leader_paused, resumed, leader_cut, leader_deaf, .. } =
        measured;
    let times = [first_leader, leader_killed, leader_paused, resumed, leader_cut, leader_deaf].map(millis);
    let (passed, runs) = measured.faults;
    format!(
        "| {name} | {} | {:.0} | {:.0} | {:.1} | {passed} of {runs} |\n",
        times.join(" | "),
        measured.rate,
        measured.memory,
        size(library)
    )
}

/// The size of a library without what debuggers read, in MiB.
fn size(library: &Path) -> f64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stripped = folder.path().join("library");
    let done = Command::new("strip").arg("-o").arg(&stripped).arg(library).status();
    assert!(done.is_ok_and(|status| status.success()), "strip does not take {}", library.display());
    fs::metadata(&stripped).expect("the stripped library").len() as f64 / f64::from(1 << 20)
}

/// Puts the rows into the document.
pub(crate) fn write(rows: &[String]) {
    let text = fs::read_to_string(FILE).expect("the document");
    let (before, rest) = text.split_once(BEGIN).expect("the mark before the table");
    let (_, after) = rest.split_once(END).expect("the mark after the table");
    fs::write(FILE, format!("{before}{BEGIN}{HEAD}{}{END}{after}", rows.concat())).expect("the document");
}
