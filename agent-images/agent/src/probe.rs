//! `factory-agent probe`: what a container with the real settings can do.

use crate::{Agent, chain};
use factory_core::wire::{OUT_DIR, STATE_DIR, WORKSPACE};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// How long the probe waits for the gateway.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the probe saw; one line of JSON.
#[derive(Debug, Default, Serialize)]
pub struct Seen {
    /// User inside.
    uid: u32,
    /// Group inside.
    gid: u32,
    /// Which directories can be written; the root must not be among them.
    writable: BTreeMap<&'static str, bool>,
    /// Network interfaces; only `lo` is right.
    interfaces: Vec<String>,
    /// Effective capabilities, hexadecimal.
    capabilities: String,
    /// The gateway answered on the socket.
    hello: bool,
    /// A commit was made in the work tree.
    commit: Option<String>,
    /// Everything that is not as it has to be; empty when all is well.
    pub problems: Vec<String>,
}

/// Looks around, says hello, commits.
pub async fn run(agent: &Agent) -> Seen {
    let mut seen = Seen {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        ..Seen::default()
    };
    for (dir, expected) in [
        ("/", false),
        (WORKSPACE, true),
        (OUT_DIR, true),
        (STATE_DIR, true),
        ("/tmp", true),
    ] {
        let probe = agent.places.at(dir).join(".factory-probe");
        let written = std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe));
        seen.writable.insert(dir, written.is_ok());
        match (written, expected) {
            (Err(e), true) => seen.problems.push(format!("{dir} cannot be written: {e}")),
            (Ok(()), false) => seen.problems.push(format!("{dir} can be written")),
            (Ok(()), true) | (Err(_), false) => {}
        }
    }
    // Two lines of headings, then `name: counters`.
    match std::fs::read_to_string("/proc/net/dev") {
        Ok(table) => {
            let names = table
                .lines()
                .skip(2)
                .filter_map(|line| line.split(':').next());
            seen.interfaces = names.map(|name| name.trim().to_owned()).collect();
        }
        Err(e) => seen
            .problems
            .push(format!("/proc/net/dev cannot be read: {e}")),
    }
    if seen.interfaces.iter().any(|name| name != "lo") {
        seen.problems.push(format!(
            "the container has a network: {}",
            seen.interfaces.join(", ")
        ));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map_or("", str::trim)
            .to_owned()
    };
    seen.capabilities = field("CapEff:");
    if seen.capabilities.bytes().any(|digit| digit != b'0') {
        seen.problems.push(format!(
            "the container has capabilities: {}",
            seen.capabilities
        ));
    }
    if field("NoNewPrivs:") != "1" {
        seen.problems
            .push("the container may gain privileges (no-new-privileges is off)".to_owned());
    }
    match agent.door.hello(PATIENCE).await {
        Ok(()) => seen.hello = true,
        Err(e) => seen.problems.push(chain(&e)),
    }
    match commit(agent).await {
        Ok(id) => seen.commit = id,
        Err(e) => seen
            .problems
            .push(format!("no commit in {WORKSPACE}: {}", chain(&e))),
    }
    seen
}

async fn commit(agent: &Agent) -> Result<Option<String>, crate::git::GitError> {
    let git = agent.git();
    let limit = Duration::from_secs(30);
    git.run(&["init", "-q", "."], limit, None).await?.ok()?;
    let commit = ["commit", "-q", "--allow-empty", "-m", "Door probe"];
    git.run(&commit, limit, None).await?.ok()?;
    git.commit("HEAD").await
}
