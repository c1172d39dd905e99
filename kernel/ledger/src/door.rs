//! `door.git`: where runs push, one namespace each. No container mounts it;
//! the gateway serves it, and the kernel makes merges in it.

use crate::base::{BaseRepo, fetch_from_user};
use crate::changes::{self, Bounds, ChangesError, FileChange, Objects};
use crate::git::Git;
use crate::repo::{
    RepoError, alternates_line, commit_of, doing, io, make_bare, nul_separated, path_from,
    read_files, refs_below, write_file,
};
use crate::user::UserRepo;
use factory_core::ids::{IssueNo, Oid, RunId};
use factory_core::wire::{CHECKPOINT_REF, RESUME_REF, START_REF};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// All refs are hidden from fetches; [`DoorRepo::serve_command`] shows a run its own
/// ones. No `receive-pack` ever runs here: the gateway takes pushes in itself.
const CONFIG: &str = "\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
\thooksPath = /dev/null
\tlogAllRefUpdates = false
\tfsync = all
[uploadpack]
\thideRefs = ^refs
[transfer]
\tfsckObjects = true
[gc]
\tauto = 0
[maintenance]
\tauto = false
";

/// Which half of a fetch over HTTP a process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// GET: print the refs and end.
    Advertise,
    /// POST: read one request, answer it and end.
    Request,
}

/// Where the refs that a run pushes are. Each none when the run's namespace is
/// closed or was never opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tips {
    /// Its branch; the start before the first push.
    pub branch: Option<Oid>,
    /// Its checkpoint; the start before the first one.
    pub checkpoint: Option<Oid>,
}

/// `door.git`.
#[derive(Debug, Clone)]
pub struct DoorRepo {
    git: Git,
    base: BaseRepo,
}

impl DoorRepo {
    /// Opens the repository at `dir`, an absolute path, and makes it first where
    /// it is missing. Its objects build on those of `base`, wherever that lies now.
    pub fn init(dir: impl Into<PathBuf>, base: &BaseRepo) -> Result<Self, RepoError> {
        let dir = dir.into();
        make_bare(&dir, &[], CONFIG)?;
        let info = dir.join("objects/info");
        std::fs::create_dir_all(&info).map_err(io("make the directory", &info))?;
        let file = info.join("alternates");
        let line = alternates_line(&base.dir().join("objects"));
        if std::fs::read(&file).ok().as_ref() != Some(&line) {
            write_file(&file, &line)?;
        }
        Ok(Self {
            git: Git::isolated(dir),
            base: base.clone(),
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.git.dir()
    }

    pub(crate) fn git(&self) -> &Git {
        &self.git
    }

    pub(crate) fn base(&self) -> &BaseRepo {
        &self.base
    }

    /// Opens a run's namespace: the commit it may fetch, the checkpoint to
    /// `resume` from beside it, and the `branch` that it may push, at `start`.
    /// A run with a branch has a place for its checkpoints, at `start` as well:
    /// no checkpoint is a commit of the history that leads to the run.
    /// Repeating it moves neither of these two.
    ///
    /// # Errors
    /// Also where `start` or `resume` is not here.
    pub fn open_run(
        &self,
        run: RunId,
        start: &Oid,
        resume: Option<&Oid>,
        branch: Option<&str>,
    ) -> Result<(), RepoError> {
        let there = self.refs_of(run)?;
        let mut orders = Orders::default();
        for (name, shown) in [(START_REF, Some(start)), (RESUME_REF, resume)] {
            let Some(shown) = shown else { continue };
            let name = own_ref(run, name);
            if !there.iter().any(|(n, oid)| *n == name && oid == shown) {
                orders.update(&name, shown, None);
            }
        }
        if let Some(branch) = branch {
            let pushed = [branch_ref(run, branch), own_ref(run, CHECKPOINT_REF)];
            for name in pushed {
                if there.iter().all(|(n, _)| *n != name) {
                    orders.update(&name, start, Some(&Oid::zero()));
                }
            }
        }
        self.perform(orders, format!("open the namespace of run {run}"))
    }

    /// Where the refs that the run pushes are.
    pub fn tips(&self, run: RunId, branch: &str) -> Result<Tips, RepoError> {
        let there = self.refs_of(run)?;
        let at = |name: String| {
            let found = there.iter().find(|(n, _)| *n == name);
            found.map(|(_, oid)| oid.clone())
        };
        Ok(Tips {
            branch: at(branch_ref(run, branch)),
            checkpoint: at(own_ref(run, CHECKPOINT_REF)),
        })
    }

    /// The runs whose namespace is open.
    pub(crate) fn open_runs(&self) -> Result<Vec<RunId>, RepoError> {
        let call = self.git.call(["for-each-ref", "--format=%(refname)"]);
        let names = call.arg(NAMESPACES).text();
        let names = names.map_err(doing("list the namespaces of runs"))?;
        let run = |name: &str| {
            name.strip_prefix(NAMESPACES)?
                .split('/')
                .next()?
                .parse()
                .ok()
        };
        let mut runs: Vec<RunId> = names.lines().filter_map(run).collect();
        runs.dedup();
        Ok(runs)
    }

    /// Closes a run's namespace. What the run left stays reachable
    /// from `refs/keep/run/<run>`, and its newest checkpoint, where it made one,
    /// from `refs/keep/checkpoint/<run>`. Repeating it is harmless.
    pub fn close_run(&self, run: RunId) -> Result<(), RepoError> {
        self.settle_run(run, None, &[])
    }

    /// Closes a run's namespace as [`DoorRepo::close_run`] does, holds a commit as
    /// [`DoorRepo::keep`] does, and lets go of checkpoints that nobody resumes from: all
    /// of it or nothing. Repeating it is harmless.
    pub fn settle_run(
        &self,
        run: RunId,
        kept: Option<(&str, &Oid)>,
        spent: &[RunId],
    ) -> Result<(), RepoError> {
        let there = self.refs_of(run)?;
        let heads = own_ref(run, "refs/heads/");
        let named = |name: &str| {
            let name = own_ref(run, name);
            there.iter().find(|(n, _)| *n == name).map(|(_, oid)| oid)
        };
        let start = named(START_REF);
        let branch = there.iter().find(|(name, _)| name.starts_with(&heads));
        let mut orders = Orders::default();
        if let Some(left) = branch.map(|(_, oid)| oid).or(start) {
            orders.update(&keep_ref(&format!("run/{run}")), left, None);
        }
        let made = named(CHECKPOINT_REF).filter(|oid| Some(*oid) != start);
        if let Some(made) = made.filter(|_| !spent.contains(&run)) {
            orders.update(&kept_checkpoint(run), made, None);
        }
        for (name, oid) in &there {
            orders.delete(name, Some(oid));
        }
        if let Some((name, commit)) = kept {
            orders.update(&keep_ref(name), commit, None);
        }
        for run in spent {
            orders.delete(&kept_checkpoint(*run), None);
        }
        self.perform(orders, format!("close the namespace of run {run}"))
    }

    /// Lets go of all checkpoints of an issue's runs, whose work is over. Repeating it is
    /// harmless.
    pub fn drop_checkpoints(&self, issue: IssueNo) -> Result<(), RepoError> {
        let wrong = || doing(format!("look for checkpoints of issue {issue}"));
        let prefix = format!("refs/keep/checkpoint/r{issue}-*");
        let call = self
            .git
            .call(["for-each-ref", "--format=%(refname)", &prefix]);
        let names = call.text().map_err(wrong())?;
        let mut orders = Orders::default();
        names.lines().for_each(|name| orders.delete(name, None));
        match names.is_empty() {
            true => Ok(()),
            false => self.perform(orders, format!("let go of checkpoints of issue {issue}")),
        }
    }

    /// Holds a commit reachable at `refs/keep/<name>`, in place of what was
    /// held there. Names below `run/` and `checkpoint/` belong to [`DoorRepo::settle_run`].
    pub fn keep(&self, name: &str, commit: &Oid) -> Result<(), RepoError> {
        let mut orders = Orders::default();
        orders.update(&keep_ref(name), commit, None);
        self.perform(orders, format!("keep {commit} as `{name}`"))
    }

    /// Brings a work branch of the user's repository, which may hold commits of
    /// people, and keeps it; later runs start from it. Where it is.
    pub fn fetch_branch(&self, user: &UserRepo, branch: &str) -> Result<Oid, RepoError> {
        let kept = keep_ref(&format!("branch/{branch}"));
        fetch_from_user(&self.git, user, format!("+refs/heads/{branch}:{kept}"))
            .run()
            .map_err(doing(format!("bring the work branch `{branch}`")))?;
        commit_of(&self.git, &kept)?.ok_or_else(|| RepoError::NoBranch {
            branch: branch.to_owned(),
            repository: user.dir().to_owned(),
        })
    }

    /// Those of the objects that are here or in `base.git`.
    pub fn there<'a>(
        &self,
        objects: impl Iterator<Item = &'a Oid>,
    ) -> Result<BTreeSet<Oid>, RepoError> {
        let names: String = objects.map(|object| format!("{object}\n")).collect();
        let call = self.git.call(["cat-file", "--batch-check=%(objectname)"]);
        let out = call
            .stdin(names)
            .run()
            .map_err(doing("look for objects".to_owned()))?;
        // Of one that is not: `<name> missing`.
        let text = String::from_utf8_lossy(&out.stdout);
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// True when `descendant` holds `ancestor` (or is it).
    pub fn is_ancestor(&self, ancestor: &Oid, descendant: &Oid) -> Result<bool, RepoError> {
        let call = self
            .git
            .call(["merge-base", "--is-ancestor", ancestor.as_str()]);
        let out = call.arg(descendant.as_str()).accept(1).run();
        Ok(out
            .map_err(doing(format!("compare {ancestor} with {descendant}")))?
            .success())
    }

    /// The commit where two histories part: `diff(merge_base(a, b), b)` is what
    /// `b` adds. None for histories without a common commit.
    pub fn merge_base(&self, a: &Oid, b: &Oid) -> Result<Option<Oid>, RepoError> {
        let call = self
            .git
            .call(["merge-base", a.as_str(), b.as_str()])
            .accept(1);
        let wrong = || doing(format!("find where {a} and {b} part"));
        let out = call.clone().run().map_err(wrong())?;
        if !out.success() {
            return Ok(None);
        }
        crate::repo::oid_in(&call, &out.stdout)
            .map(Some)
            .map_err(wrong())
    }

    /// The difference between two commits as a patch for people to read.
    pub fn diff(&self, from: &Oid, to: &Oid) -> Result<String, RepoError> {
        let call = self.git.call([
            "diff-tree",
            "-r",
            "-p",
            "-M",
            "--no-ext-diff",
            "--no-textconv",
        ]);
        let out = call
            .args([from.as_str(), to.as_str()])
            .run()
            .map_err(doing(format!("show what changed from {from} to {to}")))?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Every path in which two commits differ, with both sides.
    pub(crate) fn changes(&self, from: &Oid, to: &Oid) -> Result<Vec<Change>, RepoError> {
        let call = self
            .git
            .call([
                "diff-tree",
                "-r",
                "-z",
                "--raw",
                "--no-renames",
                "--no-abbrev",
            ])
            .args([from.as_str(), to.as_str()]);
        let wrong = || doing(format!("compare the files of {from} and {to}"));
        let out = call.clone().run().map_err(wrong())?.stdout;
        let mut pieces = nul_separated(&out);
        let mut changes = Vec::new();
        while let Some(facts) = pieces.next() {
            let change = pieces.next().and_then(|path| Change::parse(facts, path));
            changes.push(change.ok_or_else(|| wrong()(call.unexpected(facts)))?);
        }
        Ok(changes)
    }

    /// Shows every file at which the commit `to` differs from `from`, to whoever judges it;
    /// a file that stood anywhere in `from` is known. Blocks, until `stop` says so.
    ///
    /// # Errors
    /// What `show` gives, and [`ChangesError`] beyond `bounds`.
    pub fn each_change<E: From<ChangesError>>(
        &self,
        from: &Oid,
        to: &Oid,
        bounds: Bounds,
        stop: &dyn Fn() -> bool,
        show: impl FnMut(&FileChange) -> Result<(), E>,
    ) -> Result<(), E> {
        let objects = self.objects().map_err(ChangesError::Unread)?;
        changes::between(&objects, (from, to), bounds, stop, show)
    }

    /// The objects that are here and in `base.git`.
    pub(crate) fn objects(&self) -> Result<Objects, RepoError> {
        let (own, base) = (self.dir().join("objects"), self.base.dir().join("objects"));
        Objects::open(&[&own, &base], &own)
    }

    /// The process that serves one half of a fetch of `run`: it speaks protocol
    /// version 0 on its standard streams, and sees of the run's namespace only what
    /// it may fetch. The caller sets the streams.
    pub fn serve_command(&self, run: RunId, exchange: Exchange) -> Command {
        let mut args = Vec::new();
        for name in [START_REF, RESUME_REF] {
            args.extend(["-c".to_owned(), format!("uploadpack.hideRefs=!{name}")]);
        }
        args.extend(["upload-pack", "--stateless-rpc"].map(str::to_owned));
        match exchange {
            Exchange::Advertise => args.push("--http-backend-info-refs".to_owned()),
            Exchange::Request => {}
        }
        let call = self.git.call(args).arg(self.git.dir());
        call.env("GIT_NAMESPACE", run.to_string()).command()
    }

    /// Commits of `base.git` that pushes may build on without bringing them.
    pub fn shared(&self) -> Result<Vec<Oid>, RepoError> {
        let heads = self.base.heads()?;
        Ok(heads.into_iter().map(|(_, tip)| tip).collect())
    }

    /// Where the newest target is, as far as `base.git` has it.
    pub fn target(&self) -> Result<Option<Oid>, RepoError> {
        let name = format!("refs/heads/{}", self.base.default_branch()?);
        let heads = self.base.heads()?;
        Ok(heads
            .into_iter()
            .find(|(n, _)| *n == name)
            .map(|(_, tip)| tip))
    }

    /// All files below `dirs` in a commit that is here, by path.
    ///
    /// # Errors
    /// [`RepoError::TooLarge`] where they have more than `limit` bytes together.
    pub fn read_files(
        &self,
        commit: &Oid,
        dirs: &[&str],
        limit: u64,
    ) -> Result<BTreeMap<String, Vec<u8>>, RepoError> {
        read_files(&self.git, commit, dirs, limit)
    }

    /// Moves a ref of the run's, named as the run knows it, whose new commit is here.
    ///
    /// # Errors
    /// Also where it is not at `old` any more.
    pub fn move_ref(&self, run: RunId, name: &str, old: &Oid, new: &Oid) -> Result<(), RepoError> {
        let mut orders = Orders::default();
        orders.update(&own_ref(run, name), new, Some(old));
        self.perform(orders, format!("move {name} of run {run}"))
    }

    fn refs_of(&self, run: RunId) -> Result<Vec<(String, Oid)>, RepoError> {
        refs_below(self.dir(), &own_ref(run, ""))
    }

    /// Performs all orders or none.
    fn perform(&self, orders: Orders, what: String) -> Result<(), RepoError> {
        if orders.0.is_empty() {
            return Ok(());
        }
        let call = self
            .git
            .call(["update-ref", "-z", "--stdin"])
            .stdin(orders.0);
        call.run().map_err(doing(what))?;
        Ok(())
    }
}

/// Ref changes in the language of `git update-ref -z --stdin`.
#[derive(Default)]
struct Orders(Vec<u8>);

impl Orders {
    /// Sets `name`, which must be at `old` where that is given (zero: must not exist).
    fn update(&mut self, name: &str, new: &Oid, old: Option<&Oid>) {
        let old = old.map_or("", Oid::as_str);
        self.0
            .extend(format!("update {name}\0{new}\0{old}\0").bytes());
    }

    /// Removes `name`, which must be at `old` where that is given.
    fn delete(&mut self, name: &str, old: Option<&Oid>) {
        let old = old.map_or("", Oid::as_str);
        self.0.extend(format!("delete {name}\0{old}\0").bytes());
    }
}

/// One path in which two commits differ.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) path: PathBuf,
    /// Mode and object before; none for an added path.
    pub(crate) old: Option<(String, Oid)>,
    /// Mode and object after; none for a deleted path.
    pub(crate) new: Option<(String, Oid)>,
}

impl Change {
    /// True when either side is a submodule's commit.
    pub(crate) fn is_submodule(&self) -> bool {
        [&self.old, &self.new]
            .into_iter()
            .flatten()
            .any(|(mode, _)| mode == "160000")
    }

    /// Parses `:<mode> <mode> <oid> <oid> <letter>` and its path.
    fn parse(facts: &[u8], path: &[u8]) -> Option<Self> {
        let facts = std::str::from_utf8(facts).ok()?.strip_prefix(':')?;
        let mut facts = facts.split(' ');
        let (old_mode, new_mode) = (facts.next()?, facts.next()?);
        let (old, new): (Oid, Oid) = (facts.next()?.parse().ok()?, facts.next()?.parse().ok()?);
        let side = |mode: &str, oid: Oid| (!oid.is_zero()).then(|| (mode.to_owned(), oid));
        Some(Self {
            path: path_from(path),
            old: side(old_mode, old),
            new: side(new_mode, new),
        })
    }
}

/// Where the namespaces of runs are.
const NAMESPACES: &str = "refs/namespaces/";

fn space(run: RunId) -> String {
    format!("{NAMESPACES}{run}")
}

/// Where `name`, as the run knows it, is.
fn own_ref(run: RunId, name: &str) -> String {
    format!("{}/{name}", space(run))
}

fn branch_ref(run: RunId, branch: &str) -> String {
    own_ref(run, &format!("refs/heads/{branch}"))
}

fn kept_checkpoint(run: RunId) -> String {
    keep_ref(&format!("checkpoint/{run}"))
}

fn keep_ref(name: &str) -> String {
    format!("refs/keep/{name}")
}
