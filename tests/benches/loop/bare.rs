//! The floor: the same container, made by the container engine alone.

use crate::{
    engine::Start,
    listen::{At, Events},
};
use factory_core::{
    brief::{Host, container_spec, passwd},
    container::ContainerSpec,
    ids::{IssueNo, RunId},
    model::Run,
    wire::{RUN_DIR, WORKSPACE},
};
use factory_runtime::{
    Runtime, RuntimeError,
    docker::{DockerRuntime, connect},
};
use factory_tests::{Lab, docker};
use std::{os::unix::fs::PermissionsExt, path::Path, process::Command, sync::Mutex};
use tempfile::TempDir;

/// Creates and starts containers like those of a run, one at a time.
pub struct Bare {
    runtime: tokio::runtime::Runtime,
    engine: DockerRuntime,
    spec: ContainerSpec,
    workspace: TempDir,
    run_dir: TempDir,
    made: u32,
}

/// Starts an engine as the agent does, with nothing of the agent around it.
const ENGINE: &str = r#"set -e
. /run/factory/prepare.sh
date +%s%N >/workspace/began
exec "$@" </run/factory/brief.md
"#;

/// One bare container's moments.
pub struct BareSpawn {
    /// The engine is asked to create it.
    pub begun: At,
    /// It is created.
    pub created: At,
    /// It is started.
    pub started: At,
    /// Its first instruction.
    pub first: At,
}

impl Bare {
    /// Image, limits, mounts and user of a run that ended; in place of the
    /// agent a program that notes the time and ends.
    pub fn like(lab: &Lab, run: &Run) -> Self {
        let workspace = tempfile::tempdir().unwrap();
        std::fs::set_permissions(workspace.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let run_dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(run_dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        // As the kernel chooses: git wants to own its work tree.
        let (uid, gid) = match rustix::process::getuid() {
            root if root.is_root() => (10_001, 10_001),
            own => (own.as_raw(), rustix::process::getgid().as_raw()),
        };
        std::fs::write(run_dir.path().join("passwd"), passwd(uid, gid)).unwrap();
        let host = Host {
            // Another factory's, so that the running kernel does not clean it up.
            home: format!("{:08x}", std::process::id()),
            uid,
            gid,
            run_dir: text(run_dir.path()),
            workspace: text(workspace.path()),
            base_git: text(&lab.below("base.git")),
        };
        let mut spec = container_spec(run, &host);
        let note = format!("date +%s%N >{WORKSPACE}/first");
        spec.argv = ["/bin/sh", "-c", &note].map(str::to_owned).to_vec();
        let runtime = here();
        let engine = engine_of(&runtime);
        Self {
            runtime,
            engine,
            spec,
            workspace,
            run_dir,
            made: 0,
        }
    }

    /// Names the next container.
    fn next(&mut self) {
        self.made += 1;
        let owner = &mut self.spec.owner;
        owner.run = RunId {
            job: IssueNo(1),
            k: self.made,
        };
        self.spec.name = ContainerSpec::name_for(&owner.home, owner.run);
    }

    /// The whole life of one.
    pub fn spawn(&mut self, events: &mut Events) -> BareSpawn {
        self.next();
        let name = &self.spec.name;
        let begun = At::now();
        self.runtime
            .block_on(async {
                self.engine.create(&self.spec).await?;
                self.engine.start(name).await?;
                self.engine.wait(name).await?;
                self.engine.remove(name).await
            })
            .unwrap();
        let first = std::fs::read_to_string(self.workspace.path().join("first")).unwrap();
        BareSpawn {
            begun,
            created: events.of("create", name),
            started: events.of("start", name),
            first: At(first.trim().parse().unwrap()),
        }
    }

    /// The whole lives of `count` containers that do what `script` says, each in a
    /// directory of its own, `at_once` of them at a time; gives their names.
    pub fn many(&mut self, count: usize, at_once: usize, script: &str) -> Vec<String> {
        let mut specs = Vec::new();
        for _ in 0..count {
            self.next();
            specs.push(self.with_door(script));
        }
        let names = specs.iter().map(|spec| spec.name.clone()).collect();
        let left = Mutex::new(specs);
        let one_by_one = || {
            let runtime = here();
            let engine = engine_of(&runtime);
            // The lock is free again before the container lives.
            let next = || left.lock().unwrap().pop();
            while let Some(spec) = next() {
                let life = async {
                    engine.create(&spec).await?;
                    engine.start(&spec.name).await?;
                    let exit = engine.wait(&spec.name).await?;
                    engine.remove(&spec.name).await?;
                    Ok::<_, RuntimeError>(exit)
                };
                let exit = runtime.block_on(life).unwrap();
                assert_eq!(exit.code, 0, "{}", spec.name);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(one_by_one);
            }
        });
        names
    }

    /// A container with an empty repository to push to in its directory.
    fn with_door(&self, script: &str) -> ContainerSpec {
        let dir = self.workspace.path().join(&self.spec.name);
        let door = dir.join("door.git");
        let [dir, door] = [dir, door].map(|path| path.to_str().unwrap().to_owned());
        command("git", &["init", "--quiet", "--bare", &door]);
        if rustix::process::getuid().is_root() {
            let owner = format!("{}:{}", self.spec.uid, self.spec.gid);
            command("chown", &["-R", &owner, &dir]);
        }
        let mut spec = self.spec.clone();
        let work = spec.mounts.iter_mut().find(|m| m.target == WORKSPACE);
        work.unwrap().source = dir;
        spec.argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        spec
    }

    /// Starts an engine in a work tree of `repo`, with the host's network, and waits
    /// in `asked` for its first request; gives when the container was started and
    /// when the engine was.
    pub fn engine(
        &mut self,
        repo: &Path,
        start: &Start,
        events: &mut Events,
        asked: impl FnOnce(),
    ) -> (At, At) {
        self.next();
        let tree = tempfile::tempdir_in(self.workspace.path()).unwrap();
        let [from, to] = [repo, tree.path()].map(|path| path.to_str().unwrap());
        command("git", &["clone", "--quiet", from, to]);
        if rustix::process::getuid().is_root() {
            let owner = format!("{}:{}", self.spec.uid, self.spec.gid);
            command("chown", &["-R", &owner, to]);
        }
        self.prepare(start);
        let mut spec = self.spec.clone();
        let work = spec.mounts.iter_mut().find(|m| m.target == WORKSPACE);
        to.clone_into(&mut work.unwrap().source);
        spec.env.extend(start.launch.env.clone());
        spec.argv = ["/bin/sh", "-c", ENGINE, "engine"]
            .map(str::to_owned)
            .to_vec();
        spec.argv.extend(start.launch.argv.clone());
        let created = create_args(&spec);
        docker(&created.iter().map(String::as_str).collect::<Vec<_>>());
        docker(&["start", &spec.name]);
        asked();
        docker(&["rm", "-f", &spec.name]);
        let began = std::fs::read_to_string(tree.path().join("began")).unwrap();
        let started = events.of("start", &spec.name);
        (started, At(began.trim().parse().unwrap()))
    }

    /// Writes what the engine reads, and the script that puts it in its place.
    fn prepare(&self, start: &Start) {
        let write = |name: &str, text: &str| {
            std::fs::write(self.run_dir.path().join(name), text).unwrap();
        };
        write("brief.md", &start.brief);
        write("system.md", &start.system);
        let mut script = String::new();
        for dir in &start.launch.dirs {
            script.push_str(&format!("mkdir -p '{dir}'\n"));
        }
        for (number, (path, text)) in start.launch.files.iter().enumerate() {
            let name = format!("file-{number}");
            write(&name, text);
            script.push_str(&format!("cp {RUN_DIR}/{name} '{path}'\n"));
        }
        write("prepare.sh", &script);
    }
}

/// Everything on this thread.
fn here() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn engine_of(runtime: &tokio::runtime::Runtime) -> DockerRuntime {
    let engine = runtime.block_on(async { DockerRuntime::new(connect().await?).await });
    engine.unwrap()
}

fn command(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}: {status}");
}

/// `docker create` for what the runtime makes of a spec, apart from the network:
/// the engine has to reach the model by itself.
fn create_args(spec: &ContainerSpec) -> Vec<String> {
    let (uid, gid, limits) = (spec.uid, spec.gid, &spec.limits);
    let cores = std::thread::available_parallelism().unwrap().get();
    let cpus = (limits.milli_cpus as f64 / 1000.0).min(cores as f64);
    let (program, arguments) = spec.argv.split_first().unwrap();
    let mut args = vec![
        "create".to_owned(),
        format!("--name={}", spec.name),
        format!("--label=factory.home={}", spec.owner.home),
        "--network=host".to_owned(),
        "--ipc=private".to_owned(),
        "--cap-drop=ALL".to_owned(),
        "--security-opt=no-new-privileges".to_owned(),
        "--read-only".to_owned(),
        format!("--memory={}", limits.memory),
        format!("--memory-swap={}", limits.memory),
        format!("--cpus={cpus}"),
        format!("--pids-limit={}", limits.pids),
        "--ulimit=nofile=16384:16384".to_owned(),
        "--ulimit=core=0:0".to_owned(),
        "--log-driver=local".to_owned(),
        format!("--user={uid}:{gid}"),
        format!("--workdir={}", spec.workdir),
        format!("--entrypoint={program}"),
    ];
    args.extend(spec.env.iter().map(|(k, v)| format!("--env={k}={v}")));
    args.extend(spec.mounts.iter().map(|mount| {
        let access = if mount.read_only { ",readonly" } else { "" };
        let (from, to) = (&mount.source, &mount.target);
        format!("--mount=type=bind,source={from},target={to}{access}")
    }));
    args.extend(spec.tmpfs.iter().map(|tmpfs| {
        let (to, size) = (&tmpfs.target, tmpfs.size);
        format!("--tmpfs={to}:rw,exec,nosuid,nodev,size={size},uid={uid},gid={gid},mode=0700")
    }));
    args.push(spec.image.clone());
    args.extend(arguments.iter().cloned());
    args
}

impl Drop for Bare {
    fn drop(&mut self) {
        let label = format!("label=factory.home={}", self.spec.owner.home);
        for id in docker(&["ps", "-aq", "--filter", &label]).lines() {
            docker(&["rm", "-f", id]);
        }
    }
}
