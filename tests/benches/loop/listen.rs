//! Moments by the wall clock, which host, engine and containers share, and
//! processes whose lines are heard with the moment of each.

use factory_tests::{Lab, processes};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::{Duration, Instant},
};

/// Where a measurement gives up.
const LONGEST: Duration = Duration::from_secs(240);

/// A moment, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(pub i128);

impl At {
    /// This moment.
    pub fn now() -> Self {
        Self(Timestamp::now().as_nanosecond())
    }

    /// So much later.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0 + i128::try_from(time.as_nanos()).unwrap())
    }

    /// Milliseconds since an earlier moment.
    pub fn since(self, earlier: Self) -> f64 {
        (self.0 - earlier.0) as f64 / 1e6
    }
}

/// Lines of a process with the moments at which they were read.
pub struct Lines {
    heard: Receiver<(At, String)>,
    all: Vec<(At, String)>,
}

impl Lines {
    /// Listens to the outputs that a child was given as pipes.
    fn of(child: &mut Child) -> Self {
        let (to, heard) = channel();
        if let Some(out) = child.stdout.take() {
            listen(out, to.clone());
        }
        if let Some(err) = child.stderr.take() {
            listen(err, to);
        }
        Self {
            heard,
            all: Vec::new(),
        }
    }

    /// The first line of all that `pick` takes, heard before or waited for.
    pub fn find<T>(&mut self, what: &str, pick: impl Fn(At, &str) -> Option<T>) -> T {
        let deadline = Instant::now() + LONGEST;
        let mut next = 0;
        loop {
            for (at, line) in &self.all[next..] {
                if let Some(found) = pick(*at, line) {
                    return found;
                }
            }
            next = self.all.len();
            let left = deadline.saturating_duration_since(Instant::now());
            match self.heard.recv_timeout(left) {
                Ok(line) => self.all.push(line),
                Err(error) => panic!("{what}: {error}; heard:\n{}", self.text()),
            }
        }
    }

    /// When a line with this text was said.
    pub fn said(&mut self, text: &str) -> At {
        self.find(text, |at, line| line.contains(text).then_some(at))
    }

    /// Waits until nothing was said for so long.
    pub fn quiet(&mut self, time: Duration) {
        loop {
            match self.heard.recv_timeout(time) {
                Ok(line) => self.all.push(line),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => panic!("ended; heard:\n{}", self.text()),
            }
        }
    }

    /// Lets time pass in which nothing may be said.
    pub fn silence(&mut self, time: Duration) {
        match self.heard.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok((_, line)) => panic!("said `{line}` where nothing is to do"),
            Err(RecvTimeoutError::Disconnected) => panic!("ended; heard:\n{}", self.text()),
        }
    }

    fn text(&self) -> String {
        self.all
            .iter()
            .map(|(_, line)| format!("{line}\n"))
            .collect()
    }
}

fn listen(from: impl Read + Send + 'static, to: Sender<(At, String)>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            // Nobody listens any more: the measurement is over.
            to.send((At::now(), String::from_utf8_lossy(&line).into_owned()))
                .ok();
        }
    });
}

/// A running `factory start`. The lab ends what its launcher leaves behind.
pub struct Running {
    child: Child,
    /// What it prints.
    pub lines: Lines,
}

impl Running {
    /// Starts the lab's factory and waits until its kernel has nothing to do.
    pub fn start(lab: &Lab) -> Self {
        let mut running = Self::begin(lab);
        running.lines.said("kernel:running");
        running
    }

    /// Starts the lab's factory.
    pub fn begin(lab: &Lab) -> Self {
        let mut child = lab
            .factory()
            .arg("start")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Lines::of(&mut child);
        Self { child, lines }
    }

    /// Ends it in order.
    pub fn stop(mut self, lab: &Lab) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}:\n{}", self.lines.text());
        assert_eq!(processes(lab.repo()), [], "processes are left");
    }

    /// Waits for the end that somebody asked for.
    pub fn ended(mut self, lab: &Lab) {
        self.child.wait().unwrap();
        assert_eq!(processes(lab.repo()), [], "processes are left");
    }

    /// SIGKILL to the launcher, then to processes of these roles.
    pub fn killed(mut self, lab: &Lab, roles: &[&str]) {
        let all = processes(lab.repo());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        for role in roles {
            let found = all.iter().find(|process| process.is(role));
            let found = found.unwrap_or_else(|| panic!("no {role} among {all:?}"));
            let pid = Pid::from_raw(i32::try_from(found.pid).unwrap()).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
            // The lab made this process the parent of orphans.
            waitpid(Some(pid), WaitOptions::empty()).unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where a measurement broke off, before the lab ends what it started.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The engine's own record of containers.
pub struct Events {
    child: Child,
    lines: Lines,
}

impl Events {
    /// Records from now on.
    pub fn record() -> Self {
        let since = Timestamp::now().as_second().to_string();
        let mut child = Command::new("docker")
            .args(["events", "--filter", "type=container", "--since", &since])
            .args([
                "--format",
                "{{.TimeNano}} {{.Action}} {{.Actor.Attributes.name}}",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Lines::of(&mut child);
        Self { child, lines }
    }

    /// When the engine had done this with the container.
    pub fn of(&mut self, action: &str, container: &str) -> At {
        let wanted = format!("{action} {container}");
        self.lines.find(&wanted, |_, line| {
            let (at, rest) = line.split_once(' ')?;
            (rest == wanted).then(|| At(at.parse().unwrap()))
        })
    }
}

/// The life of one container.
pub struct Span {
    /// The engine made it,
    pub created: At,
    /// and removed it.
    pub gone: At,
}

impl Events {
    /// The lives of all containers of the factory that these are of, once these are gone.
    pub fn spans(&mut self, names: &[String]) -> Vec<Span> {
        let (prefix, _) = names[0].rsplit_once("-r").unwrap();
        for name in names {
            self.of("destroy", name);
        }
        let mut made = BTreeMap::new();
        let mut spans = Vec::new();
        for (_, line) in &self.lines.all {
            let mut words = line.split(' ');
            let (Some(at), Some(action), Some(name)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let at = At(at.parse().unwrap());
            if !name.starts_with(prefix) {
                continue;
            }
            match action {
                "create" => {
                    made.insert(name, at);
                }
                "destroy" => {
                    spans.extend(made.remove(name).map(|created| Span { created, gone: at }))
                }
                _ => {}
            }
        }
        assert!(made.is_empty(), "not removed: {made:?}");
        spans
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
