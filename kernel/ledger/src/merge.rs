//! Merge commits, made in `door.git` without a work tree.

use crate::door::DoorRepo;
use crate::repo::{RepoError, doing, nul_separated, oid_in};
use factory_core::ids::Oid;

/// Who a commit of ours says made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// Name; must not be empty.
    pub name: String,
    /// Mail address.
    pub email: String,
}

/// What came of merging a head into a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeOutcome {
    /// A merge commit, in `door.git` and referenced by nothing yet:
    /// [`DoorRepo::keep`] it.
    Merged {
        /// The commit; its parents are target and head.
        commit: Oid,
        /// Its tree.
        tree: Oid,
    },
    /// The target already holds the head; nothing was made.
    AlreadyMerged,
    /// Both sides changed these paths, each in its own way; nothing was made.
    Conflict {
        /// The paths; bytes that are no UTF-8 are replaced.
        paths: Vec<String>,
    },
}

/// Merges `head` into `target`. The same arguments give the same commit.
pub fn make_merge(
    door: &DoorRepo,
    target: &Oid,
    head: &Oid,
    message: &str,
    author: &Author,
    seconds: i64,
) -> Result<MergeOutcome, RepoError> {
    if door.is_ancestor(head, target)? {
        return Ok(MergeOutcome::AlreadyMerged);
    }
    let wrong = || doing(format!("merge {head} into {target}"));
    let call = door
        .git()
        .call([
            "merge-tree",
            "--write-tree",
            "-z",
            "--name-only",
            "--no-messages",
        ])
        .args([target.as_str(), head.as_str()])
        .accept(1);
    let out = call.clone().run().map_err(wrong())?;
    // The tree's id, then the paths in conflict.
    let mut pieces = nul_separated(&out.stdout);
    if !out.success() {
        let paths = pieces
            .skip(1)
            .map(|p| String::from_utf8_lossy(p).into_owned())
            .collect();
        return Ok(MergeOutcome::Conflict { paths });
    }
    let tree = oid_in(&call, pieces.next().unwrap_or_default()).map_err(wrong())?;
    let date = format!("@{seconds} +0000");
    let mut commit = door
        .git()
        .call([
            "commit-tree",
            tree.as_str(),
            "-p",
            target.as_str(),
            "-p",
            head.as_str(),
            "-F",
            "-",
        ])
        .stdin(message);
    for role in ["AUTHOR", "COMMITTER"] {
        commit = commit
            .env(format!("GIT_{role}_NAME"), &author.name)
            .env(format!("GIT_{role}_EMAIL"), &author.email)
            .env(format!("GIT_{role}_DATE"), &date);
    }
    let out = commit.clone().run().map_err(wrong())?;
    let commit = oid_in(&commit, &out.stdout).map_err(wrong())?;
    Ok(MergeOutcome::Merged { commit, tree })
}

/// The tree of a commit that `door.git` holds. Two commits with the same tree
/// have the same files, so what was checked of one holds for the other.
pub fn tree_of(door: &DoorRepo, commit: &Oid) -> Result<Oid, RepoError> {
    let call = door.git().call(["rev-parse", "--verify", "--quiet"]);
    let call = call.arg(format!("{commit}^{{tree}}"));
    let wrong = || doing(format!("find the tree of {commit}"));
    let out = call.clone().run().map_err(wrong())?;
    oid_in(&call, &out.stdout).map_err(wrong())
}

/// Who authored a commit that `door.git` holds; bytes that are no UTF-8 are replaced.
pub fn author_of(door: &DoorRepo, commit: &Oid) -> Result<Author, RepoError> {
    let call = door.git().call(["log", "-1", "--format=%an%x00%ae"]);
    let call = call.arg(commit.as_str());
    let wrong = || doing(format!("find who authored {commit}"));
    let out = call.clone().run().map_err(wrong())?.stdout;
    let text = String::from_utf8_lossy(&out).into_owned();
    match text.trim_end().split_once('\0') {
        Some((name, email)) => Ok(Author {
            name: name.to_owned(),
            email: email.to_owned(),
        }),
        None => Err(wrong()(call.unexpected(&out))),
    }
}
