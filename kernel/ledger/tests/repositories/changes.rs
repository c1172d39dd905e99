//! A target branch and a commit that changes it in every way, and what the
//! tests that move the branch share.

use crate::fixture::{Lab, git, put};
use factory_core::ids::Oid;
use factory_ledger::advance::{Advance, Obstacle, advance_target, recover_advance};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

pub const FILES: &[(&str, &str)] = &[
    ("a.txt", "one\n"),
    ("changed.txt", "before\n"),
    ("deleted.txt", "going\n"),
    ("dir/inner.txt", "inner\n"),
    ("file-then-dir", "a file\n"),
    ("link-then-file", "to be replaced\n"),
    ("mode.sh", "#!/bin/sh\n"),
    ("other.txt", "other\n"),
    ("untouched.txt", "untouched\n"),
];

/// Changes of every kind.
pub fn change(top: &Path) {
    put(top, "changed.txt", "after, and longer than before\n");
    fs::remove_file(top.join("deleted.txt")).unwrap();
    fs::remove_dir_all(top.join("dir")).unwrap();
    put(top, "dir", "now a file\n");
    fs::remove_file(top.join("file-then-dir")).unwrap();
    put(top, "file-then-dir/x.txt", "x\n");
    put(top, "added/deep/new.txt", "new\n");
    fs::remove_file(top.join("link-then-file")).unwrap();
    symlink("a.txt", top.join("link-then-file")).unwrap();
    fs::set_permissions(top.join("mode.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    put(top, "we ird\n\"name\".txt", "odd\n");
}

pub fn lab() -> (Lab, Oid) {
    let lab = Lab::new(FILES);
    let new = lab.in_door("change", &lab.first, change);
    (lab, new)
}

pub fn advance(lab: &Lab, new: &Oid) -> Advance {
    advance_target(&lab.user, &lab.door, "main", &lab.first, new).unwrap()
}

pub fn recover(lab: &Lab, new: &Oid) -> Advance {
    recover_advance(
        &lab.user,
        &lab.door,
        "main",
        &lab.first,
        new,
        Some(&lab.top),
    )
    .unwrap()
}

pub fn refusal(outcome: Advance) -> (Obstacle, Vec<String>) {
    match outcome {
        Advance::Refused {
            obstacle, paths, ..
        } => (obstacle, paths),
        other => panic!("not refused: {other:?}"),
    }
}

/// Every file of a worktree with its content, and what the index holds.
pub fn snapshot(top: &Path) -> (BTreeMap<PathBuf, Vec<u8>>, String, String) {
    let mut files = BTreeMap::new();
    let mut todo = vec![top.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && entry.file_name() != ".git" {
                todo.push(entry.path());
            } else if kind.is_symlink() {
                files.insert(
                    entry.path(),
                    fs::read_link(entry.path())
                        .unwrap()
                        .into_os_string()
                        .into_encoded_bytes(),
                );
            } else if kind.is_file() {
                files.insert(entry.path(), fs::read(entry.path()).unwrap());
            }
        }
    }
    (
        files,
        git(top, &["ls-files", "-s"]),
        git(top, &["rev-parse", "HEAD"]),
    )
}

pub fn assert_at(top: &Path, new: &Oid) {
    assert_eq!(git(top, &["rev-parse", "HEAD"]), new.as_str());
    assert_eq!(git(top, &["status", "--porcelain"]), "");
}
