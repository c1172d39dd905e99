//! The same attack in the same container with exactly one wall less. It must get through:
//! else its judge could not see that it does.

use crate::{
    attack::{Attack, Held, Limit, Scene, Wall},
    stage::{OTHER_RUN, Stage, go_on, host, open_to_all, other_lives, place_file, waits},
    witness::NaiveDoor,
};
use bollard::{
    models::{
        ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, ResourcesUlimits,
    },
    query_parameters::CreateContainerOptionsBuilder,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::Ordering::SeqCst, mpsc::channel},
    time::Duration,
};

/// Where the control's own repository is in the container.
const ORIGIN: &str = "/factory/origin.git";
/// How often it is looked whether an attack waits or is over.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Memory where its limit is taken away: bounded still.
const MORE_MEMORY: i64 = 512 << 20;

/// What root is given where an attack is to have rights; not all, since some engines lack some.
const RIGHTS: [&str; 10] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "MKNOD",
    "NET_RAW",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_CHROOT",
    "SYS_NICE",
];

/// What is mounted into a control, on the host.
struct Props {
    ws: PathBuf,
    run: PathBuf,
    base: PathBuf,
    origin: PathBuf,
    user_git: PathBuf,
}

/// Plays the attack without its wall.
pub fn play<'a>(stage: &'a Stage, attack: &Attack) -> Scene<'a> {
    let props = Props::lay_out(stage, attack);
    fs::remove_file(stage.host().join("drop").join(attack.name)).ok();
    stage.heard.take(attack.name);
    let root = props.user_git.join("factory");
    let door = NaiveDoor::at(&props.run.join("gw.sock"), root.clone());
    let other = matches!(attack.wall, Wall::OwnProcesses | Wall::OwnMemory)
        .then(|| stage.other_container(attack.name));
    let name = format!("{}-control-{}", stage.network, attack.name);
    stage.will_remove(&name);
    let body = without(stage, attack, &props, other.as_deref());
    let docker = &stage.engine;
    stage.runtime.block_on(async {
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        docker.create_container(Some(options), body).await.unwrap();
        docker.start_container(&name, None).await.unwrap();
    });
    let held = watch(stage, attack, &name, &props, &door);
    let logs = Command::new("docker")
        .args(["logs", &name])
        .output()
        .unwrap();
    let other_lives = other.is_none_or(|other| other_lives(&other));
    host("docker", &["rm", "--force", &name]);
    Scene {
        name: attack.name,
        said: String::from_utf8_lossy(&logs.stdout).into_owned()
            + &String::from_utf8_lossy(&logs.stderr),
        kept: door.kept.load(SeqCst) as u64,
        heard: stage.heard.take(attack.name),
        held,
        secrets: &stage.secrets,
        host: stage.host(),
        factory: root,
        user_git: props.user_git,
        stores: vec![props.origin],
        base: props.base,
        other_lives,
        lab: &stage.lab,
    }
}

/// Waits for its end, and looks at it whenever it waits.
fn watch(
    stage: &Stage,
    attack: &Attack,
    name: &str,
    props: &Props,
    door: &Arc<NaiveDoor>,
) -> Vec<Held> {
    let mut all = Vec::new();
    // Nobody ever sends: this is the pause between two looks.
    let (_keep, never) = channel::<()>();
    while stage.lives(name) {
        if waits(&props.ws) {
            let mut held = stage.measured(name).unwrap();
            held.look_at(&props.ws, &props.run);
            held.connections = door.open.load(SeqCst);
            held.reports = door.taken.load(SeqCst);
            held.refs = stage.lab.looked(&props.origin, &["for-each-ref"]);
            if attack.wall == Wall::Removal {
                // Nor this.
                let ws = props.ws.join(".git/left");
                host(
                    "find",
                    &["-L", ws.to_str().unwrap(), "-type", "f", "-delete"],
                );
            }
            if attack.wall == Wall::HostGit {
                // The very thing that the factory never does.
                let ws = props.ws.to_str().unwrap();
                let git = Command::new("git")
                    .args(["-c", "safe.directory=*", "-C", ws, "status"])
                    .output();
                git.unwrap();
            }
            all.push(held);
            go_on(&props.ws);
        }
        never.recv_timeout(LOOK_EVERY).ok();
    }
    all
}

impl Props {
    fn lay_out(stage: &Stage, attack: &Attack) -> Self {
        let dir = stage.host().join("control").join(attack.name);
        let props = Self {
            ws: dir.join("ws"),
            run: dir.join("run"),
            base: dir.join("base.git"),
            origin: dir.join("origin.git"),
            user_git: dir.join("user.git"),
        };
        fs::create_dir_all(&props.run).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let user = text(stage.lab.repo());
        let all = attack.wall == Wall::TargetOnly;
        for (repository, whole) in [
            (&props.base, all),
            (&props.origin, all),
            (&props.user_git, true),
        ] {
            let from = format!("{user}/.git");
            if whole {
                fs::create_dir(repository).unwrap();
                for part in ["HEAD", "config", "objects", "refs"] {
                    host("cp", &["-r", &format!("{from}/{part}"), &text(repository)]);
                }
                host(
                    "git",
                    &[
                        "--git-dir",
                        &text(repository),
                        "config",
                        "core.bare",
                        "true",
                    ],
                );
            } else {
                let clone = [
                    "clone",
                    "--quiet",
                    "--bare",
                    "--no-local",
                    "--single-branch",
                ];
                host(
                    "git",
                    &[
                        &clone[..],
                        &[
                            "-c",
                            "safe.directory=*",
                            "--branch=main",
                            &from,
                            &text(repository),
                        ],
                    ]
                    .concat(),
                );
            }
        }
        let any = ["config", "uploadpack.allowAnySHA1InWant", "true"];
        host(
            "git",
            &[&["--git-dir", &text(&props.origin)][..], &any].concat(),
        );
        let other = text(&stage.host().join("other.git"));
        let work = format!("main:refs/namespaces/{OTHER_RUN}/refs/heads/work");
        host(
            "git",
            &[
                // Nothing that comes and goes while its owner is changed.
                "-c",
                "maintenance.auto=false",
                "--git-dir",
                &text(&props.origin),
                "fetch",
                "--quiet",
                &other,
                &work,
            ],
        );
        host(
            "git",
            &[
                "clone",
                "--quiet",
                "--no-local",
                &text(&props.origin),
                &text(&props.ws),
            ],
        );
        let branch = format!("factory/1-{}", attack.name);
        for args in [
            &["remote", "set-url", "origin", ORIGIN][..],
            &["switch", "--quiet", "--create", &branch, "main"],
        ] {
            host("git", &[&["-C", &text(&props.ws)][..], args].concat());
        }
        let mut places = stage.places.clone();
        places.insert("METADATA", stage.gateway.clone());
        places.insert("METADATA_PORT", places["PORT"].clone());
        places.insert(
            "RESOLVES",
            format!("{}-control-{}", stage.network, attack.name),
        );
        // Nobody measures its disk, so nobody needs time for it.
        places.insert("STAYS", "1".to_owned());
        fs::write(props.ws.join("attacks/place.sh"), place_file(&places)).unwrap();
        for file in ["run.yaml", "brief.md", "system.md"] {
            fs::write(props.run.join(file), "told\n").unwrap();
        }
        fs::write(props.run.join("passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        let factory = props.user_git.join("factory");
        for folder in ["state.git/refs", "run/r9999-1", "ws/r9999-1"] {
            fs::create_dir_all(factory.join(folder)).unwrap();
        }
        for file in ["secret", "ws/r9999-1/secret"] {
            fs::write(factory.join(file), &stage.secrets.beside).unwrap();
        }
        stage.heard.on_path(&factory.join("run/r9999-1/gw.sock"));
        NaiveDoor::at(&factory.join("kernel.sock"), factory.clone());
        open_to_all(&dir);
        if let Some(user) = stage.template().config.and_then(|config| config.user)
            && rustix::process::getuid().is_root()
        {
            host("chown", &["-R", &user, &text(&dir)]);
        }
        props
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: source.to_str().map(str::to_owned),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

/// The container of a run, but for what its wall is made of.
fn without(
    stage: &Stage,
    attack: &Attack,
    props: &Props,
    other: Option<&str>,
) -> ContainerCreateBody {
    let template = stage.template();
    let config = template.config.unwrap();
    let mut host = template.host_config.unwrap();
    let mut user = config.user;
    let mut env = config.env.unwrap_or_default();
    // The control's repositories are no user's of the container where that is root.
    env.extend(
        [
            "GIT_CONFIG_COUNT=1",
            "GIT_CONFIG_KEY_0=safe.directory",
            "GIT_CONFIG_VALUE_0=*",
        ]
        .map(str::to_owned),
    );
    let mut mounts = vec![
        bind(&props.ws, "/workspace", false),
        bind(&props.run, "/run/factory", attack.wall != Wall::ReadOnlyRun),
        bind(
            &props.base,
            "/factory/base.git",
            attack.wall != Wall::ReadOnlyBase,
        ),
        bind(
            &props.run.join("passwd"),
            "/etc/passwd",
            attack.wall != Wall::ReadOnlyRun,
        ),
        bind(&props.origin, ORIGIN, false),
    ];
    let other = other.map(|name| format!("container:{name}"));
    match attack.wall {
        Wall::NoNetwork => host.network_mode = Some(stage.network.clone()),
        Wall::OwnNetwork => host.network_mode = Some("host".to_owned()),
        Wall::OwnProcesses => host.pid_mode = other,
        Wall::OwnMemory => host.ipc_mode = other,
        Wall::Mounts => {
            mounts.push(bind(stage.host(), stage.host().to_str().unwrap(), false));
            mounts.push(bind(&props.user_git, &stage.places["USER_GIT"], false));
        }
        Wall::NoEngine => mounts.push(bind(&props.run.join("gw.sock"), "/run/docker.sock", false)),
        Wall::ReadOnlyImage => host.readonly_rootfs = Some(false),
        Wall::Unprivileged => {
            user = Some("0:0".to_owned());
            host.cap_drop = None;
            host.cap_add = Some(RIGHTS.map(str::to_owned).to_vec());
            secured(&mut host).push("apparmor=unconfined".to_owned());
        }
        Wall::NoNewPrivileges => secured(&mut host).retain(|option| !option.starts_with("no-new")),
        Wall::SystemCalls => secured(&mut host)
            .extend(["seccomp=unconfined", "apparmor=unconfined"].map(str::to_owned)),
        Wall::NoKey => env.push(format!("MODEL_KEY={}", stage.secrets.key)),
        Wall::Limit(Limit::Memory) => more_memory(&mut host),
        Wall::Limit(Limit::Processes) => host.pids_limit = Some(500),
        Wall::Limit(Limit::Processors) => host.nano_cpus = None,
        Wall::Limit(Limit::Files) => {
            host.ulimits = Some(vec![ResourcesUlimits {
                name: Some("nofile".to_owned()),
                soft: Some(19_000),
                hard: Some(19_000),
            }]);
        }
        Wall::Limit(Limit::Scratch) => {
            more_memory(&mut host);
            for (target, options) in host.tmpfs.iter_mut().flatten() {
                if target == "/tmp" {
                    let size = |option: &str| match option.starts_with("size=") {
                        true => format!("size={}", 224 << 20),
                        false => option.to_owned(),
                    };
                    *options = options.split(',').map(size).collect::<Vec<_>>().join(",");
                }
            }
        }
        Wall::Limit(Limit::Disk) => {
            let of_files = |limit: &ResourcesUlimits| limit.name.as_deref() == Some("fsize");
            host.ulimits.iter_mut().for_each(|all| all.retain(|limit| !of_files(limit)));
        }
        Wall::Limit(Limit::Log) => {
            host.log_config = Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: None,
            });
        }
        // Held by pid 1, which is the attack itself here.
        Wall::Limit(Limit::Time)
        // Pid 1 is the attack itself here, and nothing of it is hidden.
        | Wall::ShieldedAgent
        // Taken away by what is mounted: another store, a repository without rules, a
        // door without rules.
        | Wall::ReadOnlyRun | Wall::ReadOnlyBase | Wall::TargetOnly | Wall::Pushes | Wall::Door
        // Taken away by who looks.
        | Wall::HostGit | Wall::Removal | Wall::Shown => {}
    }
    host.mounts = Some(mounts);
    let program = ["bash", "attacks/run.sh", attack.name];
    ContainerCreateBody {
        image: config.image,
        entrypoint: Some(program.map(str::to_owned).to_vec()),
        env: Some(env),
        working_dir: config.working_dir,
        user,
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

fn secured(host: &mut HostConfig) -> &mut Vec<String> {
    host.security_opt.get_or_insert_default()
}

fn more_memory(host: &mut HostConfig) {
    host.memory = Some(MORE_MEMORY);
    host.memory_swap = Some(MORE_MEMORY);
}
