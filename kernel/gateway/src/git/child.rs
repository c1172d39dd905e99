//! Git processes of the door: started, read within bounds, stopped when nobody
//! waits for them any more.

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::io;
use std::process::{Command, ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

/// More than this of an output is read and thrown away; what git answers here
/// is a few hundred bytes.
const MAX_OUTPUT_BYTES: usize = 1024 * 1024;
/// What people and agents are shown of git's messages.
const MAX_LINES: usize = 8;
const MAX_LINE_CHARS: usize = 300;

/// Why a git process gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("`{program}` could not be started; is it installed and on PATH?")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its input could not be prepared.
    #[error("the spooled request could not be handed to git")]
    Input {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its output or its end could not be read.
    #[error("the output of `{program}` could not be read")]
    Output {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A signal ended it, for example for want of memory.
    #[error("`{program}` was ended by a signal ({status}); push again")]
    Signal {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It was stopped because nobody waits for it any more.
    #[error("stopped: nobody waits for it any more")]
    Stopped,
}

/// A process that ran to its end.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// What a process may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of memory of its own; files that it maps are not among them.
    pub(super) memory: u64,
    /// Seconds of a processor.
    pub(super) processor_seconds: u64,
}

impl Limits {
    const NONE: Self = Self {
        memory: u64::MAX,
        processor_seconds: u64::MAX,
    };

    /// Puts a process that was just started under these limits.
    fn hold(&self, child: &Child) -> io::Result<()> {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            return Ok(());
        };
        for (what, limit) in [
            (Resource::Data, self.memory),
            (Resource::Cpu, self.processor_seconds),
        ] {
            if limit < u64::MAX {
                // At the second one the kernel does not ask.
                let limit = Rlimit {
                    current: Some(limit),
                    maximum: Some(limit + 1),
                };
                match prlimit(Some(pid), what, limit) {
                    // It has ended.
                    Ok(_) | Err(Errno::SRCH) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// Runs `command`, and gives every line that it prints to `line` until that wants no more.
pub(super) async fn each_line(
    command: Command,
    stop: &CancellationToken,
    mut line: impl FnMut(&str) -> bool,
) -> Result<(), ChildError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| ChildError::Output {
        program: program.clone(),
        source,
    };
    let mut command = tokio::process::Command::from(command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|source| ChildError::Start {
        program: program.clone(),
        source,
    })?;
    let Some(output) = child.stdout.take() else {
        return Err(ChildError::Stopped);
    };
    let mut lines = BufReader::new(output).lines();
    loop {
        let next = tokio::select! {
            next = lines.next_line() => next.map_err(failed)?,
            () = stop.cancelled() => {
                child.kill().await.map_err(failed)?;
                return Err(ChildError::Stopped);
            }
        };
        match next {
            Some(next) if line(&next) => {}
            Some(_) => return child.kill().await.map_err(failed),
            None => break,
        }
    }
    let status = child.wait().await.map_err(failed)?;
    match status.code() {
        Some(0) => Ok(()),
        Some(_) => Err(failed(io::Error::other(format!("it failed ({status})")))),
        None => Err(ChildError::Signal {
            program: program.clone(),
            status,
        }),
    }
}

/// Runs `command` to its end. With `stop`, the process is killed and collected
/// when that is cancelled or this future is dropped; without, it ends by itself
/// whatever happens.
pub(super) async fn run(
    command: Command,
    stdin: Stdio,
    stop: Option<&CancellationToken>,
) -> Result<Ended, ChildError> {
    run_within(&Limits::NONE, command, stdin, stop).await
}

/// The same, within limits: beyond them it fails, or is ended by a signal.
pub(super) async fn run_within(
    limits: &Limits,
    command: Command,
    stdin: Stdio,
    stop: Option<&CancellationToken>,
) -> Result<Ended, ChildError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut command = tokio::process::Command::from(command);
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(stop.is_some());
    let mut child = command.spawn().map_err(|source| ChildError::Start {
        program: program.clone(),
        source,
    })?;
    limits.hold(&child).map_err(|source| ChildError::Start {
        program: program.clone(),
        source,
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (stdout, stderr) = tokio::join!(read_bounded(stdout), read_bounded(stderr));
        Ok::<_, io::Error>(Ended {
            stdout: stdout?,
            stderr: stderr?,
            status: child.wait().await?,
        })
    };
    let ended = match stop {
        None => work.await,
        Some(stop) => {
            tokio::select! {
                ended = work => ended,
                () = stop.cancelled() => {
                    // Collected before the caller removes the files it writes to.
                    child.kill().await.map_err(|source| ChildError::Output { program, source })?;
                    return Err(ChildError::Stopped);
                }
            }
        }
    };
    let ended = ended.map_err(|source| ChildError::Output {
        program: program.clone(),
        source,
    })?;
    if ended.status.code().is_none() {
        return Err(ChildError::Signal {
            program,
            status: ended.status,
        });
    }
    Ok(ended)
}

async fn read_bounded(input: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let Some(mut input) = input else {
        return Ok(kept);
    };
    let mut buffer = [0; 8192];
    loop {
        let count = input.read(&mut buffer).await?;
        if count == 0 {
            return Ok(kept);
        }
        let room = MAX_OUTPUT_BYTES.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(&buffer[..room]);
    }
}

/// The first lines of git's messages, without control characters: they name
/// what an agent sent, and are printed on its and on people's terminals.
pub(super) fn lines(text: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(text)
        .lines()
        .map(|line| {
            line.chars()
                .filter(|c| !c.is_control())
                .take(MAX_LINE_CHARS)
                .collect::<String>()
        })
        .filter(|line| !line.trim().is_empty())
        .take(MAX_LINES)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Signal;
    use std::os::unix::process::ExitStatusExt;

    #[tokio::test]
    async fn a_stopped_process_is_killed_and_collected() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo started >&2; exec sleep 600"]);
        let stop = CancellationToken::new();
        let (ended, ()) = tokio::join!(run(command, Stdio::null(), Some(&stop)), async {
            stop.cancel();
        });
        assert!(matches!(ended, Err(ChildError::Stopped)), "{ended:?}");
    }

    #[tokio::test]
    async fn a_process_beyond_its_limits_ends() {
        let limits = Limits {
            memory: 64 << 20,
            processor_seconds: 1,
        };
        let mut spins = Command::new("sh");
        spins.args(["-c", "while :; do :; done"]);
        let ended = run_within(&limits, spins, Stdio::null(), None).await;
        let Err(ChildError::Signal { status, .. }) = ended else {
            panic!("{ended:?}")
        };
        assert_eq!(status.signal(), Some(Signal::XCPU.as_raw()));
        let mut grows = Command::new("sh");
        grows.args(["-c", "x=0123456789abcdef; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24; do x=$x$x; done; echo grown"]);
        let ended = run_within(&limits, grows, Stdio::null(), None).await;
        let grown = ended.is_ok_and(|ended| ended.status.success());
        assert!(!grown, "it had 256 MiB");
    }

    #[tokio::test]
    async fn each_line_is_read_until_no_more_is_wanted() {
        let mut read = Vec::new();
        let stop = CancellationToken::new();
        let mut endless = Command::new("sh");
        endless.args(["-c", "while :; do echo line; done"]);
        let ended = each_line(endless, &stop, |line| {
            read.push(line.to_owned());
            read.len() < 3
        });
        ended.await.unwrap();
        assert_eq!(read, ["line", "line", "line"]);
        let failed = each_line(Command::new("false"), &stop, |_| true).await;
        assert!(
            matches!(failed, Err(ChildError::Output { .. })),
            "{failed:?}"
        );
    }

    #[tokio::test]
    async fn output_beyond_the_bound_does_not_block() {
        let mut command = Command::new("head");
        command.args(["-c", "3000000", "/dev/zero"]);
        let ended = run(command, Stdio::null(), None).await.unwrap();
        assert!(ended.status.success());
        assert_eq!(ended.stdout.len(), MAX_OUTPUT_BYTES);
    }

    #[test]
    fn messages_are_a_few_clean_lines() {
        let text = format!(
            "one\x1b[31m\n\n{}\n{}",
            "x".repeat(1000),
            "more\n".repeat(20)
        );
        let lines = lines(text.as_bytes());
        assert_eq!(lines[0], "one[31m");
        assert_eq!(lines[1].len(), MAX_LINE_CHARS);
        assert_eq!(lines.len(), MAX_LINES);
    }
}
