//! What `quorate dev` prints about itself.

use std::{fmt::Write as _, path::Path, time::Duration};

use super::{
    children::Who,
    plan::{NodePlan, Plan},
};

/// Said when the processes have been started.
pub(crate) fn started(plan: &Plan, program: &Path, pid: impl Fn(Who) -> Option<u32>) -> String {
    let count = plan.nodes.len();
    let nodes = if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
    let pid = |who| pid(who).map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(text, "Quorate {}: {nodes} on this machine, loopback only", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "  bootstrap   {}", plan.bootstrap());
    let _ = writeln!(text, "  data        {}", plan.folder.display());
    let _ = writeln!(text, "  consensus   {}{}", plan.consensus, etcd_note(plan));
    let _ = writeln!(text, "  durability  {}", durability(plan));
    let _ = writeln!(
        text,
        "  new and internal topics: replication factor {}, min in-sync replicas {}",
        plan.replication(),
        plan.min_isr()
    );
    for node in &plan.nodes {
        let (who, log) = (Who::Node(i32::from(node.node)), node.log());
        let _ = writeln!(text, "  node {}      {}  pid {}", node.node, node.address(), pid(who));
        let _ = writeln!(text, "              log      {}", log.display());
        let _ = writeln!(text, "              restart  {}", restart(program, node));
    }
    if plan.etcd.is_some() {
        let (clients, _) = plan.etcd_ports();
        let _ = writeln!(text, "  etcd        127.0.0.1:{clients}  pid {}", pid(Who::Etcd));
        let _ = writeln!(text, "              log      {}", plan.etcd_log().display());
    }
    text
}

/// Said when all nodes are ready.
pub(crate) fn ready(plan: &Plan, program: &Path, took: Duration) -> String {
    let program = quoted(program);
    let first = plan.nodes.first().map(NodePlan::address).unwrap_or_default();
    let bootstrap = if plan.port == 9092 { String::new() } else { format!(" -b {first}") };
    format!(
        "ready in {} ms\n  to see a record go round, in another terminal:\n    \
         echo hello | {program} produce demo{bootstrap} && {program} consume demo{bootstrap}\n  \
         Ctrl-C stops everything in order\n",
        took.as_millis()
    )
}

/// The line that starts a node again by hand.
pub(crate) fn restart(program: &Path, node: &NodePlan) -> String {
    format!("{} server {}", quoted(program), quoted(&node.properties()))
}

fn etcd_note(plan: &Plan) -> String {
    if plan.consensus != "etcd" {
        return String::new();
    }
    let given = plan.extra.iter().find(|(key, _)| key == "consensus.etcd.endpoints");
    given.map_or_else(|| " (a private one)".to_owned(), |(_, endpoints)| format!(" at {endpoints}"))
}

fn durability(plan: &Plan) -> String {
    let level =
        plan.extra.iter().find(|(key, _)| key == "quorate.durability").map(|(_, value)| value.as_str());
    match level.unwrap_or("synced") {
        "synced" => {
            "synced: a record counts as written when every in-sync replica has synced it to disk".to_owned()
        }
        "replicated" => {
            "replicated: a record counts as written when every in-sync replica has it in memory".to_owned()
        }
        other => other.to_owned(),
    }
}

/// As a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Settings;

    #[test]
    fn everything_that_one_needs_is_said() {
        let plan = Plan::new(Path::new("/my data"), 3, 9092, "raftrs", &Settings::default()).unwrap();
        let pids = |who| (who == Who::Node(2)).then_some(4711);
        let text = started(&plan, Path::new("/bin/quorate"), pids);
        for part in [
            "127.0.0.1:9092,127.0.0.1:9102,127.0.0.1:9112",
            "/my data\n",
            "raftrs",
            "synced",
            "replication factor 3, min in-sync replicas 2",
            "127.0.0.1:9102  pid 4711",
            "/my data/node-2/node.log",
            "/bin/quorate server '/my data/node-2/server.properties'",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let text = ready(&plan, Path::new("/bin/quorate"), Duration::from_millis(812));
        assert!(text.starts_with("ready in 812 ms\n"), "{text}");
    }

    #[test]
    fn a_path_is_quoted_as_a_shell_reads_it() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
        assert_eq!(quoted(Path::new("/a-b/c.d")), "/a-b/c.d");
    }
}
