//! A container engine of a test's own, which may be killed, restarted and filled up.

use crate::engine::docker;
use crate::process::{Found, kill, processes};
use std::{
    fs::File,
    io::Read,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// containerd and dockerd with sockets, data and state of their own, in network,
/// process and mount namespaces of their own: when those end, so do its
/// containers, its mounts and its loop device, whoever was killed before.
pub struct OwnEngine {
    dir: tempfile::TempDir,
    /// `unshare`, which takes its first process, and with it all others, along.
    holder: Child,
    /// First process of the namespaces.
    inside: u32,
    /// `nsenter` of each daemon, which ends with it.
    entered: Vec<Child>,
}

/// How an engine is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct EngineSetup {
    /// Containers outlive dockerd.
    pub live_restore: bool,
    /// Its data lies on a file system of its own, of this many bytes.
    pub disk: Option<u64>,
}

impl OwnEngine {
    /// Makes and starts one. None, with the reason printed, where that is not possible.
    pub fn start(test: &str, setup: EngineSetup) -> Option<Self> {
        if std::env::var_os("FACTORY_NO_DOCKER").is_some() {
            println!("skipped: {test}: FACTORY_NO_DOCKER is set");
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            println!("skipped: {test}: an engine of the test's own needs root");
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("factory-engine-")
            .tempdir()
            .unwrap();
        // Says that it is there, then reaps whatever loses its parent.
        let first = "echo; while :; do sleep 1000 & wait; done";
        let mut holder = Command::new("setpriv")
            // Also when this test is killed.
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount"])
            .args(["--propagation", "slave", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", first, "first"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // It complains of signals that it cannot mask, and works all the same.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut there = [0];
        let mut out = holder.stdout.take().unwrap();
        out.read_exact(&mut there).unwrap();
        let inside = processes(dir.path()).into_iter();
        let inside = inside
            .filter(|process| process.command.starts_with("sh "))
            .map(|process| process.pid)
            .next()
            .unwrap_or_else(|| panic!("no namespaces: {:?}", holder.wait()));
        let mut engine = Self {
            dir,
            holder,
            inside,
            entered: Vec::new(),
        };
        engine.enter("mount", &["-t", "proc", "proc", "/proc"]);
        std::fs::create_dir(engine.path("data")).unwrap();
        if let Some(size) = setup.disk {
            let disk = engine.path("disk.img");
            File::create(&disk).unwrap().set_len(size).unwrap();
            let (disk, data) = (engine.text("disk.img"), engine.text("data"));
            engine.enter("mkfs.ext4", &["-q", "-m", "0", &disk]);
            engine.enter("mount", &["-o", "loop", &disk, &data]);
        }
        let config = format!(r#"{{"live-restore": {}}}"#, setup.live_restore);
        std::fs::write(engine.path("daemon.json"), config).unwrap();
        std::fs::write(engine.path("containerd.toml"), "version = 2\n").unwrap();
        engine.come_back();
        Some(engine)
    }

    /// What `DOCKER_HOST` is to be.
    pub fn host(&self) -> String {
        format!("unix://{}", self.text("docker.sock"))
    }

    /// A place of this engine.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Where its data lies, as the engine sees it.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The same, as this test sees it.
    pub fn data_from_here(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.inside);
        Path::new(&root).join(self.data().strip_prefix("/").unwrap())
    }

    /// Copies an image of the machine's engine, with the tagged ones that it is made of.
    pub fn copy_image(&self, image: &str) {
        let layers = |image: &str| {
            let format = "{{range .RootFS.Layers}}{{.}} {{end}}";
            docker(&["image", "inspect", "--format", format, image])
                .trim()
                .to_owned()
        };
        let whole = layers(image);
        let all = docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        let parts = all.lines().filter(|tag| {
            let tagged = tag.starts_with("factory-") && !tag.ends_with("<none>");
            // Another test's image may go meanwhile: it is none of ours then.
            tagged && find(tag) && whole.starts_with(&layers(tag))
        });
        let mut save = Command::new("docker")
            .arg("save")
            .args(parts)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let load = Command::new("docker")
            .args(["--host", &self.host(), "load", "--quiet"])
            .stdin(save.stdout.take().unwrap())
            .stdout(Stdio::null())
            .status();
        assert!(load.unwrap().success() && save.wait().unwrap().success());
    }

    /// SIGKILL to containerd and dockerd. Containers live on for now.
    pub fn kill(&mut self) {
        for daemon in self.daemons() {
            kill(daemon.pid);
        }
        for mut child in self.entered.drain(..) {
            child.wait().unwrap();
        }
    }

    /// Starts the daemons, and waits until they are ready.
    pub fn come_back(&mut self) {
        let at = |name: &str| self.text(name);
        let containerd = [
            "containerd".to_owned(),
            format!("--config={}", at("containerd.toml")),
            format!("--root={}", at("data/containerd")),
            format!("--state={}", at("containerd")),
            format!("--address={}", at("containerd.sock")),
        ];
        let dockerd = [
            "dockerd".to_owned(),
            format!("--config-file={}", at("daemon.json")),
            format!("--host=unix://{}", at("docker.sock")),
            format!("--data-root={}", at("data/docker")),
            format!("--exec-root={}", at("exec")),
            format!("--pidfile={}", at("docker.pid")),
            format!("--containerd={}", at("containerd.sock")),
            format!("--cgroup-parent={}", self.cgroup()),
            "--bridge=none".to_owned(),
            "--iptables=false".to_owned(),
            "--ip6tables=false".to_owned(),
        ];
        self.daemon(&containerd);
        self.daemon(&dockerd);
    }

    fn cgroup(&self) -> String {
        let name = self.dir.path().file_name().unwrap();
        format!("/{}", name.to_str().unwrap())
    }

    /// Its daemons that live.
    fn daemons(&self) -> Vec<Found> {
        let all = processes(self.dir.path()).into_iter();
        all.filter(|process| {
            let program = process.command.split(' ').next();
            matches!(program, Some("containerd" | "dockerd"))
        })
        .collect()
    }

    fn entering(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.inside.to_string()])
            .args(["--net", "--mount", "--pid", program])
            .stdin(Stdio::null());
        command
    }

    fn enter(&self, program: &str, arguments: &[&str]) {
        let status = self.entering(program).args(arguments).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}: {status}");
    }

    /// Starts a daemon and waits until it says that it is ready.
    fn daemon(&mut self, command: &[String]) {
        let name = &command[0];
        let notify = self.path(&format!("{name}.notify"));
        if notify.exists() {
            std::fs::remove_file(&notify).unwrap();
        }
        let ready = UnixDatagram::bind(&notify).unwrap();
        // Awake once a second, to see that the daemon still lives.
        ready
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let log = self.path(&format!("{name}.log"));
        let mut child = self
            .entering(name)
            .args(&command[1..])
            .env("NOTIFY_SOCKET", &notify)
            .stdout(File::create(&log).unwrap())
            .stderr(File::options().append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let mut message = [0_u8; 256];
        for _ in 0..90 {
            match ready.recv(&mut message) {
                Ok(length) if message[..length].starts_with(b"READY=1") => {
                    self.entered.push(child);
                    return;
                }
                Ok(_) => {}
                Err(_) if child.try_wait().unwrap().is_some() => break,
                Err(_) => {}
            }
        }
        self.entered.push(child);
        panic!(
            "{name} is not ready:\n{}",
            std::fs::read_to_string(&log).unwrap()
        );
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        kill(self.inside);
        // `unshare` ends with its child, each `nsenter` with its daemon.
        for child in self.entered.iter_mut().chain([&mut self.holder]) {
            if let Err(error) = child.wait() {
                eprintln!("cannot wait for the end of an engine: {error}");
            }
        }
        // Nothing is in them any more; the deepest first.
        for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten() {
            let top = controller.map(|c| c.path()).unwrap_or_default();
            remove_groups(&top.join(self.cgroup().trim_start_matches('/')));
        }
        remove_groups(&Path::new("/sys/fs/cgroup").join(self.cgroup().trim_start_matches('/')));
    }
}

/// True where the machine's engine has the image.
fn find(image: &str) -> bool {
    let mut inspect = Command::new("docker");
    inspect.args(["image", "inspect", image]);
    let found = inspect.stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.unwrap().success()
}

/// Removes a control group with those below it, where there is one.
fn remove_groups(group: &Path) {
    for below in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&below.path());
        }
    }
    match std::fs::remove_dir(group) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            eprintln!("cannot remove {}: {error}", group.display());
        }
        _ => {}
    }
}
