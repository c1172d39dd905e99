//! Processes of a factory under test, found by the repository they work for.

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::path::Path;

/// A process that a test's own `factory start` brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub pid: u32,
    /// Its whole command line.
    pub command: String,
}

impl Found {
    /// True for `factory <role> …`.
    pub fn is(&self, role: &str) -> bool {
        self.command.split(' ').nth(1) == Some(role)
    }
}

/// Every process with `dir`, a directory of the test's own, on its command line.
pub fn processes(dir: &Path) -> Vec<Found> {
    let dir = dir.to_str().unwrap();
    let me = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // A process that is gone by now has no command line.
        let Ok(bytes) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let command = String::from_utf8_lossy(&bytes).replace('\0', " ");
        if pid != me && command.contains(dir) {
            found.push(Found { pid, command });
        }
    }
    found
}

/// The parent of a process; none where it is gone.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything, in brackets: state, then parent.
    let (_, after) = stat.rsplit_once(") ")?;
    after.split(' ').nth(1)?.parse().ok()
}

/// Orphans of the processes under test become children of the test, which can
/// then wait for their end.
pub(crate) fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
}

/// SIGKILL. A process that is gone already is fine.
pub fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    match kill_process(pid, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("cannot kill {pid:?}: {error}"),
    }
}

/// Waits for the end of an orphan that became a child of the test.
pub fn reap(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    match waitpid(Some(pid), WaitOptions::empty()) {
        // CHILD: its first parent reaped it.
        Ok(_) | Err(rustix::io::Errno::CHILD) => {}
        Err(error) => panic!("cannot wait for {pid:?}: {error}"),
    }
}
