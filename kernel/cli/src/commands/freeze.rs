//! The emergency stop: `factory stop --all-agents` and `factory resume`.

use crate::{
    commands::processes::on_this_thread,
    factory::Factory,
    failure::Failure,
    kernel::STOP_GRACE,
    views,
    wait::{self, Next},
};
use factory_core::{container::ContainerSpec, event::Command, model::Run};
use factory_runtime::{
    Runtime,
    docker::{self, DockerRuntime},
};
use std::process::ExitCode;

/// Stops all agents, and lets none begin, until [`lift`].
pub fn run(factory: &mut Factory) -> Result<ExitCode, Failure> {
    // Somebody else may have ordered it already; then this one sees it through as well.
    if factory.state.meta.frozen.is_none() {
        wait::order(factory, Command::Freeze)?;
    }
    let stopped = factory
        .state
        .runs
        .values()
        .filter(|run| run.is_open())
        .count();
    while factory.state.runs.values().any(Run::is_open) {
        if wait::next(factory)? == Next::NoKernel {
            stop_what_is_left(factory)?;
            break;
        }
    }
    views::told(&format!(
        "all agents are stopped ({stopped} {}); nothing begins before `factory resume`\n",
        match stopped {
            1 => "run; what it has is kept",
            _ => "runs; what they have is kept",
        }
    ))?;
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
