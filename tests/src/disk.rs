//! Small disks that fill up.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

/// A file that fills a disk; dropping it frees what it takes.
pub struct Filler(PathBuf);

impl Filler {
    /// Fills the disk below `dir` to its last byte.
    pub fn below(dir: &Path) -> Self {
        let path = dir.join("filler");
        let file = File::create(&path).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        let mut offset = 0;
        // What is left in ever smaller pieces.
        for piece in [1 << 20, 64 << 10, 4 << 10] {
            while rustix::fs::fallocate(&file, flags, offset, piece).is_ok() {
                offset += piece;
            }
        }
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            println!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Mounts a file system of `bytes` bytes, which lies in the file `image`, at `at`.
pub(crate) fn mount(image: &Path, at: &Path, bytes: u64) {
    File::create(image).unwrap().set_len(bytes).unwrap();
    let run = |command: &mut Command| {
        let status = command.status().unwrap();
        assert!(status.success(), "{command:?}: {status}");
    };
    run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image));
    run(Command::new("mount").args(["-o", "loop"]).args([image, at]));
    std::fs::remove_dir(at.join("lost+found")).unwrap();
}

/// Takes it away again; its loop device goes with it.
pub(crate) fn unmount(at: &Path) {
    let unmounted = Command::new("umount").arg("-l").arg(at).status();
    if !unmounted.is_ok_and(|status| status.success()) {
        println!("cannot unmount {}", at.display());
    }
}
