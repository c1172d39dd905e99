//! The file in which an engine keeps its session.

use std::{
    fs::Metadata,
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Folders in folders that are looked through.
const DEPTH: u32 = 6;

/// Where a launch says that the session is.
#[derive(Debug, Clone)]
pub enum Place {
    /// In this file.
    File(PathBuf),
    /// In the newest file below this directory: the engine names it.
    Below(PathBuf),
}

impl Place {
    /// The place of a launch's `session_file`, which is at `path` here.
    pub fn new(path: PathBuf) -> Self {
        match path.file_name() {
            Some(name) if name == "*" => Self::Below(path.with_file_name("")),
            Some(_) | None => Self::File(path),
        }
    }

    /// The session, where there is one: a plain file.
    pub fn session(&self) -> Option<(PathBuf, Metadata)> {
        match self {
            Self::File(path) => plain(path).map(|meta| (path.clone(), meta)),
            Self::Below(dir) => {
                let mut newest = None;
                // One that cannot be read now can be read at the next look.
                newest_below(dir, DEPTH, &mut newest).ok()?;
                newest.map(|(_, path, meta)| (path, meta))
            }
        }
    }
}

/// The most recently changed file so far.
type Newest = Option<(SystemTime, PathBuf, Metadata)>;

fn newest_below(dir: &Path, depth: u32, newest: &mut Newest) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if depth > 0 {
                newest_below(&path, depth - 1, newest)?;
            }
        } else if let Some(meta) = plain(&path) {
            let changed = meta.modified()?;
            if newest.as_ref().is_none_or(|(other, ..)| changed >= *other) {
                *newest = Some((changed, path, meta));
            }
        }
    }
    Ok(())
}

fn plain(path: &Path) -> Option<Metadata> {
    let meta = std::fs::symlink_metadata(path).ok();
    meta.filter(Metadata::is_file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_newest_plain_file_is_the_session() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = dir.path().join("sessions");
        let place = Place::new(sessions.join("*"));
        assert!(place.session().is_none(), "nothing is there yet");
        let day = sessions.join("2026/11/26");
        std::fs::create_dir_all(&day).unwrap();
        for (name, second) in [("old.jsonl", 90), ("new.jsonl", 500), ("older.jsonl", 10)] {
            let file = std::fs::File::create(day.join(name)).unwrap();
            let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            file.set_modified(changed).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", sessions.join("link")).unwrap();
        assert_eq!(place.session().unwrap().0, day.join("new.jsonl"));
        let named = Place::new(day.join("old.jsonl"));
        assert_eq!(named.session().unwrap().0, day.join("old.jsonl"));
    }
}
