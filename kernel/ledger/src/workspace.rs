//! Workspaces: the repositories that containers work in. Made before a run's
//! container exists and removed after it is gone; in between host git never
//! opens them, since whoever writes a repository's configuration decides what
//! git executes there.

use crate::base::BaseRepo;
use crate::merge::Author;
use crate::repo::{RepoError, alternates_line, io, write_file};
use factory_core::ids::Oid;
use factory_core::wire::{BASE_GIT, START_REF};
use std::fs::{self, DirEntry};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a workspace is to be.
#[derive(Debug, Clone)]
pub struct Workspace<'a> {
    /// Its directory on the host, absolute; mounted into the container.
    pub dir: &'a Path,
    /// Numeric user inside the container, who owns all of it.
    pub uid: u32,
    /// Numeric group inside the container.
    pub gid: u32,
    /// Where the door serves Git, as seen from inside.
    pub remote_url: &'a str,
    /// The branch to work on and push (without `refs/heads/`); none for checks.
    pub branch: Option<&'a str>,
    /// Who its commits say made them, unless the environment says otherwise.
    pub author: &'a Author,
}

/// Makes a workspace without a checkout, unless it is there already. What was
/// left half-made by an earlier try is thrown away.
pub fn create(base: &BaseRepo, wanted: &Workspace<'_>) -> Result<(), RepoError> {
    if wanted.dir.exists() {
        return Ok(());
    }
    let half = beside(wanted.dir, "new");
    remove_tree(&half)?;
    let git_dir = half.join(".git");
    for dir in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
        let dir = git_dir.join(dir);
        fs::create_dir_all(&dir).map_err(io("make the directory", &dir))?;
    }
    // Objects are only found where the container mounts them.
    let objects = Path::new(BASE_GIT).join("objects");
    let heads = base.heads()?;
    let default = base.default_branch()?;
    let branch = wanted.branch.unwrap_or(&default);
    for (name, content) in [
        ("objects/info/alternates", alternates_line(&objects)),
        ("config", config(wanted).into_bytes()),
        ("packed-refs", packed_refs(&heads, &default).into_bytes()),
        ("HEAD", format!("ref: refs/heads/{branch}\n").into_bytes()),
    ] {
        write_file(&git_dir.join(name), &content)?;
    }
    give(&half, wanted.uid, wanted.gid)?;
    fs::rename(&half, wanted.dir).map_err(io("make the workspace", wanted.dir))
}

/// The branches of `base.git` as a clone of it has them: all as the remote's, and the
/// default one as its own.
fn packed_refs(heads: &[(String, Oid)], default: &str) -> String {
    let mut text = "# pack-refs with: peeled fully-peeled sorted \n".to_owned();
    let own = format!("refs/heads/{default}");
    for (name, oid) in heads.iter().filter(|(name, _)| *name == own) {
        text.push_str(&format!("{oid} {name}\n"));
    }
    for (name, oid) in heads {
        let name = name.strip_prefix("refs/heads/").unwrap_or(name);
        // There the start of the run is.
        if name == "start" || name.starts_with("start/") {
            continue;
        }
        text.push_str(&format!("{oid} refs/remotes/origin/{name}\n"));
    }
    text
}

/// Removes a workspace and all that was left of it. Nothing in it is opened or
/// followed. Absent is fine.
pub fn remove(dir: &Path) -> Result<(), RepoError> {
    // Under another name first: a crash on the way leaves no half workspace
    // that looks like a whole one.
    let gone = beside(dir, "gone");
    match fs::rename(dir, &gone) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        // A removal that was cut short left something under that name.
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists
            ) =>
        {
            remove_tree(&gone)?;
            fs::rename(dir, &gone).map_err(io("remove the workspace", dir))?;
        }
        Err(e) => return Err(io("remove the workspace", dir)(e)),
    }
    remove_tree(&gone)?;
    remove_tree(&beside(dir, "new"))
}

/// A name next to the workspace's own that no run has.
fn beside(dir: &Path, what: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.{what}"))
}

fn remove_tree(dir: &Path) -> Result<(), RepoError> {
    let failed = || io("remove", dir);
    match fs::remove_dir_all(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        // Module caches make their directories read-only.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {}
        Err(e) => return Err(failed()(e)),
    }
    make_writable(dir).map_err(failed())?;
    fs::remove_dir_all(dir).map_err(failed())
}

/// Makes all directories of a tree writable for their owner; follows no link.
fn make_writable(top: &Path) -> std::io::Result<()> {
    let mut todo = vec![top.to_owned()];
    while let Some(dir) = todo.pop() {
        let mode = fs::symlink_metadata(&dir)?.permissions().mode();
        if mode & 0o700 != 0o700 {
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode | 0o700))?;
        }
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    Ok(())
}

/// Gives a tree to the container's user. Only root can, and only root needs
/// to: everybody else's containers run under their own uid.
fn give(top: &Path, uid: u32, gid: u32) -> Result<(), RepoError> {
    const GIVE: &str = "give to the container's user";
    let mut todo = vec![top.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).map_err(io(GIVE, &path))?;
        if meta.uid() != uid || meta.gid() != gid {
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).map_err(io(GIVE, &path))?;
        }
        if meta.is_dir() {
            let entries = fs::read_dir(&path).and_then(|all| all.collect::<Result<Vec<_>, _>>());
            todo.extend(entries.map_err(io(GIVE, &path))?.iter().map(DirEntry::path));
        }
    }
    Ok(())
}

/// The workspace's whole configuration. A plain `git push` pushes the current
/// branch under its own name; only the start can be fetched.
fn config(wanted: &Workspace<'_>) -> String {
    let mut text = format!(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
         \tlogAllRefUpdates = true\n\
         [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[push]\n\tdefault = current\n\
         [remote \"origin\"]\n\turl = {}\n\tfetch = +{START_REF}:refs/remotes/origin/start\n\
         \ttagOpt = --no-tags\n\
         [user]\n\tname = {}\n\temail = {}\n",
        quoted(wanted.remote_url),
        quoted(&wanted.author.name),
        quoted(&wanted.author.email),
    );
    if let Some(branch) = wanted.branch {
        text += &format!(
            "[branch {}]\n\tremote = origin\n\tmerge = {}\n",
            quoted(branch),
            quoted(&format!("refs/heads/{branch}")),
        );
    }
    text
}

/// A value or subsection as git's configuration files quote it.
fn quoted(value: &str) -> String {
    let mut text = String::from('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            // In a name or an address they mean nothing.
            '\n' | '\r' | '\0' => text.push(' '),
            _ => text.push(c),
        }
    }
    text.push('"');
    text
}
