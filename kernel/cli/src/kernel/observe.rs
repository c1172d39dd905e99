//! What the kernel sees of the container engine.

use super::tools::Tools;
use crate::failure::Failure;
use factory_core::{
    config::Amounts,
    ids::RunId,
    model::ContainerExit,
    plan::Seen,
    quantity::{Bytes, Milli},
    state::State,
};
use factory_runtime::{ContainerState, EngineInfo, Exit, Runtime};
use std::collections::BTreeMap;

/// The engine's size in the words of the core.
pub fn size_of(engine: &EngineInfo) -> Amounts {
    Amounts {
        memory: Bytes(engine.memory),
        cpus: Milli(u64::from(engine.cpus) * 1000),
    }
}

/// An engine's exit in the words of the core.
pub fn exit_of(exit: &Exit) -> ContainerExit {
    ContainerExit {
        code: exit.code,
        oom: exit.oom_killed,
    }
}

/// Every container of this factory.
pub async fn containers<R: Runtime>(tools: &Tools<R>) -> Result<BTreeMap<RunId, Seen>, Failure> {
    let list = tools.runtime.list(&tools.home).await?;
    let seen = |state: &ContainerState| match state {
        ContainerState::Created => Seen::Created,
        ContainerState::Running => Seen::Running,
        ContainerState::Exited(exit) => Seen::Exited(exit_of(exit)),
    };
    Ok(list
        .iter()
        .filter_map(|c| Some((c.run()?, seen(&c.state))))
        .collect())
}

/// Runs of an earlier kernel whose containers live on.
pub fn adopted(state: &State, containers: &BTreeMap<RunId, Seen>) -> Vec<RunId> {
    let runs = state.runs.values().filter(|run| run.is_open());
    runs.map(|run| run.id)
        .filter(|id| matches!(containers.get(id), Some(Seen::Running)))
        .collect()
}
