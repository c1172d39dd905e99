//! Build contexts: a Dockerfile and its files as a tar archive in memory.

use super::ImageError;
use bytes::Bytes;

/// Directories every image has, so that a read-only root can be mounted over,
/// with their modes: where a mount knows no owner, it keeps that of the directory.
pub(super) const MOUNT_POINTS: [(&str, u32); 4] = [
    ("workspace", 0o755),
    ("run/factory", 0o755),
    ("factory/out", 0o1777),
    ("state", 0o1777),
];

/// Fills the placeholders of a recipe.
pub(super) fn fill(recipe: &str, base: &str, tag: &str, packages: &[String]) -> String {
    recipe
        .replace("@BASE@", base)
        .replace("@INPUTS@", super::request::inputs_of(tag))
        .replace("@PACKAGES@", &packages.join(" "))
}

/// A build context under construction.
pub(super) struct Context {
    tar: tar::Builder<Vec<u8>>,
}

impl Context {
    /// A context without any file.
    pub(super) fn empty() -> Self {
        Self {
            tar: tar::Builder::new(Vec::new()),
        }
    }

    /// A context with its Dockerfile.
    pub(super) fn new(dockerfile: &str) -> Result<Self, ImageError> {
        let mut context = Self::empty();
        context.file("Dockerfile", 0o644, dockerfile.as_bytes())?;
        Ok(context)
    }

    /// Adds a file that belongs to root.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), ImageError> {
        self.entry(path, tar::EntryType::Regular, mode, content)
    }

    /// Adds a symbolic link; where it leads need not exist.
    pub(super) fn link(&mut self, path: &str, target: &[u8]) -> Result<(), ImageError> {
        use std::os::unix::ffi::OsStrExt;
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        header.set_mtime(0);
        self.tar
            .append_link(&mut header, path, std::ffi::OsStr::from_bytes(target))
            .map_err(ImageError::host(format!("put {path} into a build context")))
    }

    /// Adds a directory that belongs to root.
    pub(super) fn directory(&mut self, path: &str, mode: u32) -> Result<(), ImageError> {
        self.entry(path, tar::EntryType::Directory, mode, &[])
    }

    fn entry(
        &mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        content: &[u8],
    ) -> Result<(), ImageError> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        // No time: equal inputs give equal archives.
        header.set_mtime(0);
        self.tar
            .append_data(&mut header, path, content)
            .map_err(ImageError::host(format!("put {path} into a build context")))
    }

    /// The finished archive.
    pub(super) fn finish(self) -> Result<Bytes, ImageError> {
        self.tar
            .into_inner()
            .map(Bytes::from)
            .map_err(ImageError::host("finish a build context"))
    }
}
