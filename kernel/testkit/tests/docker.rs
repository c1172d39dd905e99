//! What only a real engine can show: that a container is as closed as it was
//! asked to be, from outside and from inside, and that a wait survives its
//! connection.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use bollard::models::{HostConfig, MountType, RestartPolicyNameEnum};
use factory_core::container::{ContainerSpec, Mount, Tmpfs};
use factory_runtime::docker::{Connection, DockerRuntime, connect_to};
use factory_runtime::{ContainerState, Created, Runtime, RuntimeError, Started};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use support::{Bench, MEETING, Meeting, USER, on_docker};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

const SCRATCH: &str = "/scratch";
const WORK: &str = "/work";

/// A container with one mount of each kind, and the directories behind them.
fn furnished(
    bench: &Bench<DockerRuntime>,
    arguments: &[&str],
) -> (ContainerSpec, Meeting, TempDir) {
    let meeting = Meeting::new();
    let work = tempfile::tempdir().unwrap();
    std::fs::set_permissions(work.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let mut spec = bench.spec(1, arguments);
    spec.mounts = vec![
        meeting.mount(),
        Mount {
            source: work.path().to_str().unwrap().to_owned(),
            target: WORK.to_owned(),
            read_only: false,
        },
    ];
    let tmpfs = |target: &str| Tmpfs {
        target: target.to_owned(),
        size: 24 << 20,
    };
    spec.tmpfs = vec![tmpfs(SCRATCH), tmpfs("/tmp")];
    spec.env = [("GREETING".to_owned(), "a=b c".to_owned())].into();
    spec.workdir = WORK.to_owned();
    spec.limits.memory = 256 << 20;
    (spec, meeting, work)
}

#[tokio::test]
async fn settings_as_docker_reports_them() {
    on_docker("settings", |bench, connection| async move {
        let (spec, _meeting, _work) = furnished(&bench, &["exit", "0"]);
        bench.runtime.create(&spec).await.unwrap();
        let inspected = connection.client.inspect_container(&spec.name, None);
        let inspected = inspected.await.unwrap();
        let config = inspected.config.unwrap();
        assert_eq!(config.user.unwrap(), format!("{USER}:{USER}"));
        assert_eq!(config.stop_signal.unwrap(), "SIGTERM");
        assert_eq!(config.entrypoint.unwrap(), [spec.argv[0].clone()]);
        assert_eq!(config.cmd.unwrap(), spec.argv[1..]);
        assert_eq!(config.healthcheck.unwrap().test.unwrap(), ["NONE"]);
        assert_eq!(config.tty, Some(false));
        assert_eq!(config.open_stdin, Some(false));
        let selinux = bench.runtime.engine().await.unwrap().selinux;
        check_host_config(inspected.host_config.unwrap(), &spec, selinux);
    })
    .await;
}

fn check_host_config(host: HostConfig, spec: &ContainerSpec, selinux: bool) {
    assert_eq!(host.network_mode.unwrap(), "none");
    assert_eq!(host.ipc_mode.unwrap(), "private");
    assert_eq!(host.pid_mode.unwrap_or_default(), "");
    assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
    assert_eq!(host.cap_add.unwrap_or_default(), Vec::<String>::new());
    let mut security = vec!["no-new-privileges"];
    security.extend(selinux.then_some("label=disable"));
    assert_eq!(host.security_opt.unwrap(), security);
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.readonly_rootfs, Some(true));
    assert_eq!(host.memory, Some(256 << 20));
    assert_eq!(host.memory_swap, Some(256 << 20));
    assert_ne!(host.oom_kill_disable, Some(true));
    assert_eq!(host.nano_cpus, Some(1_000_000_000));
    assert_eq!(host.pids_limit, Some(16));
    let ulimits = host.ulimits.unwrap();
    let ulimits: BTreeSet<_> = ulimits
        .iter()
        .map(|u| (u.name.as_deref(), u.soft, u.hard))
        .collect();
    let expected = [("nofile", 16_384), ("core", 0), ("fsize", 1 << 30)];
    assert_eq!(
        ulimits,
        expected
            .map(|(name, most)| (Some(name), Some(most), Some(most)))
            .into()
    );
    let tmpfs = host.tmpfs.unwrap();
    let options = |mode| {
        let size = 24 << 20;
        format!("rw,exec,nosuid,nodev,size={size},uid={USER},gid={USER},mode={mode}")
    };
    assert_eq!(tmpfs[SCRATCH], options("0700"));
    assert_eq!(tmpfs["/tmp"], options("1777"));
    assert_eq!(tmpfs.len(), 2);
    assert_eq!(host.binds.unwrap_or_default(), Vec::<String>::new());
    let mounts: Vec<_> = host
        .mounts
        .unwrap()
        .into_iter()
        .map(|m| (m.typ, m.source, m.target, m.read_only.unwrap_or(false)))
        .collect();
    let expected: Vec<_> = spec
        .mounts
        .iter()
        .cloned()
        .map(|m| {
            (
                Some(MountType::BIND),
                Some(m.source),
                Some(m.target),
                m.read_only,
            )
        })
        .collect();
    assert_eq!(mounts, expected);
    let log = host.log_config.unwrap();
    assert_eq!(log.typ.as_deref(), Some("local"));
    let log = log.config.unwrap();
    assert_eq!((&*log["max-size"], &*log["max-file"]), ("1m", "1"));
    assert_eq!(host.init, Some(false));
    assert_eq!(host.auto_remove, Some(false));
    let restart = host.restart_policy.unwrap().name;
    assert_eq!(restart, Some(RestartPolicyNameEnum::NO));
    assert_eq!(host.devices.unwrap_or_default(), []);
    assert_eq!(host.group_add.unwrap_or_default(), Vec::<String>::new());
}

/// Interfaces that some kernels put into every network namespace, and that
/// lead nowhere.
const IDLE_TUNNELS: [&str; 8] = [
    "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0",
];

#[tokio::test]
async fn settings_as_seen_from_inside() {
    on_docker("inside", |bench, _| async move {
        let looked_at = ["look", "/open", MEETING, WORK, SCRATCH, "/tmp", "/dev/shm"];
        let (spec, _meeting, _work) = furnished(&bench, &looked_at);
        bench.runtime.create(&spec).await.unwrap();
        bench.runtime.start(&spec.name).await.unwrap();
        let exit = bench.runtime.wait(&spec.name).await.unwrap();
        let output = bench.runtime.output_tail(&spec.name, 1 << 20).await;
        let output = output.unwrap();
        assert_eq!(exit.code, 0, "{output}");
        let seen: Value = serde_json::from_str(&output).unwrap();

        assert_eq!(seen["pid"], 1);
        assert_eq!(seen["directory"], WORK);
        check_environment(&seen["environment"]);
        let interfaces: Vec<&str> = texts(&seen["interfaces"])
            .into_iter()
            .filter(|name| !IDLE_TUNNELS.contains(name))
            .collect();
        assert_eq!(interfaces, ["lo"]);
        assert_eq!(seen["routes"], serde_json::json!([]));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(seen["status"][set], "0000000000000000", "{set}");
        }
        assert_eq!(seen["status"]["NoNewPrivs"], "1");
        assert_eq!(seen["status"]["Seccomp"], "2");
        let user = format!("{USER}\t{USER}\t{USER}\t{USER}");
        assert_eq!(
            (&seen["status"]["Uid"], &seen["status"]["Gid"]),
            (&user.clone().into(), &user.into())
        );
        // Some engines list the own group, none any other.
        let groups = seen["status"]["Groups"].as_str().unwrap();
        assert!(groups.is_empty() || groups == USER.to_string(), "{groups}");
        check_mounts(&seen["mounts"]);
        let runs = &seen["write_and_run"];
        for (directory, outcome) in [
            ("/open", "read-only filesystem or storage medium"),
            (MEETING, "read-only filesystem or storage medium"),
            (WORK, "ran"),
            (SCRATCH, "ran"),
            ("/tmp", "ran"),
            // Docker's own, 64 MiB: for shared memory, not for programs.
            ("/dev/shm", "permission denied"),
        ] {
            assert_eq!(runs[directory], outcome, "{directory}");
        }
        let limit = |name: &str| {
            let limits = seen["limits"].as_str().unwrap();
            let line = limits.lines().find_map(|line| line.strip_prefix(name));
            let words = line.unwrap().split_whitespace().take(2);
            words.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(limit("Max open files"), "16384 16384");
        assert_eq!(limit("Max core file size"), "0 0");
        assert_eq!(limit("Max file size"), "1073741824 1073741824");
    })
    .await;
}

/// Nothing of the host's, only what was given and what Docker adds.
fn check_environment(environment: &Value) {
    let names: Vec<&String> = environment.as_object().unwrap().keys().collect();
    assert_eq!(environment["GREETING"], "a=b c");
    for name in names {
        assert!(
            ["GREETING", "PATH", "HOSTNAME", "HOME"].contains(&&**name),
            "{name}"
        );
    }
}

fn check_mounts(mounts: &Value) {
    let options =
        |place: &str| -> BTreeSet<&str> { mounts[place].as_str().unwrap().split(',').collect() };
    for (place, expected) in [
        ("/", &["ro"][..]),
        (MEETING, &["ro"]),
        (WORK, &["rw"]),
        (
            SCRATCH,
            &[
                "tmpfs",
                "rw",
                "nosuid",
                "nodev",
                "size=24576k",
                "mode=700",
                "uid=10001",
            ],
        ),
        (
            "/tmp",
            &["tmpfs", "rw", "nosuid", "nodev", "size=24576k", "uid=10001"],
        ),
    ] {
        let options = options(place);
        for option in expected {
            assert!(options.contains(option), "{place}: {option} in {options:?}");
        }
        assert!(!options.contains("noexec"), "{place}: {options:?}");
    }
}

fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap();
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_program_that_is_not_there_leaves_the_container_unstarted() {
    on_docker("no program", |bench, _| async move {
        let mut spec = bench.spec(1, &[]);
        spec.argv = vec!["/absent".to_owned()];
        assert_eq!(bench.runtime.create(&spec).await.unwrap(), Created::New);
        let error = bench.runtime.start(&spec.name).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Refused { .. }), "{error}");
        let status = bench.runtime.inspect(&spec.name).await.unwrap().unwrap();
        assert_eq!(status.state, ContainerState::Created);
        let error = bench.runtime.wait(&spec.name).await.unwrap_err();
        assert!(
            matches!(error, RuntimeError::NeverStarted { .. }),
            "{error}"
        );
    })
    .await;
}

/// A socket in front of the engine's, to cut connections at.
struct Door {
    directory: TempDir,
    engine: PathBuf,
    open: JoinSet<()>,
    /// Told of each wait that was asked for.
    waits: Arc<Notify>,
}

impl Door {
    fn new(connection: &Connection) -> Self {
        let mut door = Self {
            directory: tempfile::tempdir().unwrap(),
            engine: connection.socket.clone(),
            open: JoinSet::new(),
            waits: Arc::default(),
        };
        door.open();
        door
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    fn open(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let relayed = relay(listener, self.engine.clone(), Arc::clone(&self.waits));
        self.open.spawn(relayed);
    }

    /// Cuts all connections once a wait is among them; nobody listens then.
    async fn close(&mut self) {
        self.waits.notified().await;
        self.open.shutdown().await;
        std::fs::remove_file(self.socket()).unwrap();
    }
}

async fn relay(listener: UnixListener, engine: PathBuf, waits: Arc<Notify>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let (engine, waits) = (engine.clone(), Arc::clone(&waits));
        connections.spawn(async move {
            let mut server = UnixStream::connect(engine).await.unwrap();
            let mut begin = [0; 256];
            let length = client.read(&mut begin).await.unwrap();
            server.write_all(&begin[..length]).await.unwrap();
            if begin.windows(6).any(|window| window == b"/wait?") {
                waits.notify_one();
            }
            // Errors are the connection's end, as all else.
            tokio::io::copy_bidirectional(&mut client, &mut server)
                .await
                .ok();
        });
    }
}

async fn behind(socket: &Path) -> DockerRuntime {
    DockerRuntime::new(connect_to(socket).await.unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_wait_survives_its_connection() {
    on_docker("cut wait", |bench, connection| async move {
        let mut door = Door::new(&connection);
        let runtime = behind(&door.socket()).await;
        let meeting = Meeting::new();
        let socket = format!("{MEETING}/{}", Meeting::SOCKET);
        let mut spec = bench.spec(1, &["await-term", "5", &socket]);
        spec.mounts.push(meeting.mount());
        assert_eq!(runtime.create(&spec).await.unwrap(), Created::New);
        assert_eq!(runtime.start(&spec.name).await.unwrap(), Started::Now);
        meeting.ready().await;
        let cut_and_stop = async {
            // Cut while it runs, end it while nobody can hear, come back.
            door.close().await;
            bench.runtime.stop(&spec.name, 60).await.unwrap();
            door.open();
        };
        let (exit, ()) = tokio::join!(runtime.wait(&spec.name), cut_and_stop);
        assert_eq!(exit.unwrap().code, 5);
    })
    .await;
}

#[tokio::test]
async fn an_engine_that_stays_away_is_an_error() {
    on_docker("engine gone", |bench, connection| async move {
        let mut door = Door::new(&connection);
        let runtime = behind(&door.socket()).await;
        let runtime = runtime.with_patience(Duration::from_millis(100));
        let spec = bench.spec(1, &["ignore-term"]);
        runtime.create(&spec).await.unwrap();
        runtime.start(&spec.name).await.unwrap();
        let (waited, ()) = tokio::join!(runtime.wait(&spec.name), door.close());
        let error = waited.unwrap_err();
        assert!(matches!(error, RuntimeError::Unreachable { .. }), "{error}");
        for error in [
            runtime.start(&spec.name).await.unwrap_err(),
            runtime.remove(&spec.name).await.unwrap_err(),
            runtime.list(&bench.home).await.unwrap_err(),
        ] {
            assert!(matches!(error, RuntimeError::Unreachable { .. }), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_engine_says_what_it_is() {
    on_docker("engine", |bench, _| async move {
        let engine = bench.runtime.engine().await.unwrap();
        assert!(
            !engine.id.is_empty() && !engine.version.is_empty(),
            "{engine:?}"
        );
        assert!(engine.api.starts_with("1."), "{engine:?}");
        assert!(engine.memory > 1 << 28 && engine.cpus > 0, "{engine:?}");
    })
    .await;
}
