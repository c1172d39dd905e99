//! What a commit changes, seen from the target: how much, where, and whether it changes what
//! its checks are made of.

use crate::{
    changes::Objects,
    door::DoorRepo,
    git::GitCall,
    merge::tree_of,
    repo::{RepoError, doing, nul_separated, oid_in},
};
use factory_core::{
    ids::{Oid, PrNo},
    model::{Change, Conflict},
    rules::{Globs, ToldPaths},
};
use std::collections::{BTreeMap, BTreeSet};

/// Most places of a change that are told.
const MOST_PLACES: usize = 32;
/// Longest place that is told, in bytes.
const LONGEST_PLACE: usize = 100;
/// Most open pull requests that a merge is tried with; the newest.
const MOST_COMPARED: usize = 50;
/// Longest patch that a review is handed, in bytes.
pub const PATCH_LIMIT: usize = 1 << 20;
/// Largest file whose lines are compared for a patch, in bytes: each takes git time and memory.
const LARGE_FILE: usize = 16 << 20;
/// Longest line that counts as one, in bytes.
const LONGEST_LINE: usize = 200;
/// Longest patch whose lines are counted, in bytes; a longer one counts as this long.
const MOST_COUNTED: usize = 16 << 20;
/// What a patch says of a file that it does not show, outside of all lines of files.
const BINARY: &[u8] = b"Binary files ";
/// Most files among which a patch looks for renamed ones that were changed too.
const MOST_RENAMED: usize = 400;

/// Measures what `commit` changes since it left `target`. Where that touches `tests`, makes
/// the commit with the tests of where it left the target, and keeps both as `name`. The same
/// arguments give the same commits.
pub fn measure(
    door: &DoorRepo,
    target: &Oid,
    commit: &Oid,
    tests: &Globs,
    name: &str,
) -> Result<Change, RepoError> {
    let base = door
        .merge_base(target, commit)?
        .unwrap_or_else(|| target.clone());
    let mut change = Change {
        lines: lines(door, &base, commit)?,
        too_large: !shown(door, &base, commit)?.is_some_and(|shown| shown.is_whole),
        ..Change::default()
    };
    let call = diff(door, &["-z", "--name-only", "--no-renames"], &base, commit);
    let wrong = || doing(format!("list what {commit} changes"));
    let out = call.run().map_err(wrong())?;
    let mut places = BTreeSet::new();
    let mut changes_tests = false;
    for path in nul_separated(&out.stdout) {
        change.files += 1;
        changes_tests = changes_tests || tests.is_match(path);
        if places.len() < MOST_PLACES {
            places.extend(place(path));
        }
    }
    change.places = places.into_iter().collect();
    if changes_tests {
        change.with_base_tests = with_tests_of(door, &base, commit, tests)?;
        if let Some(made) = &change.with_base_tests {
            door.keep(name, made)?;
        }
    }
    Ok(change)
}

/// A comparison of two commits by git, in which a file that is very large is a binary one.
fn diff(door: &DoorRepo, args: &[&str], base: &Oid, commit: &Oid) -> GitCall {
    let large = format!("core.bigFileThreshold={LARGE_FILE}");
    let call = door.git().call(["-c", &large, "diff-tree", "-r"]);
    call.args(["--no-ext-diff", "--no-textconv"])
        .args(args)
        .args([base.as_str(), commit.as_str()])
}

/// Lines that are added and removed, of which none is longer than [`LONGEST_LINE`].
fn lines(door: &DoorRepo, base: &Oid, commit: &Oid) -> Result<u64, RepoError> {
    let args = ["-p", "-U0", "--no-renames", "--full-index"];
    let patch = diff(door, &args, base, commit)
        .run_up_to(MOST_COUNTED)
        .map_err(doing(format!("count what {commit} changes")))?;
    let Some(patch) = patch else {
        return Ok((MOST_COUNTED / LONGEST_LINE) as u64);
    };
    let mut objects = None;
    let mut total = 0;
    let of = |bytes: u64| bytes.div_ceil(LONGEST_LINE as u64).max(1);
    let mut index: &[u8] = &[];
    let mut in_hunk = false;
    for line in patch.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b"diff --git ") {
            in_hunk = false;
        } else if line.starts_with(b"@@") {
            in_hunk = true;
        } else if in_hunk && matches!(line.first(), Some(b'+' | b'-')) {
            total += of(line.len() as u64 - 1);
        } else if let Some(ids) = line.strip_prefix(b"index ") {
            index = ids;
        } else if line.starts_with(BINARY) {
            let objects = match &mut objects {
                Some(objects) => objects,
                none => none.insert(door.objects()?),
            };
            total += of(binary(objects, index)?);
        }
    }
    Ok(total)
}

/// Bytes of both contents of a binary file, by the line `<object>..<object>` of its patch.
fn binary(objects: &Objects, index: &[u8]) -> Result<u64, RepoError> {
    let mut bytes = 0;
    let ids = index.split(|byte| matches!(byte, b'.' | b' ' | b'\n'));
    // Its mode may follow.
    let ids = ids.filter(|id| id.len() == Oid::zero().as_str().len());
    for id in ids.filter_map(|id| git2::Oid::from_str(std::str::from_utf8(id).ok()?).ok()) {
        if !id.is_zero() {
            bytes += objects.size(id)?;
        }
    }
    Ok(bytes)
}

/// The folder of a path, two levels deep at most, or the path where it lies at the top.
fn place(path: &[u8]) -> Option<String> {
    let folders: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let depth = folders.len().saturating_sub(1).clamp(1, 2);
    let place = String::from_utf8(folders.get(..depth)?.join(&b'/')).ok()?;
    let plain = place.len() <= LONGEST_PLACE && !place.chars().any(char::is_control);
    plain.then_some(place)
}

/// Mode and object of each path of a commit that matches.
fn matching(
    door: &DoorRepo,
    commit: &Oid,
    globs: &Globs,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, RepoError> {
    let call = door
        .git()
        .call(["ls-tree", "-r", "-z", "--full-tree", commit.as_str()]);
    let wrong = || doing(format!("list the files of {commit}"));
    let out = call.clone().run().map_err(wrong())?;
    let mut found = BTreeMap::new();
    for line in nul_separated(&out.stdout) {
        let Some(tab) = line.iter().position(|byte| *byte == b'\t') else {
            return Err(wrong()(call.unexpected(line)));
        };
        let (entry, path) = (&line[..tab], &line[tab + 1..]);
        if globs.is_match(path) {
            found.insert(path.to_vec(), entry.to_vec());
        }
    }
    Ok(found)
}

/// `commit` with everything that matches `tests` as `base` has it; none where that is what
/// it has anyway.
fn with_tests_of(
    door: &DoorRepo,
    base: &Oid,
    commit: &Oid,
    tests: &Globs,
) -> Result<Option<Oid>, RepoError> {
    let (theirs, own) = (matching(door, base, tests)?, matching(door, commit, tests)?);
    if theirs == own {
        return Ok(None);
    }
    let mut entries = Vec::new();
    // What goes first: a file may stand where a folder was.
    for path in own.keys().filter(|path| !theirs.contains_key(*path)) {
        entries.extend(format!("0 {}\t", Oid::zero()).into_bytes());
        entries.extend(path);
        entries.push(0);
    }
    for (path, entry) in &theirs {
        entries.extend(entry);
        entries.push(b'\t');
        entries.extend(path);
        entries.push(0);
    }
    let wrong = || doing(format!("lay the tests of {base} over {commit}"));
    let scratch = tempfile::tempdir_in(door.dir()).map_err(|source| RepoError::Io {
        doing: "make a directory in",
        path: door.dir().to_owned(),
        source,
    })?;
    let index = scratch.path().join("index");
    let call = |args: &[&str]| door.git().call(args).env("GIT_INDEX_FILE", &index);
    call(&["read-tree", commit.as_str()])
        .run()
        .map_err(wrong())?;
    call(&["update-index", "-z", "--index-info"])
        .stdin(entries)
        .run()
        .map_err(wrong())?;
    let write = call(&["write-tree"]);
    let out = write.clone().run().map_err(wrong())?;
    let tree = oid_in(&write, &out.stdout).map_err(wrong())?;
    if tree == tree_of(door, commit)? {
        return Ok(None);
    }
    let message = format!("{commit} with the tests of {base}\n");
    let mut made = door
        .git()
        .call([
            "commit-tree",
            tree.as_str(),
            "-p",
            commit.as_str(),
            "-F",
            "-",
        ])
        .stdin(message);
    for role in ["AUTHOR", "COMMITTER"] {
        made = made
            .env(format!("GIT_{role}_NAME"), "factory")
            .env(format!("GIT_{role}_EMAIL"), "factory@factory.invalid")
            .env(format!("GIT_{role}_DATE"), "@0 +0000");
    }
    let out = made.clone().run().map_err(wrong())?;
    oid_in(&made, &out.stdout).map(Some).map_err(wrong())
}

/// Tries the merge of `head` with each of `others`, and tells with which it conflicts. However
/// many there are, git runs twice.
pub fn conflicts(
    door: &DoorRepo,
    head: &Oid,
    others: &[(PrNo, Oid)],
) -> Result<Vec<Conflict>, RepoError> {
    let others: Vec<_> = others.iter().rev().take(MOST_COMPARED).collect();
    // It only orders the queue: one whose commit is gone holds up nobody.
    let there = door.there(others.iter().map(|(_, other)| other))?;
    let others: Vec<_> = others
        .into_iter()
        .filter(|(_, other)| there.contains(other))
        .collect();
    if others.is_empty() {
        return Ok(Vec::new());
    }
    let pairs: String = others
        .iter()
        .map(|(_, other)| format!("{other} {head}\n"))
        .collect();
    let args = [
        "merge-tree",
        "--stdin",
        "-z",
        "--name-only",
        "--no-messages",
        // The target may have been made anew since one of them began.
        "--allow-unrelated-histories",
    ];
    let wrong = || doing(format!("try the merge of {head} with open pull requests"));
    let call = door.git().call(args).stdin(pairs);
    let out = call.clone().run().map_err(wrong())?;
    // Of each: 0 where it conflicts, the tree, the files in conflict, nothing.
    let mut parts = out.stdout.split(|byte| *byte == 0);
    let mut found = Vec::new();
    for (pr, _) in others {
        let (Some(is_clean), Some(_tree)) = (parts.next(), parts.next()) else {
            return Err(wrong()(call.unexpected(&out.stdout)));
        };
        let files = ToldPaths::from_iter(parts.by_ref().take_while(|part| !part.is_empty()));
        match is_clean {
            b"1" => {}
            b"0" => found.push(Conflict {
                pr: *pr,
                files: files.to_string(),
            }),
            other => return Err(wrong()(call.unexpected(other))),
        }
    }
    found.sort_by_key(|conflict| conflict.pr);
    Ok(found)
}

/// What `commit` changes since it left `target`, as a patch; none where that is longer than
/// [`PATCH_LIMIT`]. Of a binary file it says only that it differs where it would be longer
/// otherwise, and of a file that is larger than 16 MiB.
pub fn patch(door: &DoorRepo, target: &Oid, commit: &Oid) -> Result<Option<String>, RepoError> {
    let base = door
        .merge_base(target, commit)?
        .unwrap_or_else(|| target.clone());
    let shown = shown(door, &base, commit)?;
    // Programs that look for words take what holds a NUL for no text.
    Ok(shown.map(|shown| String::from_utf8_lossy(&shown.patch).replace('\0', "\u{fffd}")))
}

/// A patch that is not too long.
struct Shown {
    patch: Vec<u8>,
    /// It leaves out no file's lines.
    is_whole: bool,
}

fn shown(door: &DoorRepo, base: &Oid, commit: &Oid) -> Result<Option<Shown>, RepoError> {
    let renames = format!("-l{MOST_RENAMED}");
    let made = |text: &[&str]| {
        let args = [&["-p", "-M", &renames, "--full-index"], text].concat();
        let patch = diff(door, &args, base, commit).run_up_to(PATCH_LIMIT);
        patch.map_err(doing(format!("show what changed from {base} to {commit}")))
    };
    let Some(patch) = made(&[])? else {
        return Ok(None);
    };
    let mut objects = None;
    let (mut has_binary, mut has_large) = (false, false);
    let mut index: &[u8] = &[];
    for line in patch.split(|byte| *byte == b'\n') {
        if let Some(ids) = line.strip_prefix(b"index ") {
            index = ids;
        } else if line.starts_with(BINARY) {
            let objects = match &mut objects {
                Some(objects) => objects,
                none => none.insert(door.objects()?),
            };
            has_binary = true;
            has_large = has_large || binary(objects, index)? > LARGE_FILE as u64;
        }
    }
    // A byte that is no text hides no text.
    let text = match has_binary && !has_large {
        true => made(&["--text"])?,
        false => None,
    };
    Ok(Some(match text {
        Some(patch) => Shown {
            patch,
            is_whole: true,
        },
        None => Shown {
            patch,
            is_whole: !has_binary,
        },
    }))
}
