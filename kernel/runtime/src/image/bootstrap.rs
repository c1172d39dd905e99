//! Making a Debian base from packages where no registry answers.

use super::error::{says_disk_full, unknown_package};
use super::request::{Layer, Progress, inputs_of};
use super::{HostNetwork, ImageError, ImageId, sources};
use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};

const TOOL: &str = "mmdebstrap";
/// Bytes read from the archive at a time, and how often progress is told.
/// Removing a half-made base takes about a second.
const LONGEST_CLEANUP: Duration = Duration::from_secs(30);
const CHUNK: usize = 256 << 10;
const TELL_EVERY: u64 = 16 << 20;

/// The tool's arguments before the apt sources. Documentation, translations and
/// logs stay out: nobody reads them in an agent's container.
pub(super) fn arguments(suite: &str, packages: &str) -> Vec<String> {
    let mut arguments = vec![
        "--variant=minbase".to_owned(),
        "--format=tar".to_owned(),
        format!("--include={packages}"),
        "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
    ];
    for path in ["doc", "man", "info", "locale", "lintian", "doc-base"] {
        arguments.push(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
    }
    arguments.push("--dpkgopt=path-include=/usr/share/doc/*/copyright".to_owned());
    arguments.push("--dpkgopt=path-include=/usr/share/locale/locale.alias".to_owned());
    arguments.push(
        "--customize-hook=rm -rf \"$1\"/var/log/apt \"$1\"/var/log/*.log \"$1\"/var/cache/debconf/*-old".to_owned(),
    );
    arguments.extend([suite.to_owned(), "-".to_owned()]);
    arguments
}

/// The suite that `base` names, if it is one that can be made from packages:
/// `debian:bookworm-slim` is, a dated snapshot or a digest is not.
pub(super) fn suite_of(base: &str) -> Option<String> {
    let tag = base
        .strip_prefix("docker.io/library/")
        .unwrap_or(base)
        .strip_prefix("debian")?;
    let tag = match tag {
        "" => "latest",
        tag => tag.strip_prefix(':')?,
    };
    let tag = tag.strip_suffix("-slim").unwrap_or(tag);
    match tag {
        "latest" => Some("stable".to_owned()),
        "11" => Some("bullseye".to_owned()),
        "12" => Some("bookworm".to_owned()),
        "13" => Some("trixie".to_owned()),
        name if !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase()) => {
            Some(name.to_owned())
        }
        _ => None,
    }
}

/// Whether this host carries what a Debian base is made with: Debian's keys and
/// tools come with Debian and its derivatives.
pub(super) fn host_is_debian(os_release: &Path) -> bool {
    let text = match std::fs::read_to_string(os_release) {
        Ok(text) => text,
        Err(error) => {
            tracing::debug!(%error, "no os-release");
            return false;
        }
    };
    text.lines()
        .filter_map(|line| {
            line.strip_prefix("ID=")
                .or_else(|| line.strip_prefix("ID_LIKE="))
        })
        .any(|ids| {
            ids.trim_matches('"')
                .split_whitespace()
                .any(|id| id == "debian")
        })
}

/// Whether the tool is in the search path.
pub(super) fn tool_is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(TOOL).is_file())
}

/// What the base is made from.
pub(super) struct Plan<'a> {
    pub(super) base: &'a str,
    pub(super) suite: &'a str,
    pub(super) packages: &'a [String],
    /// Tag of the layer, for its label.
    pub(super) tag: &'a str,
    /// Why there was no image to pull.
    pub(super) reason: &'a str,
}

/// Makes the base and imports it while it is being written: no copy of it
/// touches this host's disk. The image has no tag yet.
pub(super) async fn bootstrap(
    docker: &Docker,
    plan: &Plan<'_>,
    host: &HostNetwork,
    leaving: Leaving,
    progress: &mut impl FnMut(Progress),
) -> Result<ImageId, ImageError> {
    let layer = Layer::Base;
    let text = format!(
        "{}; making {} from Debian packages",
        plan.reason, plan.suite
    );
    progress(Progress::Line { layer, text });
    let mut child = spawn(plan, host)?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        let source = std::io::Error::other("no pipe to it");
        return Err(ImageError::host(format!("run {TOOL}"))(source));
    };
    let (told, mut moved) = tokio::sync::watch::channel(0_u64);
    let (ended, status) = oneshot::channel();
    let messages = stderr.as_fd().try_clone_to_owned();
    let tool = Some(Tool {
        child,
        _messages: messages.map_err(ImageError::host(format!("run {TOOL}")))?,
    });
    let mut lines = BufReader::new(stderr).lines();
    let archive = archive(Ending { tool, leaving }, stdout, told, ended);

    let changes = vec![
        format!(
            "LABEL factory.image=1 factory.layer=base factory.inputs={}",
            inputs_of(plan.tag)
        ),
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        "CMD [\"/bin/bash\"]".to_owned(),
    ];
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .changes(changes)
        .build();
    let import = docker.create_image(Some(options), Some(bollard::body_try_stream(archive)), None);
    let mut import = std::pin::pin!(import);

    let mut tail: VecDeque<String> = VecDeque::new();
    let mut id = None;
    let mut failed = None;
    let (mut reading, mut importing, mut moving) = (true, true, true);
    let mut next_tell = TELL_EVERY;
    while reading || importing {
        tokio::select! {
            line = lines.next_line(), if reading => match line {
                Ok(Some(text)) => {
                    if tail.len() == 12 {
                        tail.pop_front();
                    }
                    tail.push_back(text.clone());
                    progress(Progress::Line { layer, text });
                }
                Ok(None) => reading = false,
                Err(error) => {
                    tracing::warn!(%error, "cannot read what {TOOL} says");
                    reading = false;
                }
            },
            item = import.next(), if importing => match item {
                Some(Ok(info)) => {
                    if let Some(status) = info.status.filter(|status| status.starts_with("sha256:")) {
                        id = Some(ImageId(status));
                    }
                }
                Some(Err(error)) => {
                    failed = Some(error);
                    importing = false;
                }
                None => importing = false,
            },
            changed = moved.changed(), if moving => match changed {
                Ok(()) => {
                    let done = *moved.borrow_and_update();
                    if done >= next_tell {
                        next_tell = done + TELL_EVERY;
                        progress(Progress::Bytes { layer, done, total: None });
                    }
                }
                Err(_) => moving = false,
            },
        }
    }
    let tail = Vec::from(tail).join("\n");
    if says_disk_full(&tail) {
        return Err(ImageError::NoSpace {
            layer,
            place: std::env::temp_dir().display().to_string(),
        });
    }
    // The tool's own failure first: it cuts the archive, and the import's
    // error only says that the archive was cut.
    match status.await {
        Ok(Ok(status)) if !status.success() => {
            if let Some(name) = unknown_package(&tail) {
                return Err(ImageError::NoPackage { name });
            }
            return Err(ImageError::Bootstrap {
                base: plan.base.to_owned(),
                detail: explain(&tail, status),
            });
        }
        Ok(Err(source)) => return Err(ImageError::host(format!("wait for {TOOL}"))(source)),
        Ok(Ok(_)) | Err(_) => {}
    }
    match (failed, id) {
        (None, Some(id)) => Ok(id),
        (Some(source), _) => {
            Err(super::build::engine_or_full(docker, layer, "import the base", source).await)
        }
        (None, None) => Err(ImageError::Step {
            layer,
            detail: "the engine named no image after the import".to_owned(),
        }),
    }
}

fn spawn(plan: &Plan<'_>, host: &HostNetwork) -> Result<Child, ImageError> {
    Command::new(TOOL)
        .args(arguments(plan.suite, &plan.packages.join(",")))
        .args(sources::for_suite(Path::new("/etc/apt"), plan.suite))
        .envs(host.proxies())
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // When it fails it sends SIGHUP to its whole process group, which must
        // not be ours.
        .process_group(0)
        .spawn()
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ImageError::NoMmdebstrap {
                base: plan.base.to_owned(),
                reason: plan.reason.to_owned(),
            },
            _ => ImageError::host(format!("run {TOOL}"))(source),
        })
}

/// The errors among the tool's last lines; all of them if none is marked.
fn explain(tail: &str, status: ExitStatus) -> String {
    let errors: Vec<&str> = tail
        .lines()
        .filter(|line| line.starts_with("E: "))
        .collect();
    let said = if errors.is_empty() {
        tail.to_owned()
    } else {
        errors.join("; ")
    };
    format!("{TOOL} ended with {status}: {said}")
}

/// Where a tool that was told to end goes, for somebody to wait for it.
pub(super) type Leaving = mpsc::Sender<Tool>;

/// The running tool. Its messages keep a reader, for it dies of a closed pipe
/// before it has removed its files; the pipe itself holds the few last ones.
pub(super) struct Tool {
    child: Child,
    _messages: OwnedFd,
}

/// Waits until the tool that was told to end has removed its files.
pub(super) async fn wait_for_leavers(mut leaving: mpsc::Receiver<Tool>) {
    while let Some(mut tool) = leaving.recv().await {
        match tokio::time::timeout(LONGEST_CLEANUP, tool.child.wait()).await {
            Ok(Ok(status)) => tracing::debug!(%status, "{TOOL} has ended"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot wait for {TOOL}"),
            Err(_) => tracing::warn!("{TOOL} is still removing its files"),
        }
    }
}

/// A running tool that is told to end, and so to remove its files, when nobody
/// reads from it any more.
struct Ending {
    tool: Option<Tool>,
    leaving: Leaving,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(tool) = self.tool.take() else {
            return;
        };
        let pid = tool
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid
            && let Err(error) = kill_process_group(pid, Signal::TERM)
        {
            tracing::warn!(%error, "cannot end {TOOL}");
        }
        if self.leaving.try_send(tool).is_err() {
            tracing::debug!("nobody waits for {TOOL} any more");
        }
    }
}

/// The tool's output as a request body. It ends well only if the tool did:
/// otherwise the body breaks off and the engine drops the import.
fn archive(
    ending: Ending,
    stdout: ChildStdout,
    told: tokio::sync::watch::Sender<u64>,
    ended: oneshot::Sender<std::io::Result<ExitStatus>>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let start = Some((ending, stdout, told, ended, 0_u64));
    futures_util::stream::unfold(start, |state| async move {
        let (mut ending, mut stdout, told, ended, done) = state?;
        let mut buffer = BytesMut::with_capacity(CHUNK);
        match stdout.read_buf(&mut buffer).await {
            Ok(0) => {
                let Some(tool) = &mut ending.tool else {
                    return None;
                };
                let status = tool.child.wait().await;
                if status.is_ok() {
                    ending.tool = None;
                }
                let item = match &status {
                    Ok(status) if status.success() => None,
                    _ => Some(Err(std::io::Error::other("the archive is incomplete"))),
                };
                if ended.send(status).is_err() {
                    tracing::debug!("nobody waits for {TOOL} any more");
                }
                item.map(|item| (item, None))
            }
            Ok(count) => {
                let done = done + count as u64;
                told.send_replace(done);
                Some((
                    Ok(buffer.freeze()),
                    Some((ending, stdout, told, ended, done)),
                ))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_debian_tags_name_a_suite() {
        for (base, suite) in [
            ("debian:bookworm-slim", Some("bookworm")),
            ("debian:trixie", Some("trixie")),
            ("debian:12-slim", Some("bookworm")),
            ("docker.io/library/debian:bookworm", Some("bookworm")),
            ("debian", Some("stable")),
            ("debian:bookworm-20250520-slim", None),
            ("debian@sha256:00", None),
            ("debian-like:bookworm", None),
            ("python:3.11-bookworm", None),
            ("mirror.example/debian:bookworm", None),
        ] {
            assert_eq!(suite_of(base).as_deref(), suite, "{base}");
        }
    }

    #[test]
    fn debian_and_its_derivatives_are_told_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("os-release");
        for (text, expected) in [
            ("NAME=x\nID=debian\n", true),
            ("ID=ubuntu\nID_LIKE=debian\n", true),
            ("ID=pop\nID_LIKE=\"ubuntu debian\"\n", true),
            ("ID=fedora\nHOME_URL=debian\n", false),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(host_is_debian(&path), expected, "{text}");
        }
        assert!(!host_is_debian(&dir.path().join("absent")));
    }
}
