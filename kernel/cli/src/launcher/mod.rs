//! The launcher: starts kernel and gateway as siblings, hands the gateway its
//! keys, forwards signals, restarts a child that died, ends with the kernel's code.
//!
//! No git, no sockets. It holds the model keys for its life, so that it can
//! restart the gateway; no other process gets them.

mod environment;

use crate::{
    clock,
    failure::{Class, Failure, INTERRUPTED},
    keys, views, wait,
};
use environment::Keyrings;
use factory_gateway::keys::file::{COMMAND, KeyFile};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret;
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use std::{
    cell::Cell,
    ffi::{OsStr, OsString},
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Variable that tells a kernel how often its launcher was asked to end before it.
pub const ASKED_TO_END: &str = "FACTORY_ASKED_TO_END";
/// Variable that names one `factory start` to its kernels: another never has the same.
pub const THIS_START: &str = "FACTORY_START";
/// A child that dies again within this time is restarted more slowly.
const STABLE: Duration = Duration::from_secs(60);
/// Longest wait before a restart.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Starts the factory and stays until its kernel ends; gives the kernel's exit code.
/// `passed_on` are the arguments of `start`, handed to the kernel as they are; `file` is what the
/// user's `keys.env` says.
pub fn launch(directory: &OsString, passed_on: &[OsString], file: KeyFile) -> Result<u8, Failure> {
    let rings = Keyrings::read();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD])?;
    // Remote, image and door probe first: they need the user's way to the network, and nobody after them does.
    // It is told which keys there are, not what they are.
    let names = rings.model_keys.keys().chain(file.keys.keys());
    let names = names.map(String::as_str).collect::<Vec<_>>().join(",");
    let key_command = file
        .command
        .as_ref()
        .map_or("", ExposeSecret::expose_secret);
    let (mut told, tells) = std::io::pipe()?;
    let mut prepare = command(
        "prepare",
        passed_on,
        &[&rings.plain, &rings.network, &rings.others],
    );
    let prepared = prepare
        .env(keys::NAMES, &names)
        .env(COMMAND, key_command)
        .stdin(tells)
        .spawn()?;
    // With it goes our end of the pipe for writing.
    drop(prepare);
    // What stands in the file is read by the gateway again, whenever it changes.
    drop(file);
    let (prepared, asked_to_end) = attend(&mut Kept::new(prepared), &mut signals)?;
    if !prepared.success() {
        return Ok(match prepared.code() {
            // Before it could listen.
            None if asked_to_end => INTERRUPTED,
            _ => code_of(prepared),
        });
    }
    if asked_to_end {
        return Ok(INTERRUPTED);
    }
    let mut lock = Vec::new();
    told.read_to_end(&mut lock)?;
    // It was prepare's until now, and is ours as long as we live.
    let pid = std::process::id();
    let since = clock::now().0;
    let _start_lock = wait::take(Path::new(OsStr::from_bytes(&lock)), pid, since)?;
    let this_start = format!("{since}-{pid}");
    // How often it was asked to end, for a kernel that follows one that died.
    let asked = Cell::new(0_u32);
    let start_kernel = || {
        command("kernel", passed_on, &[&rings.plain])
            .env(keys::NAMES, &names)
            .env(ASKED_TO_END, asked.get().to_string())
            .env(THIS_START, &this_start)
            .process_group(0)
            .spawn()
    };
    let start_gateway = || -> std::io::Result<Child> {
        let mut child = command(
            "gateway",
            &["--directory".into(), directory.clone()],
            &[&rings.plain, &rings.network],
        )
        .process_group(0)
        .stdin(Stdio::piped())
        .spawn()?;
        if let Some(stdin) = child.stdin.take() {
            keys::hand_over(&rings.model_keys, stdin)?;
        }
        Ok(child)
    };
    let mut gateway = Kept::new(start_gateway()?);
    let mut kernel = Kept::new(start_kernel()?);
    loop {
        for signal in signals.wait() {
            match signal {
                // The terminal went away: the others go on without us.
                SIGHUP => return Ok(0),
                SIGINT | SIGTERM => {
                    asked.set(asked.get() + 1);
                    kernel.signal(Signal::TERM)?;
                }
                _ => {}
            }
        }
        if let Some(status) = kernel.ended()? {
            // One that was asked to end before it could listen is not started again.
            let deaf = asked.get() > 0 && status.signal() == Some(SIGTERM);
            if let Some(code) = in_order(status).or(deaf.then_some(INTERRUPTED)) {
                gateway.signal(Signal::TERM)?;
                gateway.child.wait()?;
                return Ok(code);
            }
            views::aside(&format!(
                "factory: the kernel died ({status}); starting it again"
            ));
            kernel.again(start_kernel)?;
        }
        if let Some(status) = gateway.ended()? {
            views::aside(&format!(
                "factory: the gateway ended ({status}); starting it again"
            ));
            gateway.again(start_gateway)?;
        }
    }
}

/// What a gateway that is started from here would have in its environment.
pub fn of_gateway() -> Vec<(OsString, OsString)> {
    let rings = Keyrings::read();
    rings.plain.into_iter().chain(rings.network).collect()
}

/// Waits for a child, handing on what asks it to end. Tells whether anything did.
fn attend(child: &mut Kept, signals: &mut Signals) -> Result<(ExitStatus, bool), Failure> {
    let mut asked_to_end = false;
    loop {
        for signal in signals.wait() {
            if matches!(signal, SIGINT | SIGTERM) {
                asked_to_end = true;
                child.signal(Signal::TERM)?;
            }
        }
        if let Some(status) = child.ended()? {
            return Ok((status, asked_to_end));
        }
    }
}

fn command(name: &str, args: &[OsString], environment: &[&Vec<(OsString, OsString)>]) -> Command {
    let mut command = Command::new(OsStr::new("/proc/self/exe"));
    command
        .arg0("factory")
        .arg(name)
        .args(args)
        .env_clear()
        .stdin(Stdio::null());
    for ring in environment {
        command.envs(ring.iter().map(|(name, value)| (name, value)));
    }
    command
}

/// The exit code of a kernel that ended in order; none for one that was killed or panicked.
fn in_order(status: ExitStatus) -> Option<u8> {
    /// What Rust exits with after a panic.
    const PANICKED: i32 = 101;
    status
        .code()
        .filter(|code| *code != PANICKED)
        .map(|_| code_of(status))
}

fn code_of(status: ExitStatus) -> u8 {
    match status.code() {
        Some(code) => u8::try_from(code).unwrap_or(Class::Internal.code()),
        None => {
            views::aside(&format!("factory: a process of it was killed ({status})"));
            Class::Internal.code()
        }
    }
}

/// A child that is restarted when it dies.
struct Kept {
    child: Child,
    started: Instant,
    wait: Duration,
}

impl Kept {
    fn new(child: Child) -> Self {
        Self {
            child,
            started: Instant::now(),
            wait: Duration::ZERO,
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, Failure> {
        Ok(self.child.try_wait()?)
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        match kill_process(pid, signal) {
            // It ended just now.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Failure::of(Class::Internal, std::io::Error::from(error))),
        }
    }

    /// Starts it again; a child that keeps dying waits longer each time.
    fn again(&mut self, start: impl Fn() -> std::io::Result<Child>) -> Result<(), Failure> {
        self.wait = if self.started.elapsed() > STABLE {
            Duration::ZERO
        } else {
            (self.wait * 2).clamp(Duration::from_millis(200), LONGEST_WAIT)
        };
        std::thread::park_timeout(self.wait);
        self.child = start()?;
        self.started = Instant::now();
        Ok(())
    }
}
