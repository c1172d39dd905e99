//! Unix sockets below deep directories, and on file systems that have none.

use crate::places::way_out;
use rustix::fs::{CWD, Mode, OFlags};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A directory for sockets that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketProblem {
    /// The directory cannot be opened.
    #[error("cannot open the directory {path}", path = path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Neither a socket nor a plain file can be made there.
    #[error("cannot write to {path}; {way_out}", path = path.display(), way_out = way_out(.source))]
    Unwritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else owns or can enter the private directory.
    #[error("{path} must be a directory of user {uid} that nobody else may enter; remove it and start again", path = path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// The user who should own it.
        uid: u32,
    },
}

/// An open directory, through which sockets in it have a short path, however
/// deep it lies: socket addresses end at 107 bytes. The paths it gives are good
/// in this process and as long as the value lives.
#[derive(Debug)]
pub struct SocketDir {
    handle: OwnedFd,
    path: PathBuf,
}

impl SocketDir {
    /// Opens an existing directory.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, SocketProblem> {
        let path = path.into();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Ok(handle) => Ok(Self { handle, path }),
            Err(e) => Err(SocketProblem::Open {
                path,
                source: e.into(),
            }),
        }
    }

    /// The path to bind or connect the socket `name` with.
    pub fn address(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()))
    }

    /// The directory's own path: for messages and for mounting.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Where sockets that belong into `wanted` go: `wanted` itself, or, where its
/// file system has no sockets, `<tmp>/factory-<uid>/<home>`.
pub(crate) fn settle(wanted: &Path, tmp: &Path, home: &str) -> Result<PathBuf, SocketProblem> {
    let dir = SocketDir::open(wanted)?;
    let bind = tempfile::Builder::new()
        .prefix(".probe")
        .make_in(dir.address(""), |path| UnixListener::bind(path));
    if bind.is_ok() {
        return Ok(wanted.to_owned());
    }
    // Each file system has an error of its own for this. What tells "no
    // sockets" from "no room" or "no right" is that a plain file can be made.
    if let Err(source) = tempfile::Builder::new()
        .prefix(".probe")
        .tempfile_in(wanted)
    {
        return Err(SocketProblem::Unwritable {
            path: wanted.to_owned(),
            source,
        });
    }
    let uid = rustix::process::geteuid().as_raw();
    let user = private_dir(&tmp.join(format!("factory-{uid}")), uid)?;
    private_dir(&user.join(home), uid)
}

/// Makes or checks a directory in a place where others may make one first.
fn private_dir(path: &Path, uid: u32) -> Result<PathBuf, SocketProblem> {
    let unwritable = |e: rustix::io::Errno| SocketProblem::Unwritable {
        path: path.to_owned(),
        source: e.into(),
    };
    match rustix::fs::mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(unwritable(e)),
    }
    let not_private = || SocketProblem::NotPrivate {
        path: path.to_owned(),
        uid,
    };
    // O_NOFOLLOW: a link that somebody put there could lead anywhere.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|_| not_private())?;
    let stat = rustix::fs::fstat(&handle).map_err(unwritable)?;
    if stat.st_uid != uid || stat.st_mode & 0o077 != 0 {
        return Err(not_private());
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_file_system_with_sockets_is_used_itself() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            settle(dir.path(), Path::new("/nonexistent"), "00000000").unwrap(),
            dir.path()
        );
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "the probe is gone"
        );
    }

    #[test]
    fn a_directory_that_is_not_ours_alone_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let open = tmp.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
        let link = tmp.path().join("link");
        symlink(private_dir(&tmp.path().join("target"), uid).unwrap(), &link).unwrap();
        let file = tmp.path().join("file");
        std::fs::write(&file, "").unwrap();
        for bad in [open, link, file] {
            assert!(
                matches!(
                    private_dir(&bad, uid),
                    Err(SocketProblem::NotPrivate { .. })
                ),
                "{}",
                bad.display()
            );
        }
        let foreign = tmp.path().join("target");
        assert!(matches!(
            private_dir(&foreign, uid + 1),
            Err(SocketProblem::NotPrivate { .. })
        ));
    }
}
