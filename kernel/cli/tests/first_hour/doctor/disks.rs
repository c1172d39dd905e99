//! Disks that have little room left.

use super::{FakeEngine, VERSION, assert_line, info, is_root};
use crate::{
    OWN_COMMAND,
    lab::{Lab, NO_DOCKER},
};
use std::{fs, path::PathBuf, process::Command};

/// A small file system of its own, taken away in the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(&at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let ended = Command::new("umount").arg("--lazy").arg(&self.0).status();
        println!("unmounted: {ended:?}");
    }
}

#[test]
fn disks_that_are_nearly_full() {
    let test = "disks_that_are_nearly_full";
    if !is_root(test) {
        return;
    }
    let rows = [
        ("size=500m", "warning", "free for the repository", 6),
        ("size=20m", "missing", "free for the repository", 1),
        (
            "size=500m,nr_inodes=900",
            "missing",
            "more files fit beside",
            1,
        ),
    ];
    for (size, state, detail, code) in rows {
        let lab = Lab::new();
        let Some(_disk) = SmallDisk::mount(lab.path("disk"), size) else {
            println!("skipped: {test}: no file system can be mounted");
            return;
        };
        let dir = lab.repo("disk/repo", &[("factory.yaml", OWN_COMMAND)]);
        let ended = lab.factory(&dir, &["doctor"], &[NO_DOCKER]);
        assert_line(&ended, state, "disk", detail, "factory gc");
        assert_eq!(ended.code, code, "{size}: {ended:?}");
    }
    // The engine's own, with an image still to be built.
    let lab = Lab::new();
    let Some(disk) = SmallDisk::mount(lab.path("engine"), "size=500m") else {
        return;
    };
    let dir = lab.repo("repo", &[("factory.yaml", OWN_COMMAND)]);
    let info = info(
        "",
        &format!(", \"DockerRootDir\": \"{}\"", disk.0.display()),
    );
    let engine = FakeEngine::start(&lab, VERSION, &info);
    let ended = lab.factory(&dir, &["doctor"], &[("DOCKER_HOST", &engine.host())]);
    assert_line(
        &ended,
        "warning",
        "disk",
        "free for images and containers",
        "docker image prune",
    );
}
