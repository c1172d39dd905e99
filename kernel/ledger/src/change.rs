//! What a commit changes, seen from the target: how much, where, and whether it changes what
//! its checks are made of.

use crate::{
    door::DoorRepo,
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
    let call = door.git().call([
        "diff",
        "--numstat",
        "-z",
        "--no-renames",
        "--no-ext-diff",
        "--no-textconv",
        base.as_str(),
        commit.as_str(),
        "--",
    ]);
    let wrong = || doing(format!("count what {commit} changes"));
    let out = call.clone().run().map_err(wrong())?;
    let mut change = Change::default();
    let mut places = BTreeSet::new();
    let mut changes_tests = false;
    for line in nul_separated(&out.stdout) {
        let mut fields = line.splitn(3, |byte| *byte == b'\t');
        let (Some(added), Some(removed), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return Err(wrong()(call.unexpected(line)));
        };
        change.files += 1;
        let lines = [added, removed].map(|n| std::str::from_utf8(n).ok()?.parse::<u64>().ok());
        // Of a binary file it says `-`.
        change.lines += match lines {
            [Some(added), Some(removed)] => added + removed,
            _ => 1,
        };
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

/// Tries the merge of `head` with each of `others`, and tells with which it conflicts.
pub fn conflicts(
    door: &DoorRepo,
    head: &Oid,
    others: &[(PrNo, Oid)],
) -> Result<Vec<Conflict>, RepoError> {
    let mut found = Vec::new();
    for (pr, other) in others.iter().rev().take(MOST_COMPARED) {
        // It only orders the queue: one whose commit is gone holds up nobody.
        if !door.has(other)? {
            continue;
        }
        let args = [
            "merge-tree",
            "--write-tree",
            "-z",
            "--name-only",
            "--no-messages",
            // The target may have been made anew since one of them began.
            "--allow-unrelated-histories",
        ];
        let call = door.git().call(args);
        let call = call.args([other.as_str(), head.as_str()]).accept(1);
        let out = call
            .run()
            .map_err(doing(format!("try the merge of {head} with {other}")))?;
        if !out.success() {
            let files = ToldPaths::from_iter(nul_separated(&out.stdout).skip(1));
            found.push(Conflict {
                pr: *pr,
                files: files.to_string(),
            });
        }
    }
    found.sort_by_key(|conflict| conflict.pr);
    Ok(found)
}

/// What `commit` changes since it left `target`, as a patch; none where that is longer than
/// [`PATCH_LIMIT`]. Of a file that is larger than 16 MiB it says only that it differs.
pub fn patch(door: &DoorRepo, target: &Oid, commit: &Oid) -> Result<Option<String>, RepoError> {
    let base = door
        .merge_base(target, commit)?
        .unwrap_or_else(|| target.clone());
    let large = format!("core.bigFileThreshold={LARGE_FILE}");
    let renames = format!("-l{MOST_RENAMED}");
    let call = door.git().call([
        "-c",
        &large,
        "diff-tree",
        "-r",
        "-p",
        "-M",
        &renames,
        "--no-ext-diff",
        "--no-textconv",
        base.as_str(),
        commit.as_str(),
    ]);
    let patch = call
        .run_up_to(PATCH_LIMIT)
        .map_err(doing(format!("show what changed from {base} to {commit}")))?;
    Ok(patch.map(|patch| String::from_utf8_lossy(&patch).into_owned()))
}
