//! Talking to the remote: out of a scratch repository that sees the objects of
//! all of ours and of the user's, so that nothing is fetched into any of them
//! before it was judged, and the user's own refs are never touched.

use super::{PREFIX, STATE, SyncError, TARGET};
use crate::git::{Git, GitCall, GitError};
use crate::places::Places;
use crate::repo::{RepoError, alternates_line, doing, make_bare, write_file};
use crate::state::{STATE_REF, StateRepo};
use crate::store::StoreError;
use crate::user::UserRepo;
use factory_core::ids::Oid;
use factory_core::model::{Meta, Seconds};
use factory_core::state::{State, StateError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CONFIG: &str = "\
[core]
\trepositoryformatversion = 0
\tbare = true
\tlogAllRefUpdates = false
\tfsync = all
[gc]
\tauto = 0
[maintenance]
\tauto = false
";

/// Begins the name of every scratch directory.
const SCRATCH: &str = ".sync-";
/// Age at which a scratch directory belongs to a process that was killed.
const LEFTOVER: Duration = Duration::from_secs(86_400);
/// Where the scratch repository has what the remote has beside state and inboxes.
pub(super) const BROUGHT: &str = "refs/brought/";

/// A remote of the user's repository: one address, for both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its name.
    pub name: String,
    address: String,
}

impl Remote {
    /// The address without a password in it, for people.
    pub fn shown(&self) -> String {
        let Some((scheme, rest)) = self.address.split_once("://") else {
            return self.address.clone();
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        format!("{scheme}://{host}/{path}")
    }

    /// What git said, without the address: it may hold a password.
    fn clean(&self, said: &str) -> String {
        said.replace(&self.address, &self.shown())
    }
}

impl UserRepo {
    /// Names of the remotes.
    pub fn remotes(&self) -> Result<Vec<String>, RepoError> {
        let out = self.git().call(["remote"]).text();
        let names = out.map_err(doing("list the remotes"))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// The remote of this name. It is read where it is written to: what is
    /// compared and what is swapped must be one place.
    pub fn find_remote(&self, places: &Places, name: &str) -> Result<Option<Remote>, RepoError> {
        if !self.remotes()?.iter().any(|known| known == name) {
            return Ok(None);
        }
        let call = self.git().call(["remote", "get-url", "--push", "--", name]);
        let address = call
            .text()
            .map_err(doing(format!("find the address of the remote `{name}`")))?;
        let top = places.work_tree().unwrap_or(self.dir());
        Ok(Some(Remote {
            name: name.to_owned(),
            address: absolute(&address, top),
        }))
    }
}

/// Git takes a path for relative to the work tree's top; we work elsewhere.
fn absolute(address: &str, top: &Path) -> String {
    let host = address
        .find(':')
        .is_some_and(|colon| address.find('/').is_none_or(|slash| colon < slash));
    match host || address.starts_with('/') {
        true => address.to_owned(),
        false => top.join(address).to_string_lossy().into_owned(),
    }
}

/// The state on the remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its newest step.
    pub oid: Oid,
    /// When that was made.
    pub at: Seconds,
    /// What that was, one line.
    pub subject: String,
    /// Its `meta.yaml`.
    pub meta: Meta,
    /// Work branches of its jobs. No other branch is made or moved when the
    /// work is taken over, whatever the remote has.
    pub work: BTreeSet<String>,
}

/// How a push ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// Everything is there.
    Done,
    /// Another machine was faster. Nothing was changed.
    Moved,
}

/// One conversation with a remote. What it brought is gone when it is dropped.
pub struct Exchange {
    remote: Remote,
    /// Removed with all that is in it when the conversation is over.
    _scratch: tempfile::TempDir,
    places: Places,
    talks: Git,
    looks: Git,
}

impl Exchange {
    /// Makes the scratch repository. The directories of `places` must exist.
    pub fn open(places: &Places, user: &UserRepo, remote: Remote) -> Result<Self, SyncError> {
        let cache = places.cache();
        let io = |doing| {
            let path = cache.clone();
            move |source| SyncError::Io {
                doing,
                path,
                source,
            }
        };
        remove_leftovers(&cache);
        let scratch = tempfile::Builder::new()
            .prefix(SCRATCH)
            .tempdir_in(&cache)
            .map_err(io("make a directory in"))?;
        let own = Places::below(scratch.path());
        own.ensure_dirs()?;
        let dir = own.state_git();
        make_bare(&dir, &[], CONFIG)?;
        let mut alternates = Vec::new();
        let ours = [places.state_git(), places.door_git(), places.base_git()];
        for repository in ours.iter().map(PathBuf::as_path).chain([user.dir()]) {
            let objects = repository.join("objects");
            if objects.is_dir() {
                alternates.extend(alternates_line(&objects));
            }
        }
        let info = dir.join("objects/info");
        std::fs::create_dir_all(&info).map_err(io("make a directory in"))?;
        write_file(&info.join("alternates"), &alternates)?;
        Ok(Self {
            remote,
            _scratch: scratch,
            talks: Git::to_remote(&dir, user.dir()),
            looks: Git::isolated(&dir),
            places: own,
        })
    }

    /// The remote.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// The scratch repository as a factory's place: its state is the remote's
    /// once that was fetched.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Where the scratch repository lies.
    pub(super) fn dir(&self) -> PathBuf {
        self.places.state_git()
    }

    /// The call that lists our refs on the remote, for who runs it under a time limit.
    pub fn list_call(&self) -> GitCall {
        self.talks
            .call(["ls-remote", "--quiet", "--"])
            .arg(&self.remote.address)
            .arg(format!("{PREFIX}*"))
    }

    /// Our refs on the remote, by full name.
    pub fn list(&self) -> Result<BTreeMap<String, Oid>, SyncError> {
        let out = self.list_call().run();
        let out = out.map_err(|error| self.failed("list the refs of", &error))?;
        Ok(listed(&out.stdout))
    }

    /// The state at `tip` of the remote, brought here unless one of ours has it.
    pub fn find(&self, tip: &Oid) -> Result<Found, SyncError> {
        if !self.has(tip)? {
            self.bring_state()?;
        }
        let garbage = |what: String| SyncError::Garbage {
            remote: self.remote.name.clone(),
            oid: tip.clone(),
            what,
        };
        let store = StateRepo::open(&self.places)?;
        let files = store.read_live(tip).map_err(|e| garbage(said(&e)))?;
        let state = State::decode(&files).map_err(|e: StateError| garbage(e.to_string()))?;
        let facts = self
            .looks
            .call(["show", "-s", "--format=%ct %s", tip.as_str()])
            .text()?;
        let (at, subject) = facts.split_once(' ').unwrap_or((&facts, ""));
        Ok(Found {
            oid: tip.clone(),
            at: at
                .parse()
                .map_err(|_| garbage("it has no date".to_owned()))?,
            subject: subject.to_owned(),
            work: state
                .jobs
                .into_values()
                .map(|job| job.branch)
                .filter(|branch| *branch != state.meta.target)
                .collect(),
            meta: state.meta,
        })
    }

    /// Brings the remote's state and inboxes into the scratch repository.
    fn bring_state(&self) -> Result<(), SyncError> {
        // Nobody but us makes these objects: what is odd about them is wrong.
        self.fetch(
            true,
            &[
                format!("+{STATE}:{STATE_REF}"),
                format!("+{PREFIX}inbox/*:refs/inbox/*"),
            ],
        )
    }

    /// Brings everything that the remote has of ours into the scratch repository.
    pub fn bring(&self) -> Result<(), SyncError> {
        self.bring_state()?;
        // The user's history is what it is.
        self.fetch(false, &[format!("+{PREFIX}*:{BROUGHT}*")])
    }

    /// Refs that [`Exchange::bring`] brought from below [`PREFIX`] and `prefix`, without it.
    pub(super) fn brought(&self, prefix: &str) -> Result<Vec<(String, Oid)>, SyncError> {
        let prefix = format!("{BROUGHT}{prefix}");
        let format = "--format=%(objectname) %(refname)";
        let call = self.looks.call(["for-each-ref", format, &prefix]);
        let parse = |line: &str| {
            let (oid, name) = line.split_once(' ')?;
            let name = name.strip_prefix(&prefix)?;
            Some((name.to_owned(), oid.parse().ok()?))
        };
        Ok(call.text()?.lines().filter_map(parse).collect())
    }

    /// The target branch of the machine that synchronised last, once that was brought.
    pub fn target(&self) -> Result<Option<Oid>, SyncError> {
        let found = self.brought(TARGET.trim_start_matches(PREFIX))?;
        Ok(found.into_iter().next().map(|(_, oid)| oid))
    }

    fn fetch(&self, check: bool, refspecs: &[String]) -> Result<(), SyncError> {
        let out = self
            .talks
            .call(["-c"])
            .arg(format!("fetch.fsckObjects={check}"))
            .args(["-c", "fetch.writeCommitGraph=false", "fetch", "--quiet"])
            .args(["--no-tags", "--no-write-fetch-head", "--no-prune"])
            .args(["--no-auto-maintenance", "--no-recurse-submodules"])
            .args(["--refmap=", "--"])
            .arg(&self.remote.address)
            .args(refspecs)
            .run();
        out.map_err(|error| self.failed("fetch from", &error))?;
        Ok(())
    }

    /// Sets and removes refs on the remote, all or none, if its state is where
    /// it is expected. What is set must be in one of our repositories or the user's.
    pub fn push(
        &self,
        expected: Option<&Oid>,
        state: &Oid,
        others: &BTreeMap<String, Option<Oid>>,
    ) -> Result<Pushed, SyncError> {
        let lease = expected.map_or("", Oid::as_str);
        let refspecs = others.iter().map(|(name, to)| match to {
            Some(oid) => format!("+{oid}:{name}"),
            None => format!(":{name}"),
        });
        let call = self
            .talks
            .call(["push", "--quiet", "--porcelain", "--atomic", "--no-verify"])
            .args(["--no-signed", "--no-follow-tags", "--recurse-submodules=no"])
            .arg(format!("--force-with-lease={STATE}:{lease}"))
            .arg("--")
            .arg(&self.remote.address)
            // Without a plus sign, which would overrule the lease.
            .arg(format!("{state}:{STATE}"))
            .args(refspecs);
        let Err(error) = call.run() else {
            return Ok(Pushed::Done);
        };
        let now = self.list()?;
        match now.get(STATE) {
            // The answer got lost, not the push.
            Some(at) if at == state && expected != Some(state) => Ok(Pushed::Done),
            at if at == expected => Err(self.failed("push to", &error)),
            _ => Ok(Pushed::Moved),
        }
    }

    /// Takes what is not here out of `wanted`; gives its names.
    pub fn drop_missing(
        &self,
        wanted: &mut BTreeMap<String, Oid>,
    ) -> Result<Vec<String>, SyncError> {
        let asked: String = wanted.values().map(|oid| format!("{oid}\n")).collect();
        let call = self.looks.call(["cat-file", "--batch-check"]).stdin(asked);
        let answers = call.text()?;
        // One line each, in order.
        let names = wanted.keys().zip(answers.lines());
        let missing = names.filter(|(_, answer)| answer.ends_with(" missing"));
        let missing: Vec<String> = missing.map(|(name, _)| name.clone()).collect();
        wanted.retain(|name, _| !missing.contains(name));
        Ok(missing)
    }

    /// True where an object is in one of ours, the user's or the scratch repository.
    pub fn has(&self, object: &Oid) -> Result<bool, SyncError> {
        let call = self.looks.call(["cat-file", "-e", object.as_str()]);
        Ok(call.accept(1).run()?.success())
    }

    /// True when `descendant` holds `ancestor` (or is it); both must be here.
    pub fn is_ancestor(&self, ancestor: &Oid, descendant: &Oid) -> Result<bool, SyncError> {
        let call = self
            .looks
            .call(["merge-base", "--is-ancestor", ancestor.as_str()]);
        let out = call.arg(descendant.as_str()).accept(1).run()?;
        Ok(out.success())
    }

    /// How many commits `of` has that `without` lacks; both must be here.
    pub fn count(&self, of: &Oid, without: Option<&Oid>) -> Result<u64, SyncError> {
        let mut call = self.looks.call(["rev-list", "--count", of.as_str()]);
        if let Some(without) = without {
            call = call.arg(format!("^{without}"));
        }
        let out = call.clone().run()?;
        let count = out.text().parse();
        Ok(count.map_err(|_| call.unexpected(&out.stdout))?)
    }

    /// Subjects of the newest commits of `of` that `without` lacks, newest first.
    pub fn subjects(&self, of: &Oid, without: &Oid, most: usize) -> Result<Vec<String>, SyncError> {
        let call = self.looks.call(["log", "--format=%s"]);
        let call = call.arg(format!("--max-count={most}"));
        let out = call.args([of.as_str()]).arg(format!("^{without}")).text()?;
        Ok(out.lines().map(str::to_owned).collect())
    }

    fn failed(&self, doing: &'static str, error: &GitError) -> SyncError {
        let said = match error {
            GitError::Failed { stderr, status, .. } if stderr.is_empty() => status.to_string(),
            GitError::Failed { stderr, .. } => stderr.clone(),
            other => other.to_string(),
        };
        SyncError::Remote {
            remote: self.remote.name.clone(),
            doing,
            said: self.remote.clean(&said),
        }
    }
}

/// Refs as `ls-remote` prints them; what is not ours is left out.
pub fn listed(output: &[u8]) -> BTreeMap<String, Oid> {
    let text = String::from_utf8_lossy(output);
    let parsed = text.lines().filter_map(|line| {
        let (oid, name) = line.split_once('\t')?;
        let ours = name.starts_with(PREFIX);
        Some((name.to_owned(), oid.parse().ok()?)).filter(|_| ours)
    });
    parsed.collect()
}

fn said(error: &StoreError) -> String {
    match error {
        StoreError::Git { doing, source, .. } => format!("cannot {doing}: {}", source.message()),
        other => other.to_string(),
    }
}

/// Removes what a process that was killed left behind.
fn remove_leftovers(cache: &Path) {
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(SCRATCH);
        let made = entry.metadata().and_then(|meta| meta.modified());
        let old = made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > LEFTOVER));
        if ours
            && old
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::debug!(%error, "a scratch directory stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_made_absolute_and_shown_without_passwords() {
        let top = Path::new("/srv/tree");
        for (address, there) in [
            ("../bare.git", "/srv/tree/../bare.git"),
            ("/srv/a:b.git", "/srv/a:b.git"),
            ("./a:b.git", "/srv/tree/./a:b.git"),
            ("git@host:a/b.git", "git@host:a/b.git"),
            ("https://host/a.git", "https://host/a.git"),
        ] {
            assert_eq!(absolute(address, top), there);
        }
        let remote = Remote {
            name: "origin".to_owned(),
            address: "https://ann:secret@host/a@b.git".to_owned(),
        };
        assert_eq!(remote.shown(), "https://host/a@b.git");
        let said = remote.clean("fatal: cannot reach https://ann:secret@host/a@b.git");
        assert!(!said.contains("secret"), "{said}");
    }

    #[test]
    fn only_refs_of_ours_are_listed() {
        let oid = "0123456789012345678901234567890123456789";
        let text = format!("{oid}\t{STATE}\n{oid}\trefs/heads/refs/factory/x\nnonsense\n");
        let found = listed(text.as_bytes());
        assert_eq!(found.keys().collect::<Vec<_>>(), [STATE]);
    }
}
