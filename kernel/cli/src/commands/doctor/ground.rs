//! What a factory stands on: its folder, the disks, the clock, the lock.

use super::{Line, Report};
use crate::{clock, disk, failure::Class, wait};
use bollard::Docker;
use factory_core::ids::Oid;
use factory_ledger::{git::Git, places::Places};
use rustix::fs::{Access, access, statvfs};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Files and directories of ours that are looked at.
const MOST_ENTRIES: usize = 5000;
/// Free room below which work may break off, and below which nothing works.
const SCARCE: u64 = 1 << 30;
const NONE: u64 = 32 << 20;
/// Room that building an image needs on the engine's disk.
const FOR_AN_IMAGE: u64 = 3 << 30;
/// Files that can still be made; some file systems count none.
const FEW_FILES: u64 = 1000;
/// A commit from further ahead than this shows that a clock is wrong.
const AHEAD_SECONDS: i64 = 24 * 60 * 60;

/// Whether everything of ours can be written. The error is the last line that could be said.
pub(super) fn look_at_folder(places: &Places) -> Result<(), Line> {
    let common = places.common_dir();
    if let Err(error) = access(common, Access::WRITE_OK | Access::EXEC_OK) {
        let detail = format!("{} cannot be written: {error}", common.display());
        return Err(
            Line::missing("folder", Class::Repository, detail).mend(format!(
                "sudo chown -R \"$(id -u):$(id -g)\" {}",
                quoted(common)
            )),
        );
    }
    let Some((path, owner)) = foreign(places) else {
        return Ok(());
    };
    let me = rustix::process::geteuid();
    let detail = format!(
        "{} belongs to user {owner}, not to you ({}): a command was run as another user",
        path.display(),
        me.as_raw()
    );
    Err(
        Line::missing("folder", Class::Repository, detail).mend(match me.is_root() {
            true => format!(
                "run factory as user {owner}, or: chown -R 0:0 {}",
                quoted(places.root())
            ),
            false => format!(
                "sudo chown -R \"$(id -u):$(id -g)\" {}",
                quoted(places.root())
            ),
        }),
    )
}

/// A path for a shell.
pub(super) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Something of ours that belongs to somebody else. Workspaces are left out:
/// where we are root, they belong to the agents' user.
fn foreign(places: &Places) -> Option<(PathBuf, u32)> {
    let me = rustix::process::geteuid().as_raw();
    let mut todo = vec![places.root().to_owned()];
    let mut left = MOST_ENTRIES;
    while let Some(path) = todo.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.uid() != me {
            return Some((path, meta.uid()));
        }
        if !meta.is_dir() || path == places.workspaces() || path == places.runs() {
            continue;
        }
        let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
        for entry in entries.take(left) {
            left -= 1;
            todo.push(entry.path());
        }
    }
    None
}

/// How much room is left for the repository.
pub(super) fn look_at_disk(places: &Places, report: &mut Report) {
    look_at_room(
        places.common_dir(),
        "the repository",
        SCARCE,
        "see what takes it with `factory status` and `df -h`; `factory gc` frees what is old",
        report,
    );
}

/// How much room is left for images, where that can be seen from here.
pub(super) async fn look_at_engine_disk(docker: &Docker, image: bool, report: &mut Report) {
    let root = match docker.info().await {
        Ok(info) => info.docker_root_dir.map(PathBuf::from),
        Err(error) => {
            tracing::debug!(%error, "the engine does not say where it lives");
            None
        }
    };
    let Some(root) = root.filter(|root| root.is_dir()) else {
        return;
    };
    let enough = match image {
        true => SCARCE,
        false => FOR_AN_IMAGE,
    };
    let mend = "factory image prune; docker image prune; docker container prune";
    look_at_room(&root, "images and containers", enough, mend, report);
}

fn look_at_room(dir: &Path, what: &str, enough: u64, mend: &str, report: &mut Report) {
    let stat = match statvfs(dir) {
        Ok(stat) => stat,
        Err(error) => {
            tracing::debug!(%error, dir = %dir.display(), "no look at its file system");
            return;
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let detail = format!("{} free for {what} ({})", disk::shown(free), dir.display());
    let few_files = stat.f_files > 0 && stat.f_favail < FEW_FILES;
    if few_files {
        let detail = format!(
            "only {} more files fit beside {}",
            stat.f_favail,
            dir.display()
        );
        report
            .lines
            .push(Line::missing("disk", Class::Internal, detail).mend(mend));
    } else if free < NONE {
        report
            .lines
            .push(Line::missing("disk", Class::Internal, detail).mend(mend));
    } else if free < enough {
        report.warn("disk", detail, mend);
    } else {
        report.ok("disk", detail);
    }
}

/// Another factory that runs here.
pub(super) fn look_at_running(places: &Places, report: &mut Report) {
    match wait::kernel(places) {
        Ok(None) => {}
        Ok(Some(running)) => {
            let who = running.holder.map_or(String::new(), |holder| {
                format!(" (pid {}, since {})", holder.pid, clock::show(holder.since))
            });
            report.warn(
                "running",
                format!("a factory runs in this repository{who}, so no other can be started"),
                "see it with `factory status`; end it with `factory stop`, or at once with `factory stop --now`",
            );
        }
        Err(error) => report.lines.push(Line::failed("running", error)),
    }
}

/// A commit from the future: TLS and keys need the right time.
pub(super) fn look_at_clock(places: &Places, tip: &Oid, report: &mut Report) {
    let git = Git::new(places.common_dir());
    let time = git
        .call(["show", "--no-patch", "--format=%ct", tip.as_str()])
        .text();
    let Some(time) = time.ok().and_then(|time| time.parse::<i64>().ok()) else {
        return;
    };
    let now = clock::now().0;
    if time > now + AHEAD_SECONDS {
        report.warn(
            "clock",
            format!(
                "commit {} is from {}, and this machine's clock says {}: one of both is wrong",
                tip.short(),
                clock::show(time),
                clock::show(now)
            ),
            "timedatectl set-ntp true",
        );
    }
}
