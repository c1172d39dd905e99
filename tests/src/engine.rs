//! What the container engine has, looked at by the `docker` command.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

/// Runs `docker` and gives what it prints.
pub fn docker(args: &[&str]) -> String {
    docker_at(None, args)
}

/// The same on the engine that `host` names, as in `DOCKER_HOST`.
pub(crate) fn docker_at(host: Option<&str>, args: &[&str]) -> String {
    let mut docker = Command::new("docker");
    docker.envs(host.map(|host| ("DOCKER_HOST", host)));
    let output = docker.args(args).output().unwrap();
    assert!(
        output.status.success(),
        "docker {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Containers and volumes that carry the label of one factory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leftovers {
    /// Container names.
    pub containers: Vec<String>,
    /// Volume names.
    pub volumes: Vec<String>,
}

impl Leftovers {
    /// What the engine has of the factory `home` now.
    pub fn of(home: &str) -> Self {
        Self::at(None, home)
    }

    pub(crate) fn at(host: Option<&str>, home: &str) -> Self {
        let label = format!("label=factory.home={home}");
        let lines = |text: String| text.lines().map(str::to_owned).collect();
        let containers = docker_at(
            host,
            &["ps", "-a", "--filter", &label, "--format", "{{.Names}}"],
        );
        // Volumes of ours would carry its name, with or without a label.
        let name = format!("name=factory-{home}");
        let volumes = docker_at(
            host,
            &["volume", "ls", "--filter", &name, "--format", "{{.Name}}"],
        );
        Self {
            containers: lines(containers),
            volumes: lines(volumes),
        }
    }

    pub(crate) fn remove(&self, host: Option<&str>) {
        for container in &self.containers {
            // Gone by now is as good as removed.
            if let Err(error) = Command::new("docker")
                .envs(host.map(|host| ("DOCKER_HOST", host)))
                .args(["rm", "-f", container])
                .stdout(Stdio::null())
                .output()
            {
                println!("cannot remove {container}: {error}");
            }
        }
    }
}

/// The engine's own record of one factory's containers while it is kept.
pub struct EventLog {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl EventLog {
    /// Records from now on: `<action> <container>` per line.
    pub fn of(home: &str) -> Self {
        let mut child = Command::new("docker")
            .args(["events", "--filter", "type=container"])
            .args(["--filter", &format!("label=factory.home={home}")])
            .args(["--format", "{{.Action}} {{.Actor.Attributes.name}}"])
            // Also what happened since the test began to ask.
            .args(["--since", "1s"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Self {
            child,
            lines,
            reader: Some(reader),
        }
    }

    /// Ends the record and gives its lines.
    pub fn end(mut self) -> Vec<String> {
        self.stop();
        std::mem::take(&mut *self.lines.lock().unwrap())
    }

    fn stop(&mut self) {
        if let Some(reader) = self.reader.take() {
            // It may have ended by itself.
            self.child.kill().ok();
            self.child.wait().unwrap();
            reader.join().unwrap();
        }
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.stop();
    }
}
