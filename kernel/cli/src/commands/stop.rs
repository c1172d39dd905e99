//! `factory stop`.

use crate::{
    args::Stop,
    factory::Factory,
    failure::{Class, Failure},
    kernel::{PATH_DRAIN, PATH_STOP},
    views,
    wait::{self, LOOK_AGAIN, Next},
};
use factory_core::model::Job;
use factory_gateway::client::CallError;
use hyper::Method;
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use std::process::ExitCode;

/// How often a kernel is asked that is just starting: half a minute.
const TRIES: u32 = 150;

/// Asks the kernel, or ends the launcher that has none yet. False where there is neither any more.
fn asked(factory: &mut Factory, path: &str, was_there: bool) -> Result<bool, Failure> {
    let mut tries = 0;
    let mut ended_one = false;
    loop {
        let error = match wait::call(&factory.places, Method::POST, path)? {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        let launcher = wait::launcher(&factory.places)?;
        let kernel = wait::kernel(&factory.places)?;
        match (launcher, kernel, &error) {
            // It prepares, or its kernel died and another one comes, or it ends just now.
            (Some(running), None, _) => {
                if tries == 0 && !was_there {
                    views::hint("waiting for the factory, which is just starting")?;
                }
                ended_one |= end_prepare(factory, running)?;
            }
            // It does not listen yet, or not any more.
            (_, Some(_), CallError::Away { .. }) if tries < TRIES => {}
            (_, Some(_), _) => {
                return Err(Failure::of(Class::Internal, error).help(
                    "the kernel does not answer: `factory status` names its process; end that, then try again",
                ));
            }
            // Between the two of `prepare` and its launcher there is a moment without either.
            (None, None, _) if tries == 0 && !was_there => {}
            (None, None, _) => return Ok(ended_one && !was_there),
        }
        tries += 1;
        std::thread::park_timeout(LOOK_AGAIN);
    }
}

/// Ends a `factory start` that has not started a kernel yet, of which nothing works. Tells
/// whether it is such a one.
fn end_prepare(factory: &mut Factory, running: wait::Running) -> Result<bool, Failure> {
    factory.reload()?;
    let Some(holder) = running.holder else {
        return Ok(false);
    };
    let this_start = format!("{}-{}", holder.since, holder.pid);
    let kernel = factory.state.meta.kernel.as_ref();
    if kernel.is_some_and(|kernel| kernel.start.as_ref() == Some(&this_start)) {
        return Ok(false);
    }
    let pid = i32::try_from(holder.pid).ok().and_then(Pid::from_raw);
    match pid.map(|pid| kill_process(pid, Signal::TERM)) {
        None | Some(Ok(()) | Err(Errno::SRCH)) => Ok(true),
        Some(Err(error)) => Err(std::io::Error::from(error).into()),
    }
}

/// Asks the kernel to end, and waits until it has.
pub fn run(factory: &mut Factory, options: Stop) -> Result<ExitCode, Failure> {
    let path = if options.now { PATH_STOP } else { PATH_DRAIN };
    let mut was_there = false;
    // One that dies before it has ended is followed by another, which is asked again, also
    // where it came so soon that nobody saw the gap.
    loop {
        factory.reload()?;
        let epoch = factory.state.meta.epoch;
        if !asked(factory, path, was_there)? {
            break;
        }
        factory.reload()?;
        if !was_there && !options.now && !factory.state.runs.is_empty() {
            views::hint("waiting for the agents to finish; `factory stop --now` ends them too")?;
        }
        was_there = true;
        while factory.state.meta.epoch == epoch && wait::next(factory)? == Next::Look {}
    }
    if !was_there {
        wait::end_gateway(factory)?;
        views::print("the factory does not run here\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    factory.reload()?;
    // Its launcher would; but that may be gone.
    wait::end_gateway(factory)?;
    let waits = |job: &&Job| job.stage().waits_for_a_person();
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
