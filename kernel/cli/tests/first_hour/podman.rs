//! Podman's Docker-compatible socket: the door probe, a check, and a whole job.

use crate::{
    OWN_COMMAND, has_agent,
    lab::{Ended, Lab},
    network,
};
use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A service of the test's own, with images and containers of its own.
struct Podman {
    dir: PathBuf,
    service: Child,
}

impl Podman {
    fn start(dir: PathBuf) -> Self {
        std::fs::create_dir(&dir).unwrap();
        let socket = format!("unix://{}", dir.join("sock").display());
        let mut service = Self::command(&dir);
        service.args(["system", "service", "--time=0", &socket]);
        let service = service
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let podman = Self { dir, service };
        let until = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(podman.dir.join("sock")).is_err() {
            assert!(Instant::now() < until, "Podman does not listen");
            std::thread::park_timeout(Duration::from_millis(50));
        }
        podman
    }

    fn command(dir: &Path) -> Command {
        let mut command = Command::new("podman");
        command
            .args(["--storage-driver", "vfs", "--root"])
            .arg(dir.join("root"))
            .arg("--runroot")
            .arg(dir.join("run"));
        command
    }

    fn host(&self) -> String {
        format!("unix://{}", self.dir.join("sock").display())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let killed = self.service.kill().and_then(|()| self.service.wait());
        let removed = Self::command(&self.dir)
            .args(["rm", "--all", "--force"])
            .output();
        println!("ended: {killed:?}, {removed:?}");
    }
}

#[test]
fn podmans_socket_goes_through_the_door() {
    let test = "podmans_socket_goes_through_the_door";
    let is_there = Command::new("podman").arg("--version").output().is_ok();
    if !is_there || !rustix::process::geteuid().is_root() || !has_agent(test) {
        println!("skipped: {test}: no Podman, or not root");
        return;
    }
    let lab = Lab::new();
    let podman = Podman::start(lab.path("podman"));
    let yaml = format!("{OWN_COMMAND}limits: {{memory: 512MiB}}\n");
    let yaml = yaml.replace(
        "[\"true\"]\nlimits",
        "[\"echo seen; test -w /state\"]\nlimits",
    );
    let dir = lab.repo("repo", &[("factory.yaml", &yaml)]);
    let run = |args: &[&str]| -> Ended {
        let host = podman.host();
        let mut env = network();
        env.push(("DOCKER_HOST", host.as_str()));
        let ended = lab.factory(&dir, args, &env);
        println!("{args:?}: {ended:?}");
        ended
    };
    assert_eq!(run(&["image", "build"]).code, 0);
    let doctor = run(&["doctor"]);
    assert!(
        doctor.out.contains("ok       docker        Podman "),
        "{doctor:?}"
    );
    assert!(doctor.out.contains("ok       door"), "{doctor:?}");
    assert_eq!(doctor.code, 0, "{doctor:?}");
    let tried = run(&["init", "--try"]);
    assert!(tried.out.contains("seen\n"), "{tried:?}");
    assert_eq!(tried.code, 0, "{tried:?}");

    let agent = "cat >/dev/null; echo hi >hi.txt; git add hi.txt; git commit -qm Hi; git push -q";
    let engine = format!("[\"sh\", \"-c\", \"{agent}\"]");
    let yaml = yaml
        .replace("[\"true\"]", &engine)
        .replace("test -w", "test -e hi.txt -a -w");
    std::fs::write(
        dir.join("factory.yaml"),
        format!("{yaml}gates: {{issues: auto, merge: auto}}\n"),
    )
    .unwrap();
    lab.git(&dir, &["add", "--all"]);
    lab.git(&dir, &["commit", "--quiet", "-m", "An engine that works"]);
    assert_eq!(run(&["issue", "new", "--title", "Say hi"]).code, 0);
    assert_eq!(run(&["start", "--until-idle"]).code, 0);
    assert_eq!(lab.git(&dir, &["show", "main:hi.txt"]), "hi\n");
    lab.nothing_half_made(&dir.join(".git"));
}
