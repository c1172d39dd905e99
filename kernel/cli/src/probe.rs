//! The door probe: whether a container with the real settings reaches a socket
//! of ours and can commit in its workspace. Engines that run elsewhere, remap
//! users or confine mounts pass every other test and fail here.

use crate::{
    failure::{Class, Failure},
    kernel::agent_user,
    room::{self, Guest, Room, Subject},
};
use factory_core::{
    ids::{IssueNo, Oid, RunId},
    wire::WORKSPACE,
};
use factory_runtime::{EngineInfo, Exit, Runtime, RuntimeError};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

/// Issues count from 1, so no run of a job is called like this.
const RUN: RunId = RunId {
    job: IssueNo(0),
    k: 1,
};
/// Name of the probe's directories; no run's.
const DIR: &str = "probe";
/// What a probe may take, with an engine that is busy.
const LIMIT: Duration = Duration::from_secs(120);
/// How a probe ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Agents can work.
    Passed,
    /// The user gave up.
    Interrupted,
}

/// What a passed probe was made with: as long as it is the same, none is needed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Passed {
    engine: String,
    image: String,
    #[serde(default)]
    runtime: Option<String>,
    user: (u32, u32),
    runs: PathBuf,
    workspaces: PathBuf,
}

/// Whether containers can have the runtime that `factory.yaml` names.
///
/// # Errors
/// A [`Class::Engine`] failure that names those that the engine has.
pub fn check_runtime(engine: &EngineInfo, wanted: Option<&str>) -> Result<(), Failure> {
    let Some(wanted) = wanted else {
        return Ok(());
    };
    let Some(there) = &engine.runtimes else {
        let what = format!(
            "runtime is `{wanted}` in factory.yaml, and {} lets no container choose its runtime over Docker's API",
            engine.version
        );
        return Err(Failure::new(Class::Engine, what).help(
            "make it the default, `runtime` in the section [engine] of containers.conf, and take the key out of factory.yaml",
        ));
    };
    if there.iter().any(|name| name == wanted) {
        return Ok(());
    }
    let what = format!(
        "the container engine has no runtime `{wanted}`, only {}",
        there.join(", ")
    );
    Err(Failure::new(Class::Engine, what).help(
        "add it under `runtimes` to /etc/docker/daemon.json and restart the engine, or change `runtime` in factory.yaml",
    ))
}

/// Probes unless the same engine and image passed before.
pub async fn run_once(
    runtime: &impl Runtime,
    engine: &EngineInfo,
    subject: &Subject<'_>,
    interrupt: impl Future<Output = ()>,
) -> Result<Verdict, Failure> {
    let passed = Passed {
        engine: engine.id.clone(),
        image: subject.image.to_owned(),
        runtime: subject.runtime.map(str::to_owned),
        user: agent_user(),
        runs: subject.places.runs(),
        workspaces: subject.places.workspaces(),
    };
    let file = subject.places.cache().join("door-probe.json");
    // Unreadable is as good as absent: the file can always be made again.
    let before = fs::read(&file)
        .ok()
        .and_then(|text| serde_json::from_slice::<Passed>(&text).ok());
    if before.as_ref() == Some(&passed) {
        return Ok(Verdict::Passed);
    }
    let verdict = run(runtime, engine, subject, interrupt).await?;
    if verdict == Verdict::Passed {
        let text = serde_json::to_vec(&passed).map_err(|e| Failure::of(Class::Internal, e))?;
        fs::write(&file, text)?;
    }
    Ok(verdict)
}

/// Probes. Whatever comes of it, container and directories are gone afterwards;
/// what a killed probe left is removed by the next one.
pub async fn run(
    runtime: &impl Runtime,
    engine: &EngineInfo,
    subject: &Subject<'_>,
    interrupt: impl Future<Output = ()>,
) -> Result<Verdict, Failure> {
    // One at a time in this factory: the names are always the same.
    let lock = File::create(subject.places.cache().join("door-probe.lock"))?;
    lock.lock()?;
    let room = room(subject);
    room.clear(runtime).await?;
    let work = async {
        room.make_empty_workspace()?;
        let listener = room.make()?;
        tokio::select! {
            answering = room::answer(&listener, RUN, |_| {}) => Err(Failure::of(Class::Internal, answering)),
            seen = tokio::time::timeout(LIMIT, room.live(runtime)) => match seen {
                Ok(seen) => seen.map(|(exit, output)| Looked::new(exit, output)).map_err(refused),
                Err(_) => Err(Failure::new(
                    Class::Engine,
                    format!("the probe's container did not end within {} s", LIMIT.as_secs()),
                )
                .help("see `docker ps` and the engine's log")),
            },
        }
    };
    let result = tokio::select! {
        looked = work => looked.map(Some),
        () = interrupt => Ok(None),
    };
    let visible = room.workspace.join(".git").exists();
    let removed = runtime.remove(&room.spec.name).await;
    let gone = room.remove();
    // Why it failed says more than what could not be removed after it.
    let looked = result?;
    removed?;
    gone?;
    let Some(looked) = looked else {
        return Ok(Verdict::Interrupted);
    };
    match diagnose(engine, &looked, visible) {
        None => Ok(Verdict::Passed),
        Some((cause, help)) => Err(Failure::new(Class::Engine, cause).help(help)),
    }
}

/// The probe's room; its container writes into an empty workspace.
fn room(subject: &Subject<'_>) -> Room {
    let what = Guest {
        name: DIR,
        id: RUN,
        start: Oid::zero(),
        checks: Vec::new(),
        wall_seconds: LIMIT.as_secs(),
    };
    let mut room = Room::of(subject, what);
    room.spec.argv.push("probe".to_owned());
    room
}

/// What the agent's probe prints; of newer agents, what we understand of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Seen {
    writable: BTreeMap<String, bool>,
    hello: bool,
    problems: Vec<String>,
}

/// What came out of the container.
#[derive(Debug)]
struct Looked {
    code: i64,
    oom: bool,
    /// None where the engine keeps no output, or the agent did not get so far.
    seen: Option<Seen>,
    output: String,
}

impl Looked {
    fn new(exit: Exit, output: String) -> Self {
        Self {
            code: exit.code,
            oom: exit.oom_killed,
            seen: output
                .lines()
                .rev()
                .find_map(|line| serde_json::from_str(line).ok()),
            output,
        }
    }
}

/// The cause of what was seen and the next step; none when all is well.
/// `visible`: what the container wrote into its workspace is there for us.
fn diagnose(engine: &EngineInfo, looked: &Looked, visible: bool) -> Option<(String, String)> {
    let seen = looked.seen.as_ref();
    if looked.code == 0 && visible {
        return None;
    }
    let said = match seen {
        Some(seen) if !seen.problems.is_empty() => seen.problems.join("; "),
        _ => format!("exit code {}: {}", looked.code, looked.output.trim()),
    };
    let writes = seen.and_then(|seen| seen.writable.get(WORKSPACE)).copied();
    let hello = seen.map(|seen| seen.hello);
    let other_engine = "use a Docker engine that runs as root on this machine itself: \
                        unset DOCKER_HOST, or set it to unix:///var/run/docker.sock";
    let found = if engine.operating_system.contains("Docker Desktop") {
        (
            format!(
                "the engine is Docker Desktop, whose virtual machine passes on no sockets ({said})"
            ),
            other_engine.to_owned(),
        )
    } else if !visible && (looked.code == 0 || writes == Some(true)) {
        (
            "the engine does not share our file system: what a container wrote into its \
             workspace is not here, so the engine runs in a virtual machine or on another one"
                .to_owned(),
            other_engine.to_owned(),
        )
    } else if looked.oom {
        (
            format!("the container ran out of memory ({said})"),
            "raise limits.memory in factory.yaml".to_owned(),
        )
    } else if writes == Some(false) && (engine.userns_remap || engine.rootless) {
        let how = match engine.rootless {
            true => "runs without root",
            false => "remaps users (userns-remap)",
        };
        (
            format!(
                "the engine {how}, so the container's user is another one here and cannot write its workspace ({said})"
            ),
            match engine.rootless {
                true => other_engine.to_owned(),
                false => {
                    "take `userns-remap` out of /etc/docker/daemon.json and restart the engine, \
                          or use another engine"
                        .to_owned()
                }
            },
        )
    } else if engine.selinux && (writes == Some(false) || hello == Some(false)) {
        (
            format!(
                "SELinux keeps the container from our directories, in spite of label=disable ({said})"
            ),
            "see `ausearch -m avc -ts recent` for what it denied".to_owned(),
        )
    } else if hello == Some(false) {
        (
            format!("no socket of ours can be reached from a container ({said})"),
            "move the repository to a local file system such as ext4 or xfs; if it is on one, \
             the engine runs containers in a sandbox of their own: use the runtime runc"
                .to_owned(),
        )
    } else {
        (
            format!("a container with the settings of a run does not work here ({said})"),
            "mend what it names; `factory image build` renews an image that lacks something"
                .to_owned(),
        )
    };
    Some(found)
}

/// An engine's error, with what a refusal of the probe usually means.
fn refused(error: RuntimeError) -> Failure {
    let is_refusal = matches!(&error, RuntimeError::Refused { .. });
    let failure = Failure::from(error);
    if !is_refusal {
        return failure;
    }
    failure.help(
        "if it does not know a path of this machine, the engine runs in a virtual machine or on another one: \
         unset DOCKER_HOST, or set it to unix:///var/run/docker.sock",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> EngineInfo {
        EngineInfo {
            id: "id".to_owned(),
            version: "20.10.24".to_owned(),
            api: "1.41".to_owned(),
            operating_system: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            architecture: "x86_64".to_owned(),
            memory: 8 << 30,
            cpus: 4,
            selinux: false,
            userns_remap: false,
            rootless: false,
            unenforced_limits: Vec::new(),
            runtimes: Some(vec!["runc".to_owned()]),
        }
    }

    fn looked(code: i64, workspace: bool, hello: bool, problems: &[&str]) -> Looked {
        Looked {
            code,
            oom: false,
            seen: Some(Seen {
                writable: [(WORKSPACE.to_owned(), workspace)].into(),
                hello,
                problems: problems.iter().map(|p| (*p).to_owned()).collect(),
            }),
            output: String::new(),
        }
    }

    #[test]
    fn a_runtime_is_looked_for_by_its_name() {
        let says = |engine: &EngineInfo, wanted| match check_runtime(engine, wanted) {
            Ok(()) => String::new(),
            Err(failure) => {
                assert_eq!(failure.class(), Class::Engine);
                failure.chain()
            }
        };
        let docker = EngineInfo {
            runtimes: Some(vec!["kata".to_owned(), "runc".to_owned()]),
            ..engine()
        };
        assert_eq!(says(&docker, None), "");
        assert_eq!(says(&docker, Some("kata")), "");
        let missing = says(&docker, Some("runsc"));
        assert!(
            missing.contains("no runtime `runsc`, only kata, runc"),
            "{missing}"
        );
        let podman = EngineInfo {
            version: "Podman 4.3.1".to_owned(),
            runtimes: None,
            ..engine()
        };
        assert_eq!(says(&podman, None), "");
        let refused = says(&podman, Some("runc"));
        assert!(
            refused.contains("Podman 4.3.1 lets no container choose"),
            "{refused}"
        );
    }

    #[test]
    fn causes_are_told_apart() {
        let well = looked(0, true, true, &[]);
        assert_eq!(diagnose(&engine(), &well, true), None);
        let cause = |engine: &EngineInfo, looked: &Looked, visible| {
            diagnose(engine, looked, visible).unwrap().0
        };
        assert!(cause(&engine(), &well, false).contains("does not share our file system"));

        let desktop = EngineInfo {
            operating_system: "Docker Desktop".to_owned(),
            ..engine()
        };
        let deaf = looked(1, true, false, &["the door is closed"]);
        assert!(cause(&desktop, &deaf, true).contains("Docker Desktop"));
        assert!(cause(&engine(), &deaf, true).contains("no socket of ours"));
        assert!(cause(&engine(), &deaf, true).contains("the door is closed"));

        let locked_out = looked(1, false, false, &["/workspace cannot be written"]);
        let remapped = EngineInfo {
            userns_remap: true,
            ..engine()
        };
        let rootless = EngineInfo {
            rootless: true,
            ..engine()
        };
        let selinux = EngineInfo {
            selinux: true,
            ..engine()
        };
        assert!(cause(&remapped, &locked_out, false).contains("userns-remap"));
        assert!(cause(&rootless, &locked_out, false).contains("without root"));
        assert!(cause(&selinux, &locked_out, false).contains("SELinux"));
        assert!(cause(&selinux, &deaf, true).contains("SELinux"));

        // An agent that could not even start says why on its standard error.
        let silent = Looked {
            code: 3,
            oom: false,
            seen: None,
            output: "cannot run: no signals\n".to_owned(),
        };
        assert!(cause(&engine(), &silent, false).contains("exit code 3: cannot run: no signals"));
        let starved = Looked {
            oom: true,
            ..silent
        };
        assert!(cause(&engine(), &starved, false).contains("memory"));
    }

    #[test]
    fn the_report_is_found_among_other_lines() {
        let exit = Exit {
            code: 1,
            oom_killed: false,
            started: jiff::Timestamp::UNIX_EPOCH,
            finished: jiff::Timestamp::UNIX_EPOCH,
        };
        let output =
            "factory-agent: trying again\n{\"hello\":false,\"later\":1,\"problems\":[\"x\"]}\n";
        let seen = Looked::new(exit, output.to_owned()).seen.unwrap();
        assert_eq!((seen.hello, seen.problems), (false, vec!["x".to_owned()]));
    }
}
