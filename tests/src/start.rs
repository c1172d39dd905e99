//! `factory start` as a child whose every line is heard.

use crate::{
    lab::Lab,
    process::{Found, kill, parent, processes, reap},
};
use factory_core::state::State;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

/// Nothing that a test waits for takes longer; not a pause, only the point where it gives up.
pub(crate) const LONGEST: Duration = Duration::from_secs(240);

/// A running `factory start`.
pub struct Start<'a> {
    lab: &'a Lab,
    child: Child,
    heard: Receiver<String>,
    /// Every line so far, of both outputs.
    pub lines: Vec<String>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code of the launcher.
    pub code: i32,
    /// Every line of both outputs.
    pub lines: Vec<String>,
}

impl Ended {
    /// All lines as one text.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }
}

fn listen(from: impl Read + Send + 'static, to: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            // Nobody listens any more: the test is over.
            to.send(String::from_utf8_lossy(&line).into_owned()).ok();
        }
    });
}

impl<'a> Start<'a> {
    pub(crate) fn new(lab: &'a Lab, mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, heard) = channel();
        listen(child.stdout.take().unwrap(), to.clone());
        listen(child.stderr.take().unwrap(), to);
        Self {
            lab,
            child,
            heard,
            lines: Vec::new(),
        }
    }

    /// The next line; none once every process that holds the outputs has ended.
    fn hear(&mut self, deadline: Instant, what: &str) -> bool {
        use std::sync::mpsc::RecvTimeoutError;
        let left = deadline.saturating_duration_since(Instant::now());
        match self.heard.recv_timeout(left) {
            Ok(line) => {
                self.lines.push(line);
                true
            }
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => panic!(
                "waited {LONGEST:?} for {what}; heard:\n{}",
                self.lines.join("\n")
            ),
        }
    }

    /// Waits for a line that holds `text`, said before or from now on; gives it.
    pub fn line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LONGEST;
        loop {
            if let Some(line) = self.lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            assert!(
                self.hear(deadline, text),
                "it ended without saying `{text}`:\n{}",
                self.lines.join("\n")
            );
        }
    }

    /// Waits for the next failpoint that is reached and gives its name; none
    /// when everything ended before one was.
    pub fn failpoint(&mut self) -> Option<String> {
        let deadline = Instant::now() + LONGEST;
        let heard = self.lines.len();
        loop {
            let reached = self.lines[heard..]
                .iter()
                .find_map(|line| line.strip_prefix("failpoint ")?.strip_suffix(" reached"));
            if let Some(name) = reached {
                return Some(name.to_owned());
            }
            if !self.hear(deadline, "a failpoint, or the end") {
                return None;
            }
        }
    }

    /// Waits until the state is as asked: looked at again at every line.
    pub fn until(&mut self, what: &str, asked: impl Fn(&State) -> bool) -> State {
        let deadline = Instant::now() + LONGEST;
        loop {
            if let Some(state) = self.lab.state_now().filter(&asked) {
                return state;
            }
            assert!(
                self.hear(deadline, what),
                "it ended before {what}:\n{}",
                self.lines.join("\n")
            );
        }
    }

    /// The process of one role (`kernel`, `gateway`) of this factory.
    pub fn process(&self, role: &str) -> Found {
        let all = processes(self.lab.repo());
        let named = all.iter().filter(|p| p.is(role));
        // A child that it has just forked bears its name until it becomes another program.
        let is_fork = |p: &Found| {
            let parent = parent(p.pid);
            parent.is_none() || all.iter().any(|q| q.is(role) && Some(q.pid) == parent)
        };
        let found: Vec<_> = named.filter(|p| !is_fork(p)).collect();
        assert_eq!(found.len(), 1, "one {role} among {all:?}");
        found[0].clone()
    }

    /// Sends the launcher an interrupt, as Ctrl-C would.
    pub fn interrupt(&self) {
        self.signal("start", Signal::INT);
    }

    /// Sends the launcher a hang-up, as a terminal that goes away would, and waits
    /// for its end; gives its exit code. Kernel and gateway go on.
    pub fn hang_up(&mut self) -> i32 {
        self.signal("start", Signal::HUP);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Sends a signal to the launcher (`start`) or to the process of another role.
    pub fn signal(&self, role: &str, signal: Signal) {
        let pid = match role {
            "start" => Pid::from_child(&self.child),
            _ => Pid::from_raw(self.process(role).pid.try_into().unwrap()).unwrap(),
        };
        kill_process(pid, signal).unwrap();
    }

    /// SIGKILL to the process of one role; the launcher lives on.
    pub fn kill(&self, role: &str) {
        kill(self.process(role).pid);
    }

    /// Waits for its end: of the launcher and of everything that shares its outputs.
    pub fn ended(mut self) -> Ended {
        // As long as it says something it goes on, however much there is to do; not for ever.
        let last = Instant::now() + 5 * LONGEST;
        while self.hear(last.min(Instant::now() + LONGEST), "its end") {}
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        println!("{}\n-- exit {code}", self.lines.join("\n"));
        Ended {
            code,
            lines: self.lines,
        }
    }

    /// SIGKILL to the launcher, then to the kernel; gateway and containers live on.
    pub fn kill_launcher_and_kernel(self) -> Vec<String> {
        self.kill_with(&["kernel"])
    }

    /// SIGKILL to launcher, kernel and gateway; containers live on.
    pub fn kill_all(self) -> Vec<String> {
        self.kill_with(&["kernel", "gateway"])
    }

    /// SIGKILL to launcher and gateway; kernel and containers live on.
    pub fn kill_launcher_and_gateway(self) -> Vec<String> {
        self.kill_with(&["gateway"])
    }

    fn kill_with(mut self, roles: &[&str]) -> Vec<String> {
        let found: Vec<_> = roles.iter().map(|role| self.process(role)).collect();
        self.child.kill().unwrap();
        for process in &found {
            kill(process.pid);
        }
        self.child.wait().unwrap();
        for process in &found {
            reap(process.pid);
        }
        if roles.contains(&"kernel") && roles.contains(&"gateway") {
            // Nobody is left to say more: what was said is heard to its end.
            let deadline = Instant::now() + LONGEST;
            while self.hear(deadline, "the end of what was said") {}
        }
        println!("{}\n-- killed", self.lines.join("\n"));
        self.lines
    }
}
