//! Where everything lies on the host: one directory in the repository's common
//! git directory, and whether the repository is one that can be worked with.

use crate::git::{Git, GitError};
use crate::sockets::{self, SocketProblem};
use factory_core::ids::RunId;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The oldest git that is worked with: the first with `merge-tree --stdin`.
const OLDEST_GIT: (u32, u32) = (2, 39);

/// A repository that cannot be worked with. Each message names the way out.
#[derive(Debug, thiserror::Error)]
pub enum RepoProblem {
    /// No repository here.
    #[error("{path} is not in a git repository; change into one, or make one with\n  git init", path = path.display())]
    NotARepository {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is a repository, but git does not want to open it.
    #[error("git does not open the repository at {path}; see what it wants with\n  git -C '{path}' status", path = path.display())]
    Unreadable {
        /// Where the repository seems to be.
        path: PathBuf,
        /// What git said.
        #[source]
        source: GitError,
    },
    /// The directory belongs to an agent. Host git never opens its repository.
    #[error("{path} is the workspace of an agent; change into your own work tree", path = path.display())]
    Workspace {
        /// The workspace.
        path: PathBuf,
    },
    /// A path that no container can be given, nor git in a list of paths.
    #[error(
        "{path:?} holds a line feed or bytes that are no UTF-8, and containers cannot be given such a path; move the repository with\n  mv <its folder> <a path without them>"
    )]
    Path {
        /// The common git directory.
        path: PathBuf,
    },
    /// A bare repository: nothing is ever checked out in it.
    #[error("{path} is a bare repository; work in a clone of it:\n  git clone '{path}'", path = path.display())]
    Bare {
        /// The repository.
        path: PathBuf,
    },
    /// Its object ids are SHA-256.
    #[error(
        "{path} uses SHA-256 object ids, and only SHA-1 is supported; work in a repository made with\n  git init --object-format=sha1",
        path = path.display()
    )]
    Sha256 {
        /// The repository.
        path: PathBuf,
    },
    /// The git binary is too old.
    #[error("git {found} is too old; install git {}.{} or newer", OLDEST_GIT.0, OLDEST_GIT.1)]
    OldGit {
        /// The version found.
        found: String,
    },
    /// Its history is cut off.
    #[error("{path} is a shallow clone, so merges cannot be made; fetch the whole history with\n  git fetch --unshallow", path = path.display())]
    Shallow {
        /// The repository.
        path: PathBuf,
    },
    /// Objects are missing that git would fetch when it needs them.
    #[error(
        "{path} is a partial clone, and its missing objects cannot be fetched while agents work; fetch them all with\n  {mend}",
        path = path.display()
    )]
    Partial {
        /// The repository.
        path: PathBuf,
        /// The shell line that makes a full clone of it.
        mend: String,
    },
    /// No commit to start from.
    #[error("{path} has no commit on its current branch; make one with\n  git commit --allow-empty -m 'Start'", path = path.display())]
    Empty {
        /// The repository.
        path: PathBuf,
    },
    /// HEAD names a branch that is not there, while others are.
    #[error("HEAD of {path} names a branch that does not exist; check out one that does with\n  git switch {there}", path = path.display())]
    Unborn {
        /// The repository.
        path: PathBuf,
        /// A branch that is there, its name without the remote's.
        there: String,
    },
    /// Git could not be run or failed otherwise.
    #[error("cannot look at the repository at {path}", path = path.display())]
    Git {
        /// Where it was looked at.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: GitError,
    },
}

/// Something in the repository that agents will not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepoWarning {
    /// HEAD has `.gitmodules`: submodules stay empty in workspaces.
    Submodules,
    /// HEAD has `filter=lfs` attributes: agents see pointer files.
    Lfs,
}

/// A directory of ours that cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}; {way_out}", path = path.display(), way_out = way_out(.source))]
pub struct PlaceError {
    /// What was being done with it.
    pub doing: &'static str,
    /// The directory or file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// All paths of one factory on this host. They are absolute.
#[derive(Debug, Clone)]
pub struct Places {
    common: PathBuf,
    root: PathBuf,
    sockets: PathBuf,
    work_tree: Option<PathBuf>,
    head: Option<String>,
}

impl Places {
    /// Finds the repository around `cwd` and refuses what cannot be worked
    /// with. Starts five short git processes.
    pub fn discover(cwd: &Path) -> Result<Self, RepoProblem> {
        if let Some(path) = workspace_around(cwd) {
            return Err(RepoProblem::Workspace { path });
        }
        let git = Git::new(cwd);
        let wrong = |source| RepoProblem::Git {
            path: cwd.to_owned(),
            source,
        };
        check_git_version(&git.call(["version"]).text().map_err(wrong)?)?;

        let facts = git.call([
            "rev-parse",
            "--path-format=absolute",
            "--is-bare-repository",
            "--is-inside-work-tree",
            "--is-shallow-repository",
            "--show-object-format",
            "--git-common-dir",
        ]);
        let out = match facts.clone().run() {
            Ok(out) => out.stdout,
            Err(source @ GitError::Failed { .. }) => {
                return Err(match repository_above(cwd) {
                    Some(path) => RepoProblem::Unreadable { path, source },
                    None => RepoProblem::NotARepository {
                        path: cwd.to_owned(),
                    },
                });
            }
            Err(source) => return Err(wrong(source)),
        };
        // The directory comes last: its name may hold a line feed.
        let fields: Vec<&[u8]> = out.splitn(5, |b| *b == b'\n').collect();
        let [bare, inside, shallow, format, common] = fields.as_slice() else {
            return Err(wrong(facts.unexpected(&out)));
        };
        let common = path_of(common);
        if common.to_str().is_none_or(|path| path.contains('\n')) {
            return Err(RepoProblem::Path { path: common });
        }
        if *bare == b"true" {
            return Err(RepoProblem::Bare { path: common });
        }
        let work_tree = match *inside == b"true" {
            true => Some(path_of(
                &git.run(["rev-parse", "--show-toplevel"])
                    .map_err(wrong)?
                    .stdout,
            )),
            false => None,
        };
        let shown = work_tree.clone().unwrap_or_else(|| common.clone());
        if *format != b"sha1" {
            return Err(RepoProblem::Sha256 { path: shown });
        }
        if *shallow == b"true" {
            return Err(RepoProblem::Shallow { path: shown });
        }
        if let Some(mend) = promisor_mend(&git).map_err(wrong)? {
            return Err(RepoProblem::Partial { path: shown, mend });
        }
        let commit = git
            .call(["rev-parse", "--quiet", "--verify", "HEAD^{commit}"])
            .accept(1);
        if !commit.run().map_err(wrong)?.success() {
            let any = ["for-each-ref", "--count=1", "--format=%(refname:lstrip=2)"];
            let local = git.call(any).arg("refs/heads").text().map_err(wrong)?;
            let remote = ["for-each-ref", "--count=1", "--format=%(refname:lstrip=3)"];
            let remote = git.call(remote).arg("refs/remotes").text().map_err(wrong)?;
            let there = [local, remote].into_iter().find(|name| !name.is_empty());
            return Err(match there {
                Some(there) => RepoProblem::Unborn { path: shown, there },
                None => RepoProblem::Empty { path: shown },
            });
        }
        let head = git
            .call(["symbolic-ref", "--quiet", "HEAD"])
            .accept(1)
            .text()
            .map_err(wrong)?;
        let head = head.strip_prefix("refs/heads/").map(str::to_owned);
        Ok(Self {
            work_tree,
            head,
            ..Self::below(common)
        })
    }

    /// The places below a common git directory that was found before, without
    /// a look at the repository. Knows no work tree and no branch.
    pub fn below(common: impl Into<PathBuf>) -> Self {
        let common = common.into();
        let root = common.join("factory");
        Self {
            common,
            sockets: root.clone(),
            root,
            work_tree: None,
            head: None,
        }
    }

    /// The user's repository: git run here sees all of its refs and worktrees,
    /// and it outlives any linked worktree.
    pub fn common_dir(&self) -> &Path {
        &self.common
    }

    /// Top of the work tree that the caller stood in, if in any.
    pub fn work_tree(&self) -> Option<&Path> {
        self.work_tree.as_deref()
    }

    /// The branch (without `refs/heads/`) that was checked out where the caller
    /// stood, when the repository was discovered; none with a detached HEAD.
    pub fn head_branch(&self) -> Option<String> {
        self.head.clone()
    }

    /// What in HEAD agents will not get. Reads the whole tree's names once.
    pub fn warnings(&self) -> Result<Vec<RepoWarning>, GitError> {
        let git = Git::new(self.work_tree.as_ref().unwrap_or(&self.common));
        let mut found = Vec::new();
        if !git
            .run([
                "ls-tree",
                "--full-tree",
                "--name-only",
                "HEAD",
                "--",
                ".gitmodules",
            ])?
            .stdout
            .is_empty()
        {
            found.push(RepoWarning::Submodules);
        }
        let lfs = git.call([
            "grep",
            "--quiet",
            "--fixed-strings",
            "-e",
            "filter=lfs",
            "HEAD",
            "--",
        ]);
        if lfs
            .arg(":(top,glob)**/.gitattributes")
            .accept(1)
            .run()?
            .success()
        {
            found.push(RepoWarning::Lfs);
        }
        Ok(found)
    }

    /// Makes the directories that are missing; the outermost is for the user alone.
    pub fn ensure_dirs(&self) -> Result<(), PlaceError> {
        for dir in [
            &self.root,
            &self.sockets,
            &self.runs(),
            &self.workspaces(),
            &self.cache(),
            &self.transcripts(),
        ] {
            make_private(dir)?;
        }
        for dir in [&self.root, &self.runs(), &self.workspaces()] {
            keep_apart(dir);
        }
        Ok(())
    }

    /// Decides where sockets and the directories that hold them go: below the
    /// other places, or, where that file system has no sockets, below
    /// `/tmp/factory-<uid>/<home>`. Every process of a factory comes to the
    /// same answer. The root directory must exist.
    pub fn settle_sockets(&mut self, home: &str) -> Result<(), SocketProblem> {
        self.sockets = sockets::settle(&self.root, Path::new("/tmp"), home)?;
        make_private(&self.runs()).map_err(|e| SocketProblem::Unwritable {
            path: e.path,
            source: e.source,
        })
    }

    /// True where the disk that holds everything of ours has no room for `bytes`
    /// and a step of the state.
    pub fn lacks_room(&self, bytes: u64) -> bool {
        /// About what a step needs, with some to spare.
        const STEP: u64 = 1 << 20;
        let disk = rustix::fs::statvfs(&self.root);
        disk.is_ok_and(|disk| {
            disk.f_bavail.saturating_mul(disk.f_frsize) < bytes.saturating_add(STEP)
        })
    }

    /// The directory that holds everything of ours, 0700.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The database.
    pub fn state_git(&self) -> PathBuf {
        self.root.join("state.git")
    }

    /// The history that containers see.
    pub fn base_git(&self) -> PathBuf {
        self.root.join("base.git")
    }

    /// Where runs push.
    pub fn door_git(&self) -> PathBuf {
        self.root.join("door.git")
    }

    /// Held by the kernel that lives.
    pub fn kernel_lock(&self) -> PathBuf {
        self.state_git().join("kernel.lock")
    }

    /// Held by `factory start` from its beginning to its end, also while no kernel lives.
    pub fn start_lock(&self) -> PathBuf {
        self.state_git().join("start.lock")
    }

    /// Held by the gateway that takes new runs.
    pub fn gateway_lock(&self) -> PathBuf {
        self.state_git().join("gateway.lock")
    }

    /// The run's directory that its container sees at `/run/factory`.
    pub fn run_dir(&self, run: RunId) -> PathBuf {
        self.runs().join(run.to_string())
    }

    /// The run's socket; may be too long to bind, see [`sockets::SocketDir`].
    pub fn run_socket(&self, run: RunId) -> PathBuf {
        self.run_dir(run).join("gw.sock")
    }

    /// The run's workspace, seen at `/workspace`.
    pub fn ws_dir(&self, run: RunId) -> PathBuf {
        self.workspaces().join(run.to_string())
    }

    /// The kernel's own socket.
    pub fn kernel_sock(&self) -> PathBuf {
        self.sockets.join("kernel.sock")
    }

    /// The gateway's control socket.
    pub fn gateway_sock(&self) -> PathBuf {
        self.sockets.join("gateway.sock")
    }

    /// The run's transcript while it grows.
    pub fn transcript(&self, run: RunId) -> PathBuf {
        self.transcripts().join(format!("{run}.jsonl"))
    }

    /// What can be made again.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The directory of all run directories.
    pub fn runs(&self) -> PathBuf {
        self.sockets.join("run")
    }

    /// The directory of all workspaces.
    pub fn workspaces(&self) -> PathBuf {
        self.root.join("ws")
    }

    /// The directory of all growing transcripts.
    pub fn transcripts(&self) -> PathBuf {
        self.root.join("transcripts")
    }
}

/// What to do where the system does not let us write, by its reason.
pub(crate) fn way_out(reason: &std::io::Error) -> &'static str {
    match reason.kind() {
        ErrorKind::PermissionDenied => {
            "you may not write there: work as its owner, or give yourself the right to"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "it is mounted for reading only: mount it for writing, or work in another clone"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space",
        _ => "make it accessible to you and free some space",
    }
}

/// Name of this factory on this host: eight hexadecimal digits from the
/// repository's id and the device and inode of `state.git`. It survives a move
/// of the repository and differs for a copy.
pub fn home_id(repository_id: &str, state_git: &Path) -> Result<String, PlaceError> {
    let meta = std::fs::metadata(state_git).map_err(|source| PlaceError {
        doing: "look at",
        path: state_git.to_owned(),
        source,
    })?;
    let hash = Sha256::digest(format!("{repository_id}\n{}:{}", meta.dev(), meta.ino()));
    Ok(hash.iter().take(4).map(|b| format!("{b:02x}")).collect())
}

fn make_private(dir: &Path) -> Result<(), PlaceError> {
    let failed = |doing, source| PlaceError {
        doing,
        path: dir.to_owned(),
        source,
    };
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(failed("make the directory", e)),
    }
    let mode = std::fs::metadata(dir)
        .map_err(|e| failed("look at", e))?
        .permissions()
        .mode();
    if mode & 0o777 == 0o700 {
        return Ok(());
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .map_err(|e| failed("make private", e))
}

/// Asks the file system to put the directories in `dir` apart from each other (ext4's
/// attribute `T`): where the files of whole workspaces are deleted all the time, making one
/// is slow on some. It matters to nothing else, so nobody hears where it cannot be had.
fn keep_apart(dir: &Path) {
    let asked = std::fs::File::open(dir).and_then(|dir| {
        let flags = ioctl_getflags(&dir)?;
        match flags.contains(IFlags::TOPDIR) {
            true => Ok(()),
            false => Ok(ioctl_setflags(&dir, flags | IFlags::TOPDIR)?),
        }
    });
    if let Err(error) = asked {
        tracing::debug!(dir = %dir.display(), %error, "its directories are not kept apart");
    }
}

/// Accepts what `git version` prints, such as `git version 2.39.5 (Apple Git-154)`.
fn check_git_version(printed: &str) -> Result<(), RepoProblem> {
    let version = printed.strip_prefix("git version ").unwrap_or(printed);
    let mut numbers = version
        .split(['.', ' ', '-'])
        .map(|n| n.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= OLDEST_GIT {
        Ok(())
    } else {
        Err(RepoProblem::OldGit {
            found: version.to_owned(),
        })
    }
}

/// The line that makes a full clone of a partial one, or none for a full clone.
fn promisor_mend(git: &Git) -> Result<Option<String>, GitError> {
    let pattern = r"^(extensions\.partialclone|remote\..*\.(promisor|partialclonefilter))$";
    let out = git
        .call(["config", "--null", "--get-regexp", pattern])
        .accept(1)
        .run()?;
    let mut keys = Vec::new();
    let mut remotes = std::collections::BTreeSet::new();
    for entry in out.stdout.split(|b| *b == 0).filter(|e| !e.is_empty()) {
        let entry = String::from_utf8_lossy(entry);
        let (key, value) = entry.split_once('\n').unwrap_or((&entry, ""));
        if key == "extensions.partialclone" {
            remotes.insert(value.to_owned());
        } else if let Some((remote, name)) =
            key.strip_prefix("remote.").and_then(|k| k.rsplit_once('.'))
        {
            if name == "promisor" && value == "false" {
                continue;
            }
            remotes.insert(remote.to_owned());
        }
        keys.push(key.to_owned());
    }
    if keys.is_empty() {
        return Ok(None);
    }
    let quoted = |s: &str| format!("'{}'", s.replace('\'', r"'\''"));
    let mut line: Vec<_> = remotes
        .iter()
        .map(|r| format!("git fetch --refetch --no-filter {}", quoted(r)))
        .collect();
    line.extend(
        keys.iter()
            .map(|k| format!("git config --unset-all {}", quoted(k))),
    );
    Ok(Some(line.join(" && ")))
}

/// What looks like a repository at `start` or above it, though git does not open it.
fn repository_above(start: &Path) -> Option<PathBuf> {
    let bare = |dir: &Path| dir.join("HEAD").is_file() && dir.join("objects").is_dir();
    start
        .ancestors()
        .find(|dir| dir.join(".git").exists() || bare(dir))
        .map(Path::to_owned)
}

/// The agent's workspace that `start` lies in, by its path alone.
fn workspace_around(start: &Path) -> Option<PathBuf> {
    let real = start.canonicalize().ok()?;
    let named = |dir: &Path| Some(dir.file_name()?.to_str()?.to_owned());
    let is_workspace = |dir: &&Path| {
        let run = named(dir).is_some_and(|name| name.parse::<RunId>().is_ok());
        let mut above = dir.ancestors().skip(1);
        run && above.next().and_then(named).as_deref() == Some("ws")
            && above.next().and_then(named).as_deref() == Some("factory")
    };
    real.ancestors().find(is_workspace).map(Path::to_owned)
}

/// A path that git printed on a line of its own.
fn path_of(line: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(
        line.strip_suffix(b"\n").unwrap_or(line).to_vec(),
    ))
}
