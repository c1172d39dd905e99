//! The emergency stop: `factory stop --all-agents` and `factory resume`.

use crate::{
    commands::processes::on_this_thread,
    factory::Factory,
    failure::{Class, Failure},
    kernel::STOP_GRACE,
    views,
    wait::{self, LOOK_AGAIN},
};
use factory_core::{container::ContainerSpec, event::Command, model::Run};
use factory_runtime::{
    Runtime,
    docker::{self, DockerRuntime},
};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// Time that the kernel has to stop the agents: somewhat longer than an agent has to save
/// what it has, where it does.
const KERNELS_TIME: Duration = Duration::from_secs(5);

/// Stops all agents, and lets none begin, until [`lift`].
pub fn run(factory: &mut Factory) -> Result<ExitCode, Failure> {
    // Somebody else may have ordered it already; then this one sees it through as well.
    while factory.state.meta.frozen.is_none() {
        match wait::order(factory, Command::Freeze) {
            Ok(_) => {}
            Err(refused) if refused.class() == Class::Refused => drop(factory.reload()?),
            Err(failure) => return Err(failure),
        }
    }
    let open = || factory.state.runs.values().filter(|run| run.is_open());
    let is_here = |run: &&Run| run.container == ContainerSpec::name_for(&factory.home, run.id);
    let stopped = open().filter(is_here).count();
    let elsewhere = open().count() - stopped;
    // The kernel knows best how. One that hangs, or is not there, does not hold it up.
    let given_up = Instant::now() + KERNELS_TIME;
    while factory.state.runs.values().any(Run::is_open) {
        if Instant::now() > given_up || wait::kernel(&factory.places)?.is_none() {
            stop_what_is_left(factory)?;
            break;
        }
        std::thread::park_timeout(LOOK_AGAIN);
        factory.reload()?;
    }
    views::told(&format!(
        "all agents are stopped ({stopped} {}); nothing begins before `factory resume`\n",
        match stopped {
            1 => "run; what it has is kept",
            _ => "runs; what they have is kept",
        }
    ))?;
    if elsewhere > 0 {
        views::hint(&format!(
            "{elsewhere} more live in the repository that this is a copy of, and go on there: stop them there"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets agents work again.
pub fn lift(factory: &mut Factory) -> Result<ExitCode, Failure> {
    let (_, awake) = wait::order(factory, Command::Thaw)?;
    views::told(match awake {
        true => "the factory goes on\n",
        false => "agents may work again; `factory start` goes on with what was stopped\n",
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Stops the containers that no kernel looks after. The next one records their ends.
fn stop_what_is_left(factory: &Factory) -> Result<(), Failure> {
    on_this_thread(async {
        let runtime = DockerRuntime::new(docker::connect().await?).await?;
        let left = runtime.list(&factory.home).await?;
        let runs = left.iter().filter_map(|container| container.run());
        let names: Vec<String> = runs
            .map(|run| ContainerSpec::name_for(&factory.home, run))
            .collect();
        let stops = names.iter().map(|name| runtime.stop(name, STOP_GRACE));
        for ended in futures_util::future::join_all(stops).await {
            ended?;
        }
        Ok(())
    })
}
