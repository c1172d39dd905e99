//! From a [`ContainerSpec`] to Docker's words, and from Docker's answer back.

use crate::runtime::{
    Cause, ContainerState, ContainerStatus, EngineInfo, Exit, LABEL_EPOCH, LABEL_HOME, LABEL_RUN,
    LABEL_SPEC,
};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum,
    HealthConfig, HostConfig, HostConfigLogConfig, Mount as DockerMount, MountType,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum, SystemInfo, SystemVersion,
};
use factory_core::container::{ContainerLimits, ContainerSpec, Mount, Tmpfs};
use jiff::Timestamp;
use std::collections::HashMap;

/// Open files per process: enough for every build tool, and few enough that
/// programs which close all possible descriptors stay quick. An engine without
/// `CAP_SYS_RESOURCE` (rootless, nested) starts nothing above its own limit;
/// the lowest one met is 20,000.
const OPEN_FILES: i64 = 16_384;

/// Processes of the container's user on the whole machine, under Podman; the
/// container's own limit is far lower.
const PROCESSES: i64 = 16_384;

/// Engine facts that a container's settings depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) selinux: bool,
    pub(super) podman: bool,
    pub(super) log_driver: LogDriver,
    pub(super) cpus: u32,
}

/// How output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogDriver {
    /// Compact, at most one file of 1 MiB.
    Local,
    /// Podman's, at most 1 MiB.
    Podmans,
    /// Not at all: an engine without `local` has none that is sure to be bounded.
    Nothing,
}

/// Podman, behind Docker's API. It gives itself another id with each call.
pub(crate) fn is_podman(version: &SystemVersion) -> bool {
    let components = version.components.iter().flatten();
    components
        .into_iter()
        .any(|part| part.name == "Podman Engine")
}

/// What the engine is, out of its two answers.
pub(super) fn engine(info: SystemInfo, version: SystemVersion) -> (EngineInfo, Facts) {
    let has = |name: &str| {
        let options = info.security_options.as_deref().unwrap_or_default();
        // Docker writes `name=selinux,…`, old engines and Podman just the name.
        options.iter().any(|option| {
            option
                .split(',')
                .any(|part| part == name || part.strip_prefix("name=") == Some(name))
        })
    };
    let enforced = [
        ("memory", info.memory_limit),
        ("swap", info.swap_limit),
        ("cpus", info.cpu_cfs_quota),
        ("pids", info.pids_limit),
    ];
    let cpus = info.ncpu.and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
    let log_drivers = info.plugins.as_ref().and_then(|p| p.log.as_deref());
    let local = log_drivers
        .unwrap_or_default()
        .iter()
        .any(|name| name == "local");
    let podman = is_podman(&version);
    let facts = Facts {
        podman,
        selinux: has("selinux"),
        log_driver: match (local, podman) {
            (true, _) => LogDriver::Local,
            (false, true) => LogDriver::Podmans,
            (false, false) => LogDriver::Nothing,
        },
        cpus,
    };
    let mut runtimes: Vec<String> = info.runtimes.unwrap_or_default().into_keys().collect();
    runtimes.sort();
    let named = version.version.unwrap_or_default();
    let architecture = info.architecture.unwrap_or_default();
    let engine = EngineInfo {
        selinux: facts.selinux,
        userns_remap: has("userns"),
        rootless: has("rootless"),
        unenforced_limits: enforced
            .into_iter()
            .filter(|(_, works)| *works == Some(false))
            .map(|(limit, _)| limit)
            .collect(),
        id: match podman {
            true => format!("podman at {}", info.docker_root_dir.unwrap_or_default()),
            false => info.id.unwrap_or_default(),
        },
        version: match podman {
            true => format!("Podman {named}"),
            false => named,
        },
        api: version.api_version.unwrap_or_default(),
        operating_system: info.operating_system.unwrap_or_default(),
        // Docker writes the processor's name, Podman Go's.
        architecture: match architecture.as_str() {
            "amd64" => "x86_64".to_owned(),
            _ => architecture,
        },
        memory: info
            .mem_total
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(0),
        cpus,
        runtimes: match podman {
            true => None,
            false => Some(runtimes),
        },
    };
    (engine, facts)
}

/// Everything Docker is told about a container. Every setting that an engine's
/// own configuration could change is written out.
pub(super) fn create_body(
    spec: &ContainerSpec,
    facts: Facts,
) -> Result<ContainerCreateBody, Cause> {
    // With neither, Docker would run whatever the image names.
    let (program, arguments) = spec
        .argv
        .split_first()
        .ok_or("the spec names no program (`argv` is empty)")?;
    Ok(ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: Some(vec![program.clone()]),
        cmd: Some(arguments.to_vec()),
        env: Some(spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect()),
        working_dir: Some(spec.workdir.clone()),
        user: Some(format!("{}:{}", spec.uid, spec.gid)),
        labels: Some(labels(spec)),
        stop_signal: Some("SIGTERM".to_owned()),
        // An image's own health check would run beside our pid 1.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host_config(spec, facts)),
        ..ContainerCreateBody::default()
    })
}

fn labels(spec: &ContainerSpec) -> HashMap<String, String> {
    [
        (LABEL_HOME, spec.owner.home.clone()),
        (LABEL_RUN, spec.owner.run.to_string()),
        (LABEL_EPOCH, spec.owner.epoch.to_string()),
        (LABEL_SPEC, spec.digest()),
    ]
    .map(|(label, value)| (label.to_owned(), value))
    .into()
}

fn host_config(spec: &ContainerSpec, facts: Facts) -> HostConfig {
    let limits = &spec.limits;
    let memory = bytes(limits.memory);
    let mut security = vec!["no-new-privileges".to_owned()];
    if facts.selinux {
        // Relabelling the user's files for one container is not ours to do.
        security.push("label=disable".to_owned());
    }
    // Docker refuses more cores than the machine has.
    let milli_cpus = limits.milli_cpus.min(u64::from(facts.cpus) * 1000);
    HostConfig {
        runtime: spec.runtime.clone(),
        network_mode: Some("none".to_owned()),
        ipc_mode: Some("private".to_owned()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(security),
        privileged: Some(false),
        readonly_rootfs: Some(true),
        memory: Some(memory),
        // Memory and swap together: no swap.
        memory_swap: Some(memory),
        oom_kill_disable: Some(false),
        nano_cpus: Some(bytes(milli_cpus.saturating_mul(1_000_000))),
        pids_limit: Some(i64::from(limits.pids)),
        ulimits: Some(limits_of_processes(limits, facts.podman)),
        tmpfs: Some(spec.tmpfs.iter().map(|t| tmpfs(t, spec, facts)).collect()),
        mounts: Some(spec.mounts.iter().map(mount).collect()),
        log_config: Some(log_config(facts.log_driver)),
        // Our pid 1 reaps and forwards signals itself.
        init: Some(false),
        // It would lose the exit code.
        auto_remove: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        ..HostConfig::default()
    }
}

fn bytes(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Limits of each process of a run.
fn limits_of_processes(limits: &ContainerLimits, podman: bool) -> Vec<ResourcesUlimits> {
    let mut all = ulimits(podman);
    all.push(ulimit("fsize", bytes(limits.file_size)));
    all
}

/// Limits of each process: an engine's own may be above what it is able to set.
pub(crate) fn ulimits(podman: bool) -> Vec<ResourcesUlimits> {
    let mut all = vec![
        ulimit("nofile", OPEN_FILES),
        // A core dump would land in the workspace, and in a commit.
        ulimit("core", 0),
    ];
    if podman {
        // Its own default is above what an engine without `CAP_SYS_RESOURCE` may set.
        all.push(ulimit("nproc", PROCESSES));
    }
    all
}

fn ulimit(name: &str, most: i64) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(most),
        hard: Some(most),
    }
}

fn tmpfs(tmpfs: &Tmpfs, spec: &ContainerSpec, facts: Facts) -> (String, String) {
    let owner = format!(",uid={},gid={}", spec.uid, spec.gid);
    // `/tmp` is shared by convention, the others belong to the run's user.
    // Podman knows no owner here, and would take over that of the image's
    // directory; nobody else is in the container.
    let (owner, mode) = match (tmpfs.target.as_str(), facts.podman) {
        (_, true) => (",notmpcopyup", "1777"),
        ("/tmp", false) => (owner.as_str(), "1777"),
        (_, false) => (owner.as_str(), "0700"),
    };
    let options = format!(
        "rw,exec,nosuid,nodev,size={}{owner},mode={mode}",
        tmpfs.size
    );
    (tmpfs.target.clone(), options)
}

/// As a mount and not as a bind: for a bind Docker would create a missing
/// source as a directory of root.
fn mount(mount: &Mount) -> DockerMount {
    DockerMount {
        typ: Some(MountType::BIND),
        source: Some(mount.source.clone()),
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        ..DockerMount::default()
    }
}

fn log_config(driver: LogDriver) -> HostConfigLogConfig {
    let (typ, options): (_, &[(&str, &str)]) = match driver {
        // One file is never rotated, hence never compressed, and Docker
        // refuses the default `compress` with it.
        LogDriver::Local => (
            "local",
            &[("max-size", "1m"), ("max-file", "1"), ("compress", "false")],
        ),
        LogDriver::Podmans => ("k8s-file", &[("max-size", "1m")]),
        LogDriver::Nothing => ("none", &[]),
    };
    HostConfigLogConfig {
        typ: Some(typ.to_owned()),
        config: Some(
            options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        ),
    }
}

/// What Docker's answer says of a container.
pub(super) fn status(answer: ContainerInspectResponse) -> Result<ContainerStatus, Cause> {
    let name = answer.name.unwrap_or_default();
    let labels = answer.config.and_then(|config| config.labels);
    let state = answer.state.unwrap_or_default();
    let is = |flag: Option<bool>| flag == Some(true);
    let started = time(state.started_at.as_deref())?;
    let state = match started {
        // A container whose start failed has an exit code, and never ran.
        None => ContainerState::Created,
        Some(_) if is(state.running) || is(state.paused) || is(state.restarting) => {
            ContainerState::Running
        }
        Some(started) => ContainerState::Exited(Exit {
            code: state.exit_code.unwrap_or(-1),
            oom_killed: is(state.oom_killed),
            started,
            // Unset when the engine died together with the container.
            finished: time(state.finished_at.as_deref())?
                .unwrap_or(started)
                .max(started),
        }),
    };
    Ok(ContainerStatus {
        name: name.trim_start_matches('/').to_owned(),
        state,
        labels: labels.unwrap_or_default().into_iter().collect(),
    })
}

/// What a list says of a container; none where only an inspection tells enough.
pub(super) fn listed(summary: ContainerSummary) -> Option<ContainerStatus> {
    let state = match summary.state? {
        ContainerSummaryStateEnum::CREATED => ContainerState::Created,
        ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::PAUSED => {
            ContainerState::Running
        }
        // No exit code is in a list.
        ContainerSummaryStateEnum::EXITED
        | ContainerSummaryStateEnum::DEAD
        | ContainerSummaryStateEnum::REMOVING
        | ContainerSummaryStateEnum::RESTARTING
        | ContainerSummaryStateEnum::STOPPING
        | ContainerSummaryStateEnum::EMPTY => return None,
    };
    Some(ContainerStatus {
        name: name_of(&summary)?.to_owned(),
        state,
        labels: summary.labels?.into_iter().collect(),
    })
}

/// The name that a list gives a container.
pub(super) fn name_of(summary: &ContainerSummary) -> Option<&str> {
    let name = summary.names.as_ref()?.first()?;
    Some(name.trim_start_matches('/'))
}

/// Docker writes "never" as the first instant of the year 1.
fn time(text: Option<&str>) -> Result<Option<Timestamp>, jiff::Error> {
    match text {
        None | Some("") => Ok(None),
        Some(text) if text.starts_with("0001-01-01") => Ok(None),
        Some(text) => text.parse().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::{
        ContainerState as DockerState, PluginsInfo, Runtime, SystemVersionComponents,
    };

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn state_of(state: DockerState) -> ContainerState {
        let answer = ContainerInspectResponse {
            name: Some("/factory-0-r1-1".to_owned()),
            state: Some(state),
            ..ContainerInspectResponse::default()
        };
        let status = status(answer).unwrap();
        assert_eq!(status.name, "factory-0-r1-1");
        status.state
    }

    #[test]
    fn a_failed_start_is_not_an_exit() {
        let never = Some("0001-01-01T00:00:00Z".to_owned());
        let state = state_of(DockerState {
            started_at: never.clone(),
            finished_at: never,
            exit_code: Some(127),
            ..DockerState::default()
        });
        assert_eq!(state, ContainerState::Created);
    }

    #[test]
    fn paused_is_running_and_an_unset_end_is_the_start() {
        let began = Some("2026-01-02T03:04:05.678901234Z".to_owned());
        let paused = DockerState {
            started_at: began.clone(),
            paused: Some(true),
            ..DockerState::default()
        };
        assert_eq!(state_of(paused), ContainerState::Running);
        let started = at("2026-01-02T03:04:05.678901234Z");
        let ended = DockerState {
            started_at: began,
            finished_at: Some("0001-01-01T00:00:00Z".to_owned()),
            exit_code: Some(137),
            oom_killed: Some(true),
            ..DockerState::default()
        };
        let expected = Exit {
            code: 137,
            oom_killed: true,
            started,
            finished: started,
        };
        assert_eq!(state_of(ended), ContainerState::Exited(expected));
    }

    #[test]
    fn security_options_and_missing_limits_are_read() {
        let info = |options: &[&str], log: &[&str]| SystemInfo {
            security_options: Some(options.iter().map(|o| (*o).to_owned()).collect()),
            plugins: Some(PluginsInfo {
                log: Some(log.iter().map(|l| (*l).to_owned()).collect()),
                ..PluginsInfo::default()
            }),
            swap_limit: Some(false),
            memory_limit: Some(true),
            ncpu: Some(4),
            ..SystemInfo::default()
        };
        let confined = info(
            &["name=seccomp,profile=default", "name=selinux"],
            &["json-file"],
        );
        let (engine_info, facts) = engine(confined, SystemVersion::default());
        assert!(engine_info.selinux && !engine_info.rootless && !engine_info.userns_remap);
        assert_eq!(engine_info.unenforced_limits, ["swap"]);
        assert_eq!((facts.log_driver, facts.cpus), (LogDriver::Nothing, 4));

        let rootless = info(&["name=rootless", "name=userns"], &["json-file", "local"]);
        let (engine_info, facts) = engine(rootless, SystemVersion::default());
        assert!(!engine_info.selinux && engine_info.rootless && engine_info.userns_remap);
        assert_eq!(facts.log_driver, LogDriver::Local);
    }

    fn spec() -> ContainerSpec {
        use factory_core::container::{ContainerLimits, Owner};
        use factory_core::ids::Epoch;
        ContainerSpec {
            name: "factory-0000000a-r1-1".to_owned(),
            image: "sha256:0".to_owned(),
            runtime: None,
            argv: vec!["/agent".to_owned()],
            env: [("A".to_owned(), "b=c".to_owned())].into(),
            workdir: "/".to_owned(),
            uid: 7,
            gid: 8,
            mounts: Vec::new(),
            tmpfs: Vec::new(),
            limits: ContainerLimits {
                memory: 1 << 30,
                milli_cpus: 64_000,
                pids: 9,
                file_size: 1 << 33,
            },
            owner: Owner {
                home: "0000000a".to_owned(),
                run: "r1-1".parse().unwrap(),
                epoch: Epoch(3),
            },
        }
    }

    #[test]
    fn settings_follow_the_engine() {
        let mut facts = Facts {
            podman: false,
            selinux: false,
            log_driver: LogDriver::Nothing,
            cpus: 2,
        };
        let host = |facts| {
            create_body(&spec(), facts)
                .unwrap()
                .host_config
                .unwrap_or_default()
        };
        assert_eq!(host(facts).security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!(host(facts).nano_cpus, Some(2_000_000_000));
        assert_eq!(host(facts).runtime, None);
        assert_eq!(host(facts).log_config.unwrap().typ.unwrap(), "none");
        facts.selinux = true;
        let security = host(facts).security_opt.unwrap();
        assert_eq!(security, ["no-new-privileges", "label=disable"]);
        let named = ContainerSpec {
            runtime: Some("runsc".to_owned()),
            ..spec()
        };
        let host = create_body(&named, facts).unwrap().host_config;
        assert_eq!(host.unwrap().runtime.as_deref(), Some("runsc"));
    }

    #[test]
    fn runtimes_are_those_that_a_container_can_ask_for() {
        let info = || SystemInfo {
            runtimes: Some(
                ["runsc", "runc"]
                    .map(|name| (name.to_owned(), Runtime::default()))
                    .into(),
            ),
            ..SystemInfo::default()
        };
        let (docker, _) = engine(info(), SystemVersion::default());
        let both = ["runc", "runsc"].map(str::to_owned).to_vec();
        assert_eq!(docker.runtimes, Some(both));
        let part = SystemVersionComponents {
            name: "Podman Engine".to_owned(),
            ..SystemVersionComponents::default()
        };
        let podman = SystemVersion {
            components: Some(vec![part]),
            ..SystemVersion::default()
        };
        assert_eq!(engine(info(), podman).0.runtimes, None);
    }

    #[test]
    fn a_spec_without_a_program_never_runs_the_images() {
        let facts = Facts {
            podman: false,
            selinux: false,
            log_driver: LogDriver::Local,
            cpus: 2,
        };
        let empty = ContainerSpec {
            argv: Vec::new(),
            ..spec()
        };
        assert!(create_body(&empty, facts).is_err());
    }
}
