//! Orders to the kernel, and waiting for what comes of them.
//!
//! An order is journalled by the command itself; the kernel's socket only
//! wakes the kernel and tells when the state moved.

use crate::{
    clock,
    factory::Factory,
    failure::Failure,
    kernel::{PATH_CHANGES, PATH_HELD_UP},
};
use bytes::Bytes;
use factory_core::{
    event::{Command, Event},
    model::{Run, Seconds},
    step::Step,
    text,
    wire::PATH_WAKE,
};
use factory_gateway::client::{self, CallError};
use factory_ledger::{
    lock::{Holder, KernelLock, LockError},
    places::Places,
};
use hyper::Method;
use rustix::{fs::FlockOperation, io::Errno};
use std::{
    fs::File,
    io::{ErrorKind, Write},
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::FileTypeExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// How often something is looked at that nobody tells us about.
pub const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A kernel that is suspended does not hold up who only looks.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A kernel that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Its process; none in the moment before it has written its name.
    pub holder: Option<Holder>,
}

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Look at the state again.
    Look,
    /// No kernel runs: nothing will move by itself.
    NoKernel,
}

/// Tries to become the kernel; somebody may just be looking whether there is one.
const LOCK_TRIES: u32 = 10;
/// As many more while the holder is gone, and what it had just forked keeps the lock.
const LOCK_TRIES_OF_GONE: u32 = 500;

/// Makes this process the kernel of its repository, or says who is.
pub fn lock(places: &Places) -> Result<KernelLock, Failure> {
    take(&places.kernel_lock(), std::process::id(), clock::now().0)
}

/// Takes a lock in the name of a process, or says who has it.
pub fn take(path: &Path, pid: u32, since: Seconds) -> Result<KernelLock, Failure> {
    let (mut tries, mut of_gone) = (1, 1);
    loop {
        let error = match KernelLock::acquire(path, pid, since) {
            Ok(lock) => return Ok(lock),
            Err(error) => error,
        };
        match &error {
            LockError::Busy {
                holder: Some(holder),
                ..
            } if holder.is_gone() && of_gone < LOCK_TRIES_OF_GONE => {
                of_gone += 1;
            }
            LockError::Busy { .. } if tries < LOCK_TRIES => tries += 1,
            LockError::Busy { .. } | LockError::File { .. } => return Err(error.into()),
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The kernel of this repository on this host, if one runs.
pub fn kernel(places: &Places) -> Result<Option<Running>, Failure> {
    held(places.kernel_lock())
}

/// The `factory start` of this repository on this host, if there is one: it prepares, or its
/// kernel runs, or it is about to start another.
pub fn launcher(places: &Places) -> Result<Option<Running>, Failure> {
    held(places.start_lock())
}

/// Takes the lock of `factory start` in the name of the launcher, this process's parent.
pub fn starting(places: &Places) -> Result<(KernelLock, PathBuf), Failure> {
    let path = places.start_lock();
    let launcher = rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid().unsigned_abs());
    Ok((take(&path, launcher, clock::now().0)?, path))
}

/// Tells the launcher, over the pipe that is this process's standard input, which lock is
/// its own from now on.
pub fn hand_on(lock: &Path) -> Result<(), Failure> {
    let mut pipe = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    // By hand it is a terminal, or nothing.
    if pipe.metadata()?.file_type().is_fifo() {
        pipe.write_all(lock.as_os_str().as_bytes())?;
    }
    Ok(())
}

fn held(path: PathBuf) -> Result<Option<Running>, Failure> {
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // A shared lock: commands that ask at the same moment do not take each other for a kernel.
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => return Ok(None),
        Err(Errno::WOULDBLOCK) => {}
        Err(error) => return Err(std::io::Error::from(error).into()),
    }
    match KernelLock::acquire(&path, std::process::id(), clock::now().0) {
        Err(LockError::Busy {
            holder: Some(holder),
            ..
        }) if holder.is_gone() => Ok(None),
        Err(LockError::Busy { holder, .. }) => Ok(Some(Running { holder })),
        // It ended between the two looks.
        Ok(_released_at_once) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Who gives orders: the name that Git knows the user by.
pub fn person(factory: &Factory) -> Result<String, Failure> {
    let identity = factory.user.identity()?;
    let named = [identity.name, identity.email, std::env::var("USER").ok()];
    Ok(named
        .into_iter()
        .flatten()
        .map(|name| text::one_line(&name))
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw())))
}

/// Journals an order of the user and wakes the kernel. Tells whether one runs.
pub fn order(factory: &mut Factory, command: Command) -> Result<(Step, bool), Failure> {
    let by = person(factory)?;
    let step = factory.journal(Event::Command { by, command })?;
    let awake = match wake(&factory.places)? {
        Ok(_) => true,
        // One that is about to come reads it.
        Err(CallError::Away { .. }) => launcher(&factory.places)?.is_some(),
        // The order is in the state: a kernel that could not answer reads it all the same.
        Err(error) => {
            tracing::debug!(%error, "the kernel was not woken");
            true
        }
    };
    Ok((step, awake))
}

/// Wakes the kernel. One that hangs is awake.
fn wake(places: &Places) -> Result<Result<Bytes, CallError>, Failure> {
    let socket = places.kernel_sock();
    runtime()?.block_on(async {
        let asked = client::call(&socket, Method::POST, PATH_WAKE);
        Ok(tokio::time::timeout(AT_ONCE, asked)
            .await
            .unwrap_or_else(|_| Ok(Bytes::new())))
    })
}

/// Waits until the state is worth another look, and reads it.
pub fn next(factory: &mut Factory) -> Result<Next, Failure> {
    let path = format!("{PATH_CHANGES}?after={}", factory.head);
    let asked = call(&factory.places, Method::GET, &path)?;
    if factory.reload()? {
        return Ok(Next::Look);
    }
    match asked {
        // Nothing moved for as long as a call may take.
        Err(CallError::Broken { .. }) => return Ok(Next::Look),
        // The kernel has not yet read what was just journalled.
        Ok(_) => {}
        // It starts or ends just now, or there is none.
        Err(CallError::Away { .. } | CallError::Refused { .. }) => {
            if kernel(&factory.places)?.is_none() {
                return Ok(Next::NoKernel);
            }
        }
    }
    std::thread::park_timeout(LOOK_AGAIN);
    factory.reload()?;
    Ok(Next::Look)
}

/// What a kernel that runs tells of what it cannot do at the moment; nothing
/// where none answers at once.
pub fn held_up(places: &Places) -> Result<Vec<String>, Failure> {
    let socket = places.kernel_sock();
    let told = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let asked = client::call(&socket, Method::GET, PATH_HELD_UP);
            tokio::time::timeout(AT_ONCE, asked).await
        });
    let lines = told.ok().and_then(Result::ok);
    Ok(lines
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_default())
}

/// Ends the gateway that no launcher ends: where no kernel runs, and no run that the
/// next kernel could take up.
pub fn end_gateway(factory: &mut Factory) -> Result<(), Failure> {
    if kernel(&factory.places)?.is_some() {
        return Ok(());
    }
    factory.reload()?;
    if factory.state.runs.values().any(Run::is_open) {
        return Ok(());
    }
    let runtime = runtime()?;
    match runtime.block_on(client::stop(&factory.places)) {
        Ok(()) | Err(CallError::Away { .. }) => {}
        // It ends just now, or by itself ten minutes after its last run.
        Err(error) => tracing::debug!(%error, "the gateway was not ended"),
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// Calls the kernel of this repository over its socket.
pub fn call(
    places: &Places,
    method: Method,
    path: &str,
) -> Result<Result<Bytes, CallError>, Failure> {
    Ok(runtime()?.block_on(client::call(&places.kernel_sock(), method, path)))
}
