//! Where the objects of a push lie while they are inspected: seen by no other
//! process and no other push.

use factory_core::ids::RunId;
use factory_ledger::git::Git;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// An object directory of one inspection, in front of the objects of `door.git`.
pub(super) struct Quarantine {
    folder: TempDir,
    /// Held locked while it is in use, so that what a crash left can be told
    /// from what another gateway works in.
    _lock: File,
    door_git: PathBuf,
}

impl Quarantine {
    /// Makes one below `parent`, after removing what crashes left there.
    pub(super) fn create(parent: &Path, run: RunId, door_git: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(parent)?;
        // One at a time: a folder that is made but not locked yet looks abandoned.
        let turn = File::open(parent)?;
        turn.lock()?;
        sweep(parent)?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{run}."))
            .tempdir_in(parent)?;
        let lock = File::open(folder.path())?;
        lock.lock()?;
        drop(turn);
        std::fs::create_dir(folder.path().join("pack"))?;
        Ok(Self {
            folder,
            _lock: lock,
            door_git: door_git.to_owned(),
        })
    }

    /// The object directory.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Git on `door.git` that writes objects here, and reads them from here
    /// first. What outlives the inspection is written to the disk then, so nothing waits for it here.
    pub(super) fn git(&self, args: &[&str]) -> Command {
        // The variable holds a list separated by colons; quoted, a path may hold any.
        let mut alternate = vec![b'"'];
        for byte in self.door_git.join("objects").into_os_string().into_vec() {
            if matches!(byte, b'"' | b'\\') {
                alternate.push(b'\\');
            }
            alternate.push(byte);
        }
        alternate.push(b'"');
        Git::isolated(&self.door_git)
            .call(["-c", "core.fsync=none"])
            .args(args)
            .env("GIT_DIR", &self.door_git)
            .env("GIT_OBJECT_DIRECTORY", self.folder.path())
            .env(
                "GIT_ALTERNATE_OBJECT_DIRECTORIES",
                OsString::from_vec(alternate),
            )
            .command()
    }
}

fn sweep(parent: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let path = entry?.path();
        let Ok(folder) = File::open(&path) else {
            continue;
        };
        if folder.try_lock().is_ok()
            && let Err(error) = std::fs::remove_dir_all(&path)
        {
            tracing::warn!(path = %path.display(), %error, "an abandoned quarantine could not be removed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_left_goes_and_what_is_in_use_stays() {
        let parent = tempfile::tempdir().unwrap();
        let door_git = Path::new("/nonexistent");
        let first = Quarantine::create(parent.path(), "r1-1".parse().unwrap(), door_git).unwrap();
        std::fs::create_dir_all(parent.path().join("r2-1.abandoned/pack")).unwrap();
        let second = Quarantine::create(parent.path(), "r1-1".parse().unwrap(), door_git).unwrap();
        assert!(first.folder.path().exists() && second.folder.path().exists());
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 2);
        drop((first, second));
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_that_is_being_made_is_not_taken_for_abandoned() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for run in ["r1-1", "r2-1", "r3-1", "r4-1"] {
                let parent = parent.path();
                scope.spawn(move || {
                    for _ in 0..200 {
                        let run = run.parse().unwrap();
                        let made = Quarantine::create(parent, run, Path::new("/nonexistent"));
                        assert!(made.unwrap().folder.path().join("pack").exists());
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
