//! What differs between HEAD, the index and the work tree, as git tells it.

use crate::git::{Extra, Git, GitError};
use std::{
    ffi::OsStr,
    hash::{Hash, Hasher},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// What is read of git's list; paths beyond are not seen.
const MAX_LIST: usize = 8 * 1024 * 1024;

/// The work tree as git sees it.
#[derive(Debug)]
pub struct Status {
    /// The commit that HEAD stands for; none on a branch without one.
    pub head: Option<String>,
    /// The branch that HEAD is on, without `refs/heads/`; none where it is on none.
    pub branch: Option<String>,
    /// What differs from it; ignored files are not among them.
    pub changed: Vec<Changed>,
    /// The list is longer than what was read of it.
    pub cut: bool,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Below the work tree.
    pub path: PathBuf,
    /// Git's letters for index and work tree, `??` for an untracked file.
    pub letters: [u8; 2],
}

impl Status {
    /// Asks git. Takes no lock and writes nothing, so that it stays out of the
    /// engine's way.
    ///
    /// # Errors
    /// Git cannot run.
    pub async fn read(git: Git<'_>, limit: Duration) -> Result<Self, GitError> {
        let args = [
            "--no-optional-locks",
            "status",
            "--porcelain=v2",
            "--branch",
            "-z",
            "--no-renames",
            "--untracked-files=all",
        ];
        let extra = Extra {
            max_stdout: Some(MAX_LIST),
            ..Extra::default()
        };
        let done = git.run_with(&args, limit, None, extra).await?;
        Ok(parse(&done.ok()?))
    }

    /// Stands for all that was seen, the changed files' sizes and times among
    /// it; another content has, but for a freak, another mark.
    pub fn mark(&self, work_tree: &Path, into: &mut impl Hasher) {
        (&self.head, &self.branch).hash(into);
        for changed in &self.changed {
            changed.path.hash(into);
            changed.letters.hash(into);
            if let Ok(meta) = std::fs::symlink_metadata(work_tree.join(&changed.path)) {
                let seen = (meta.ino(), meta.size(), meta.mode());
                (seen, meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec()).hash(into);
            }
        }
    }
}

fn name(text: &[u8], none: &str) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    (text != none).then(|| text.into_owned())
}

fn parse(list: &[u8]) -> Status {
    let mut status = Status {
        head: None,
        branch: None,
        changed: Vec::new(),
        cut: list.len() >= MAX_LIST,
    };
    // What follows the last NUL is empty, or half an entry.
    let whole = list.iter().rposition(|b| *b == 0).unwrap_or(0);
    for entry in list[..whole].split(|b| *b == 0) {
        if let Some(head) = entry.strip_prefix(b"# branch.oid ") {
            status.head = name(head, "(initial)");
            continue;
        }
        if let Some(branch) = entry.strip_prefix(b"# branch.head ") {
            status.branch = name(branch, "(detached)");
            continue;
        }
        // Fields before the path, which itself may hold blanks.
        let fields = match entry.first() {
            Some(b'1') => 8,
            Some(b'u') => 10,
            Some(b'?') => 1,
            _ => continue,
        };
        let parts: Vec<&[u8]> = entry.splitn(fields + 1, |b| *b == b' ').collect();
        let Some(path) = parts.get(fields) else {
            continue;
        };
        let (letters, module) = match (fields, &parts[..]) {
            (1, _) => (*b"??", false),
            (_, [_, [x, y], sub, ..]) => ([*x, *y], sub.starts_with(b"S")),
            _ => continue,
        };
        // Repositories within the repository are not ours to save: their
        // commits are nowhere but in them.
        if module || path.ends_with(b"/") {
            continue;
        }
        status.changed.push(Changed {
            path: PathBuf::from(OsStr::from_bytes(path)),
            letters,
        });
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_entry_is_read_and_half_ones_are_not() {
        let id = "0123456789012345678901234567890123456789";
        let list = format!(
            "# branch.oid {id}\0# branch.head main\0\
             1 .M N... 100644 100644 100644 {id} {id} a file\0\
             1 .M SC.. 160000 160000 160000 {id} {id} module\0\
             u UU N... 100644 100644 100644 100644 {id} {id} {id} both\0\
             ? new\nline\0? nested/\0? S tart\0? hal"
        );
        let status = parse(list.as_bytes());
        assert_eq!(status.head.as_deref(), Some(id));
        assert_eq!(status.branch.as_deref(), Some("main"));
        let seen: Vec<_> = status
            .changed
            .iter()
            .map(|c| (c.path.to_str().unwrap(), &c.letters))
            .collect();
        assert_eq!(
            seen,
            [
                ("a file", b".M"),
                ("both", b"UU"),
                ("new\nline", b"??"),
                ("S tart", b"??")
            ]
        );
        assert!(!status.cut);
        let none = parse(b"# branch.oid (initial)\0# branch.head (detached)\0");
        assert_eq!((none.head, none.branch), (None, None));
    }
}
