//! The command that `keys.env` names, asked for one key.

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use std::{
    ffi::OsString,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Variable that tells the command which key is wanted.
pub const WANTED: &str = "FACTORY_KEY_NAME";
/// Most bytes that it may print.
const LIMIT: usize = 8 << 10;
/// Most bytes of its standard error that are kept.
const SAID_LIMIT: usize = 4 << 10;
/// How long its output is waited for once it has ended: who it left behind may hold it open.
const LEFTOVER: Duration = Duration::from_secs(1);

/// Why the command gave no key. The message may go anywhere; what the command
/// itself said is for the terminal and the log only.
#[derive(Debug, thiserror::Error)]
#[error("the command in keys.env gave no {name}: {flaw}")]
pub struct CommandError {
    name: String,
    flaw: Flaw,
    said: String,
}

impl CommandError {
    /// What it wrote to standard error.
    pub fn said(&self) -> &str {
        &self.said
    }
}

#[derive(Debug, thiserror::Error)]
enum Flaw {
    #[error("it could not be run: {0}")]
    Io(std::io::Error),
    #[error("it ended with {0}")]
    Failed(ExitStatus),
    #[error("it took longer than {} s", .0.as_secs())]
    Slow(Duration),
    #[error("it printed more than {} KiB", LIMIT >> 10)]
    TooLong,
    #[error("its first line is empty")]
    Empty,
    #[error("what it printed is not UTF-8 text")]
    NotText,
}

/// Runs `command` by `sh -c` with `environment` alone, and the name in [`WANTED`]. The key
/// is the first line that it prints. What takes longer than `limit` is killed, with all
/// that it started.
///
/// # Errors
/// There is no key.
pub async fn ask(
    command: &SecretString,
    name: &str,
    environment: &[(OsString, OsString)],
    limit: Duration,
) -> Result<SecretString, CommandError> {
    let mut said = Vec::with_capacity(SAID_LIMIT);
    let asked = tokio::time::timeout(limit, run(command, name, environment, &mut said));
    let key = asked.await.unwrap_or(Err(Flaw::Slow(limit)));
    key.map_err(|flaw| CommandError {
        name: name.to_owned(),
        flaw,
        said: String::from_utf8_lossy(&said).trim().to_owned(),
    })
}

async fn run(
    command: &SecretString,
    name: &str,
    environment: &[(OsString, OsString)],
    said: &mut Vec<u8>,
) -> Result<SecretString, Flaw> {
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", command.expose_secret()])
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .env(WANTED, name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(Flaw::Io)?;
    let mut group = Group::of(&child);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut printed = Zeroizing::new(Vec::with_capacity(LIMIT + 1));
    let status = {
        let outputs = async {
            tokio::join!(
                read(stdout, &mut printed, LIMIT + 1),
                read(stderr, said, SAID_LIMIT)
            )
        };
        tokio::pin!(outputs);
        // Read while it runs: it could not end with a full pipe.
        let (read, ended) = tokio::select! {
            read = &mut outputs => (Some(read), None),
            ended = child.wait() => (None, Some(ended)),
        };
        let status = match ended {
            Some(ended) => ended,
            None => child.wait().await,
        }
        .map_err(Flaw::Io)?;
        group.ended();
        let read = match read {
            Some(read) => Some(read),
            None => tokio::time::timeout(LEFTOVER, outputs).await.ok(),
        };
        if let Some((out, err)) = read {
            out.and(err).map_err(Flaw::Io)?;
        }
        status
    };
    if !status.success() {
        return Err(Flaw::Failed(status));
    }
    if printed.len() > LIMIT {
        return Err(Flaw::TooLong);
    }
    let line = printed.split(|byte| *byte == b'\n').next().unwrap_or(&[]);
    match std::str::from_utf8(line).map(str::trim) {
        Ok("") => Err(Flaw::Empty),
        Ok(key) => Ok(SecretString::from(key)),
        Err(_) => Err(Flaw::NotText),
    }
}

/// Reads to the end and keeps the first `limit` bytes.
async fn read(
    input: Option<impl AsyncRead + Unpin>,
    kept: &mut Vec<u8>,
    limit: usize,
) -> std::io::Result<()> {
    let Some(mut input) = input else {
        return Ok(());
    };
    let mut piece = Zeroizing::new([0; 4 << 10]);
    loop {
        let read = input.read(&mut piece[..]).await?;
        if read == 0 {
            return Ok(());
        }
        let room = limit - kept.len();
        kept.extend_from_slice(&piece[..read.min(room)]);
    }
}

/// The command and what it started; killed when nobody waits for it any more.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Self(pid.and_then(Pid::from_raw))
    }

    /// It came to its own end: from now on the number may be another's.
    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.map(|group| kill_process_group(group, Signal::KILL)) {
            tracing::debug!(%error, "a key command could not be ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(command: &str, limit: Duration) -> Result<String, CommandError> {
        let path = ("PATH".into(), std::env::var_os("PATH").unwrap());
        let key = ask(&command.into(), "A_API_KEY", &[path], limit).await?;
        Ok(key.expose_secret().to_owned())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_first_line_is_the_key() {
        let rows = [
            ("echo sk-1; echo user: me", "sk-1"),
            ("printf '  sk-2 \\r\\n'", "sk-2"),
            ("echo \"$FACTORY_KEY_NAME\"", "A_API_KEY"),
            ("echo \"x$HOME\"; echo noise >&2", "x"),
        ];
        for (command, key) in rows {
            assert_eq!(asked(command, LONG).await.unwrap(), key, "{command}");
        }
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = fifo(dir.path());
        // It holds the output open until somebody has written to the pipe.
        let command = format!("echo sk-1; cat '{}' &", pipe.display());
        assert_eq!(asked(&command, LONG).await.unwrap(), "sk-1");
        std::fs::write(pipe, "").unwrap();
    }

    fn fifo(dir: &std::path::Path) -> std::path::PathBuf {
        let pipe = dir.join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        pipe
    }

    #[tokio::test]
    async fn a_command_without_a_key_says_why() {
        let rows = [
            (
                "echo sk-1; echo locked >&2; exit 3",
                "exit status: 3",
                "locked",
            ),
            ("true", "first line is empty", ""),
            ("echo; echo sk-1", "first line is empty", ""),
            ("yes | head -c 9000", "more than 8 KiB", ""),
            ("printf '\\377'", "not UTF-8", ""),
        ];
        for (command, why, said) in rows {
            let error = asked(command, LONG).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(why) && text.contains("A_API_KEY"), "{text}");
            assert!(!text.contains("sk-1") && !text.contains("locked"), "{text}");
            assert_eq!(error.said(), said);
        }
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = fifo(dir.path());
        // Whoever reads the pipe sees its end when the last of them is gone.
        let nonblock = rustix::fs::OFlags::NONBLOCK;
        let flags = rustix::fs::OFlags::RDONLY | nonblock;
        let reader = rustix::fs::open(&pipe, flags, rustix::fs::Mode::empty()).unwrap();
        let command = format!("exec 3>'{}'; sh -c 'sleep 1000; :' & wait", pipe.display());
        let error = asked(&command, Duration::from_millis(300))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
        rustix::fs::fcntl_setfl(&reader, flags - nonblock).unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0);
    }
}
