//! `factory stop`.

use crate::{
    args::Stop,
    factory::Factory,
    failure::{Class, Failure},
    kernel::{PATH_DRAIN, PATH_STOP},
    views,
    wait::{self, LOOK_AGAIN, Next},
};
use factory_core::model::{Job, Stage};
use factory_gateway::client::CallError;
use hyper::Method;
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use std::process::ExitCode;

/// How often a kernel is asked that is just starting: half a minute.
const TRIES: u32 = 150;

/// Ends a `factory start` that has not started a kernel yet; nothing of it works.
fn end_prepare(factory: &mut Factory, running: wait::Running) -> Result<(), Failure> {
    factory.reload()?;
    let Some(holder) = running.holder else {
        return Ok(());
    };
    let this_start = format!("{}-{}", holder.since, holder.pid);
    let kernel = factory.state.meta.kernel.as_ref();
    if kernel.is_some_and(|kernel| kernel.start.as_ref() == Some(&this_start)) {
        return Ok(());
    }
    let pid = i32::try_from(holder.pid).ok().and_then(Pid::from_raw);
    match pid.map(|pid| kill_process(pid, Signal::TERM)) {
        None | Some(Ok(()) | Err(Errno::SRCH)) => Ok(()),
        Some(Err(error)) => Err(std::io::Error::from(error).into()),
    }
}

/// Asks the kernel to end, and waits until it has.
pub fn run(factory: &mut Factory, options: Stop) -> Result<ExitCode, Failure> {
    let path = if options.now { PATH_STOP } else { PATH_DRAIN };
    let mut asked = wait::call(&factory.places, Method::POST, path)?;
    let mut tries = 0;
    while matches!(asked, Err(CallError::Away { .. })) {
        match wait::launcher(&factory.places)? {
            // It prepares, or its kernel died and another one comes.
            Some(running) => {
                if tries == 0 {
                    views::hint("waiting for the factory, which is just starting")?;
                }
                end_prepare(factory, running)?;
            }
            // A kernel without one holds the lock and does not listen yet, or not any more.
            None if tries < TRIES && wait::kernel(&factory.places)?.is_some() => {}
            None => {
                wait::end_gateway(factory)?;
                views::print(match tries {
                    0 => "the factory does not run here\n",
                    _ => "the factory has stopped\n",
                })?;
                return Ok(ExitCode::SUCCESS);
            }
        }
        tries += 1;
        std::thread::park_timeout(LOOK_AGAIN);
        asked = wait::call(&factory.places, Method::POST, path)?;
    }
    if let Err(error) = asked {
        return Err(Failure::of(Class::Internal, error)
            .help("the kernel does not answer: `factory status` names its process; end that, then try again"));
    }
    if !options.now && !factory.state.runs.is_empty() {
        views::hint("waiting for the agents to finish; `factory stop --now` ends them too")?;
    }
    while wait::next(factory)? == Next::Look {}
    // Its launcher would; but that may be gone.
    wait::end_gateway(factory)?;
    let waits = |job: &&Job| matches!(job.stage, Stage::Proposed | Stage::NeedsHuman);
    let jobs = factory.state.jobs.values();
    let waiting = jobs.filter(|job| !waits(job)).count();
    views::told(&format!(
        "the factory has stopped; {} on with the next `factory start`\n",
        match waiting {
            1 => "1 job goes".to_owned(),
            n => format!("{n} jobs go"),
        }
    ))?;
    Ok(ExitCode::SUCCESS)
}
