//! How much room the factory's folder takes.

use factory_ledger::places::Places;
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Most files and directories that are looked at.
const MOST_ENTRIES: usize = 50_000;
/// Bytes of one block, as the system counts them for every file system.
const BLOCK: u64 = 512;

/// Bytes on disk, by what they are for.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Disk {
    /// All of it.
    pub total: u64,
    /// `state.git`.
    pub state: u64,
    /// `base.git`.
    pub base: u64,
    /// `door.git`.
    pub door: u64,
    /// Workspaces of runs.
    pub workspaces: u64,
    /// Transcripts that were not dropped yet.
    pub transcripts: u64,
    /// What can be made again.
    pub cache: u64,
    /// False where there were too many files to look at all: it is at least this much.
    pub complete: bool,
}

impl Disk {
    /// Looks at the folder, within bounds. What cannot be read counts nothing:
    /// parts of a workspace may belong to an agent's user, and files come and go.
    pub fn of(places: &Places) -> Self {
        let mut left = MOST_ENTRIES;
        let mut size = |dir: PathBuf| size(dir, &mut left);
        let mut disk = Self {
            state: size(places.state_git()),
            door: size(places.door_git()),
            base: size(places.base_git()),
            transcripts: size(places.transcripts()),
            cache: size(places.cache()),
            workspaces: size(places.workspaces()),
            ..Self::default()
        };
        disk.total =
            disk.state + disk.door + disk.base + disk.transcripts + disk.cache + disk.workspaces;
        disk.complete = left > 0;
        disk
    }
}

fn size(dir: PathBuf, left: &mut usize) -> u64 {
    let mut bytes = 0;
    let mut todo = vec![dir];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if *left == 0 {
                return bytes;
            }
            *left -= 1;
            // Not followed: a link counts for itself.
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * BLOCK;
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    bytes
}

/// Bytes for people, such as `34 MiB`.
pub fn shown(bytes: u64) -> String {
    let mut rest = bytes;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if rest < 1024 * 10 {
            break;
        }
        rest /= 1024;
        unit = larger;
    }
    format!("{rest} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        let table = [
            (0, "0 B"),
            (10_239, "10239 B"),
            (10_240, "10 KiB"),
            (20 << 20, "20 MiB"),
            (u64::MAX, "16777215 TiB"),
        ];
        for (bytes, text) in table {
            let said = shown(bytes);
            assert_eq!(said, text);
        }
    }

    #[test]
    fn a_walk_ends_at_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..10 {
            std::fs::write(dir.path().join(n.to_string()), [1; 5000]).unwrap();
        }
        let mut left = 4;
        let part = size(dir.path().to_owned(), &mut left);
        let mut left = 100;
        assert!(size(dir.path().to_owned(), &mut left) > part);
        assert_eq!(left, 90);
    }
}
