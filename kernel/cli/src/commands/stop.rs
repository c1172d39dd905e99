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
use std::process::ExitCode;

/// How often a kernel is asked that is just starting: half a minute.
const TRIES: u32 = 150;

/// Asks the kernel to end, and waits until it has.
pub fn run(factory: &mut Factory, options: Stop) -> Result<ExitCode, Failure> {
    let path = if options.now { PATH_STOP } else { PATH_DRAIN };
    let mut asked = wait::call(&factory.places, Method::POST, path)?;
    // It holds the lock and does not listen yet, or not any more.
    for _ in 0..TRIES {
        let away = matches!(asked, Err(CallError::Away { .. }));
        if !away || wait::kernel(&factory.places)?.is_none() {
            break;
        }
        std::thread::park_timeout(LOOK_AGAIN);
        asked = wait::call(&factory.places, Method::POST, path)?;
    }
    match asked {
        Ok(_) => {}
        Err(CallError::Away { .. }) => {
            wait::end_gateway(factory)?;
            views::print("the factory does not run here\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(Failure::of(Class::Internal, error)),
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
