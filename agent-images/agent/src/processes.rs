//! Child processes of pid 1: every child is reaped here, known or orphaned.

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, getpid, kill_process_group, wait},
};
use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::Command,
    rc::Rc,
    time::Duration,
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
    sync::{Notify, oneshot, watch},
};

/// How long killed processes may take to disappear before the agent goes on.
const REAP_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait for data in a pipe whose known writers are all gone.
const PIPE_LIMIT: Duration = Duration::from_secs(1);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// All children of this process.
#[derive(Debug, Clone, Default)]
pub struct Processes(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    awaited: RefCell<HashMap<i32, oneshot::Sender<Exit>>>,
    reaped: Notify,
}

/// A started child, leader of its own process group.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    exit: oneshot::Receiver<Exit>,
    ended: Option<Exit>,
}

impl Running {
    /// Waits until the process has ended. May be called again.
    pub async fn wait(&mut self) -> Exit {
        if let Some(exit) = self.ended {
            return exit;
        }
        // The sender is dropped only with the reaper, that is never before us.
        let exit = (&mut self.exit)
            .await
            .unwrap_or(Exit::Signal(Signal::KILL.as_raw()));
        self.ended = Some(exit);
        exit
    }

    fn signal_group(&self, signal: Signal) {
        match kill_process_group(self.pid, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(e) => crate::log(format_args!(
                "signal {} to group {}: {e}",
                signal.as_raw(),
                self.pid
            )),
        }
    }
}

impl Processes {
    /// Starts `command` in a process group of its own. The command is consumed,
    /// so that our copies of the pipe ends it holds are closed.
    ///
    /// # Errors
    /// What the system says when it cannot be started.
    pub fn spawn(&self, mut command: Command) -> io::Result<Running> {
        let child = command.process_group(0).spawn()?;
        let pid = Pid::from_child(&child);
        let (sender, exit) = oneshot::channel();
        // No await between start and here: the reaper cannot have run.
        self.0
            .awaited
            .borrow_mut()
            .insert(pid.as_raw_nonzero().get(), sender);
        Ok(Running {
            pid,
            exit,
            ended: None,
        })
    }

    /// Reaps whatever has ended; true when no child is left at all.
    fn reap(&self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let exit = match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Exit::Code(code),
                        (None, Some(signal)) => Exit::Signal(signal),
                        (None, None) => continue,
                    };
                    let known = self
                        .0
                        .awaited
                        .borrow_mut()
                        .remove(&pid.as_raw_nonzero().get());
                    // Nobody waits any more for a child that was given up.
                    if let Some(Err(_)) = known.map(|sender| sender.send(exit)) {
                        crate::log(format_args!("process {pid} ended late: {exit}"));
                    }
                }
                Ok(None) => return false,
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }

    /// Reaps for ever.
    ///
    /// # Errors
    /// The system refuses a handler for SIGCHLD.
    pub fn reaper(&self) -> io::Result<impl Future<Output = Infallible> + use<>> {
        let mut child = signal(SignalKind::child())?;
        let this = self.clone();
        Ok(async move {
            loop {
                this.reap();
                this.0.reaped.notify_waiters();
                child.recv().await;
            }
        })
    }

    /// Waits for `running`; when `until` comes first, ends its group with SIGTERM
    /// and, after the `grace` that the reason gives, all that is left with SIGKILL. In any case
    /// nothing that it started is alive afterwards, and `until` is dropped by then.
    pub async fn attend<T>(
        &self,
        running: &mut Running,
        until: impl Future<Output = T>,
        grace: fn(&T) -> Duration,
    ) -> (Exit, Option<T>) {
        let why = tokio::select! {
            biased;
            _ = running.wait() => None,
            why = until => Some(why),
        };
        let grace = why.as_ref().map(grace);
        if let Some(grace) = grace.filter(|grace| !grace.is_zero()) {
            running.signal_group(Signal::TERM);
            if tokio::time::timeout(grace, running.wait()).await.is_err() {
                crate::log(format_args!(
                    "still running {} s after SIGTERM: killed",
                    grace.as_secs()
                ));
            }
        }
        self.end_rest(running).await;
        let exit = tokio::time::timeout(REAP_LIMIT, running.wait()).await;
        (exit.unwrap_or(Exit::Signal(Signal::KILL.as_raw())), why)
    }

    /// Kills the group of `running` and, as pid 1, every other process of the
    /// container; waits until they are gone.
    async fn end_rest(&self, running: &Running) {
        if !is_init() {
            return running.signal_group(Signal::KILL);
        }
        // As pid 1: kill(-1), every process of this namespace but ourselves. Run
        // anywhere else it would reach processes that are not ours.
        match kill_process_group(Pid::INIT, Signal::KILL) {
            Ok(()) => {}
            Err(Errno::SRCH) => return,
            Err(e) => crate::log(format_args!("cannot end what is left running: {e}")),
        }
        let gone = async {
            loop {
                let reaped = self.0.reaped.notified();
                if self.reap() {
                    return;
                }
                reaped.await;
            }
        };
        if tokio::time::timeout(REAP_LIMIT, gone).await.is_err() {
            crate::log(format_args!(
                "killed processes are still there after {} s",
                REAP_LIMIT.as_secs()
            ));
        }
    }

    /// Kills the group of `running` at once and waits for its leader.
    pub async fn kill(&self, running: &mut Running) {
        running.signal_group(Signal::KILL);
        if tokio::time::timeout(REAP_LIMIT, running.wait())
            .await
            .is_err()
        {
            crate::log(format_args!("process {} cannot be killed", running.pid));
        }
    }
}

/// True in a container, where every other process is ours to end.
pub fn is_init() -> bool {
    getpid().is_init()
}

/// An anonymous file with `text`, to be standard input of a child: it ends by
/// itself, so no writer is needed and no engine waits for more.
///
/// # Errors
/// What the system says when there is no memory for it.
pub fn stdin_with(text: &[u8]) -> io::Result<std::fs::File> {
    let mut file = std::fs::File::from(rustix::fs::memfd_create(
        "stdin",
        rustix::fs::MemfdFlags::CLOEXEC,
    )?);
    file.write_all(text)?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

/// Our end of a pipe that children write to.
#[derive(Debug)]
pub struct Output {
    pipe: pipe::Receiver,
    writers_gone: watch::Receiver<bool>,
    last_read: bool,
}

impl Output {
    /// A pipe. Once `writers_gone` turns true, reading ends with what is in the
    /// pipe, even where a process that we do not know holds it open.
    ///
    /// # Errors
    /// What the system says when it has no pipe left.
    pub fn new(writers_gone: watch::Receiver<bool>) -> io::Result<(Self, io::PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        let pipe = pipe::Receiver::from_owned_fd(reader.into())?;
        Ok((
            Self {
                pipe,
                writers_gone,
                last_read: false,
            },
            writer,
        ))
    }

    /// Reads some bytes; 0 at the end.
    pub async fn read(&mut self, into: &mut [u8]) -> usize {
        if !self.last_read {
            tokio::select! {
                biased;
                read = self.pipe.read(into) => return read.unwrap_or(0),
                _ = self.writers_gone.wait_for(|gone| *gone) => self.last_read = true,
            }
        }
        match tokio::time::timeout(PIPE_LIMIT, self.pipe.read(into)).await {
            Ok(read) => read.unwrap_or(0),
            Err(_) => 0,
        }
    }
}
