//! Style as a test: who may import whom, how large files may be, and what may not be written anywhere.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What each room of `core` may import from the others. Whatever is not listed is forbidden.
const ROOMS: [(&str, &[&str]); 12] = [
    ("ids", &[]),
    ("planted", &[]),
    ("runtime", &[]),
    ("consensus", &["planted", "ids", "runtime"]),
    ("protocol", &["planted", "ids", "runtime"]),
    ("log", &["planted", "ids", "runtime", "protocol"]),
    ("metadata", &["planted", "ids", "consensus"]),
    ("controller", &["planted", "ids", "consensus", "metadata", "runtime"]),
    ("partition", &["planted", "ids", "runtime", "protocol", "log", "metadata"]),
    (
        "broker",
        &["planted", "ids", "runtime", "consensus", "protocol", "log", "metadata", "controller", "partition"],
    ),
    (
        "handler",
        &[
            "planted",
            "ids",
            "runtime",
            "consensus",
            "protocol",
            "log",
            "metadata",
            "controller",
            "partition",
            "broker",
        ],
    ),
    ("lib", &[]),
];

/// Files may have this many lines; nine of ten stay below [`USUAL_LINES`].
const MOST_LINES: usize = 600;
const USUAL_LINES: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn tracked(endings: &[&str]) -> Vec<(String, String)> {
    let out = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output().expect("git");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let names = String::from_utf8(out.stdout).expect("names in UTF-8");
    let names = names.split('\0').filter(|name| endings.iter().any(|ending| name.ends_with(ending)));
    names.filter_map(|name| Some((name.to_owned(), fs::read_to_string(root().join(name)).ok()?))).collect()
}

/// A file without its unit tests.
fn production(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let rooms: BTreeMap<_, _> = ROOMS.into_iter().collect();
    let mut wrong = Vec::new();
    for (name, text) in tracked(&[".rs"]) {
        let Some(path) = name.strip_prefix("core/src/") else { continue };
        let room = path.split(['/', '.']).next().expect("a room");
        let Some(allowed) = rooms.get(room) else {
            wrong.push(format!("{name}: the room '{room}' is not in the table"));
            continue;
        };
        for (at, line) in production(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for used in code.split("crate::").skip(1) {
                let used: Vec<&str> = match used.strip_prefix('{') {
                    Some(list) => list.split([',', '}']).map(str::trim).collect(),
                    None => vec![used],
                };
                for used in used {
                    let used = used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
                    if rooms.contains_key(used) && used != room && !allowed.contains(&used) {
                        wrong.push(format!("{name}:{}: '{room}' may not import '{used}'", at + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn core_names_no_backend_and_only_the_server_does() {
    let backends = ["raftrs", "etcd", "openraft"];
    let mut wrong = Vec::new();
    for (name, text) in tracked(&[".rs"]) {
        let inside = name.starts_with("core/src/");
        let other = name.starts_with("consensus-");
        for (at, line) in production(&text).lines().enumerate() {
            // The symbol of every library is no crate.
            let code = line.split("//").next().unwrap_or("").replace("quorate_consensus_v0", "");
            if inside && backends.iter().any(|backend| code.contains(&format!("consensus_{backend}"))) {
                wrong.push(format!("{name}:{}: core names a backend", at + 1));
            }
            let own = name.split('/').next().unwrap_or("").replace('-', "_");
            if other
                && code.contains("quorate_consensus_")
                && !code.contains(&format!("quorate_{own}"))
                && !code.contains("quorate_consensus_kit")
                && !code.contains("quorate_consensus_plugin")
            {
                wrong.push(format!("{name}:{}: backends do not know each other", at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_awaited_between_main_and_the_start_of_the_backend() {
    let (_, backend) = tracked(&["server/src/backend.rs"]).pop().expect("server/src/backend.rs");
    assert!(!production(&backend).contains("async "), "choosing and constructing a backend is synchronous");
    for (name, text) in tracked(&["/config.rs"]) {
        assert!(!production(&text).contains("async fn"), "{name}: configuration is synchronous");
    }
}

#[test]
fn what_the_simulator_replays_has_no_order_by_chance() {
    for (name, text) in tracked(&[".rs"]) {
        let code = production(&text);
        if !name.starts_with("core/src/") || name.starts_with("core/src/runtime/") {
            continue;
        }
        let imports = code.split("tokio::").skip(1).filter_map(|import| import.split(';').next());
        let watch = imports.filter(|import| import.starts_with("sync") || import.starts_with('{'));
        let tokios = watch.filter(|import| import.contains("watch")).count();
        assert_eq!(tokios, 0, "{name}: use runtime::watch, tokio's wakes whoever waits in a random order");
        let selects = code.matches("select! {").count();
        assert_eq!(
            selects,
            code.matches("select! { biased;").count(),
            "{name}: a select! that is not biased"
        );
    }
}

#[test]
fn files_stay_small() {
    let files: Vec<(String, usize)> = tracked(&[".rs", ".go", ".py", ".java"])
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .collect();
    let above = |limit: usize| files.iter().filter(|(_, lines)| *lines > limit).collect::<Vec<_>>();
    assert!(above(MOST_LINES).is_empty(), "above {MOST_LINES} lines: {:?}", above(MOST_LINES));
    let usual = above(USUAL_LINES);
    assert!(
        usual.len() * 10 <= files.len(),
        "more than one file of ten is above {USUAL_LINES} lines: {usual:?}"
    );
}

#[test]
fn every_crate_of_the_workspace_inherits_the_lints() {
    for (name, text) in tracked(&["Cargo.toml"]) {
        if name != "Cargo.toml" && !name.starts_with("tests/clients/") {
            assert!(
                text.contains("[lints]\nworkspace = true"),
                "{name} does not inherit the workspace's lints"
            );
        }
    }
}

#[test]
fn cargo_run_knows_that_the_broker_is_meant() {
    let workspace = tracked(&["Cargo.toml"]).into_iter().find(|(name, _)| name == "Cargo.toml");
    let (_, text) = workspace.expect("the workspace");
    assert!(
        text.contains("default-members = [\"server\"]"),
        "the README's first command would ask which binary"
    );
}

/// Where code may be `unsafe`; everything else stays within what the compiler checks.
const UNSAFE_ROOMS: [&str; 1] = ["consensus-plugin/"];

#[test]
fn only_the_rooms_at_the_edge_are_unsafe_and_say_why() {
    let mut wrong = Vec::new();
    for (name, text) in tracked(&[".rs"]) {
        let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or("")).collect();
        for (at, line) in code.iter().enumerate() {
            let block = line.contains("unsafe {") || line.contains("unsafe impl");
            if (block || line.contains("unsafe extern") || line.contains("unsafe fn"))
                && !name.ends_with("tidy.rs")
                && !UNSAFE_ROOMS.iter().any(|room| name.starts_with(room))
            {
                wrong.push(format!("{name}:{}: unsafe code outside of {UNSAFE_ROOMS:?}", at + 1));
            }
            let before = text.lines().skip(at.saturating_sub(6)).take(at - at.saturating_sub(6));
            if block && !name.ends_with("tidy.rs") && !before.clone().any(|line| line.contains("// SAFETY:"))
            {
                wrong.push(format!("{name}:{}: no SAFETY comment above", at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_for_later() {
    let banned = ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "XXX"].map(|word| word.to_owned());
    let mut wrong = Vec::new();
    for (name, text) in tracked(&[".rs", ".go", ".py", ".java", ".sh", "Makefile", ".md"]) {
        for (at, line) in text.lines().enumerate() {
            if !name.ends_with("tidy.rs") && banned.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{name}:{}: {line}", at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
