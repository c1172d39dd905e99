//! `base.git`: the history of target branches, and the only object store that
//! containers mount.

use crate::git::{Git, GitCall};
use crate::repo::{RepoError, commit_of, doing, io, make_bare, refs_below};
use crate::user::UserRepo;
use factory_core::ids::Oid;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// World-readable, because containers read it under another uid; it lies in a
/// directory that only the user enters. History of the user's that fsck would
/// warn about is not refused: it is the user's.
const CONFIG: &str = "\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
\tsharedRepository = 0644
\thooksPath = /dev/null
\tlogAllRefUpdates = false
\tfsync = all
[transfer]
\tfsckObjects = false
[gc]
\tauto = 0
[maintenance]
\tauto = false
";

/// The git that reads the user's repository for us obeys the user's
/// configuration, which says whether the repository may be opened at all.
const UPLOAD_PACK: &str = "--upload-pack=env -u GIT_CONFIG_GLOBAL -u GIT_CONFIG_SYSTEM -u GIT_ATTR_NOSYSTEM git upload-pack";

/// `base.git`. It only ever holds what target branches reach: no stash, no
/// other branch, nothing that was deleted from history.
#[derive(Debug, Clone)]
pub struct BaseRepo {
    git: Git,
    /// Two fetches at once are in each other's way.
    fetches: Arc<Mutex<()>>,
}

impl BaseRepo {
    /// Opens the repository at `dir`, an absolute path, and makes it first where it is missing.
    pub fn init(dir: impl Into<PathBuf>) -> Result<Self, RepoError> {
        let dir = dir.into();
        make_bare(&dir, &["--shared=0644"], CONFIG)?;
        Ok(Self {
            git: Git::isolated(dir),
            fetches: Arc::default(),
        })
    }

    /// The directory, to be mounted read-only.
    pub fn dir(&self) -> &Path {
        self.git.dir()
    }

    /// Brings the history of one branch of the user's repository and returns
    /// its tip. Costs one short process where nothing moved.
    pub fn fetch_target(&self, user: &UserRepo, branch: &str) -> Result<Oid, RepoError> {
        self.fetch_target_at(user, branch, user.tip(branch)?)
    }

    /// The same for whoever looked already where the branch is: no process where it is here.
    pub fn fetch_target_at(
        &self,
        user: &UserRepo,
        branch: &str,
        tip: Option<Oid>,
    ) -> Result<Oid, RepoError> {
        let name = format!("refs/heads/{branch}");
        let no_branch = || RepoError::NoBranch {
            branch: branch.to_owned(),
            repository: user.dir().to_owned(),
        };
        let _turn = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        let tip = tip.ok_or_else(no_branch)?;
        let is_default = self.default_branch()? == branch;
        if is_default && self.heads()?.contains(&(name.clone(), tip.clone())) {
            return Ok(tip);
        }
        // A branch that was renamed to a folder of its own name, or the other way round.
        let in_the_way = |other: &str| {
            let within = |one: &str, other: &str| one.starts_with(&format!("{other}/"));
            within(other, &name) || within(&name, other)
        };
        for (other, _) in self.heads()?.iter().filter(|(other, _)| in_the_way(other)) {
            self.git
                .run(["update-ref", "-d", other])
                .map_err(doing(format!(
                    "make room for branch `{branch}` in base.git"
                )))?;
        }
        fetch_from_user(&self.git, user, format!("+{name}:{name}"))
            .run()
            .map_err(doing(format!("bring the history of branch `{branch}`")))?;
        // Clones take the branch that HEAD names for the default.
        self.git
            .run(["symbolic-ref", "HEAD", &name])
            .map_err(doing("name the target branch in base.git"))?;
        // The branch may have moved on while it was fetched.
        commit_of(&self.git, &name)?.ok_or_else(no_branch)
    }

    /// The branches that are here, by their full names.
    pub(crate) fn heads(&self) -> Result<Vec<(String, Oid)>, RepoError> {
        refs_below(self.dir(), "refs/heads/")
    }

    /// The branch that clones take for the default: the newest target.
    pub(crate) fn default_branch(&self) -> Result<String, RepoError> {
        let file = self.dir().join("HEAD");
        let text = std::fs::read_to_string(&file).map_err(io("read", &file))?;
        let name = text.trim_end().strip_prefix("ref: refs/heads/");
        Ok(name.unwrap_or_default().to_owned())
    }

    /// True when the commit is here.
    pub fn contains(&self, commit: &Oid) -> Result<bool, RepoError> {
        Ok(commit_of(&self.git, commit.as_str())?.is_some())
    }
}

/// A fetch into one of our repositories from the user's, which follows its own
/// configuration while it serves.
pub(crate) fn fetch_from_user(git: &Git, user: &UserRepo, refspec: String) -> GitCall {
    // The user's own history may hold commits that fsck dislikes; it is what it is.
    git.call(["-c", "fetch.fsckObjects=false", "fetch", "--quiet"])
        .args([
            "--no-tags",
            "--no-write-fetch-head",
            "--no-prune",
            "--no-auto-maintenance",
            "--no-recurse-submodules",
            UPLOAD_PACK,
            "--",
        ])
        .arg(user.dir())
        .arg(refspec)
}
