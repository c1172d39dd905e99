//! Names of actions: under one name an action is begun once at a time.

use crate::failure::Failure;
use factory_core::{
    event::{EffectResult, Event},
    plan::Action,
};

/// Beginnings of the names of actions.
pub(super) const SPAWN: &str = "spawn ";
pub(super) const GRANT: &str = "grant ";
pub(super) const PERFORM: &str = "perform ";
pub(super) const MERGE: &str = "merge ";
/// Name of looking at the configuration of the target.
pub(super) const CONFIG: &str = "config";
/// Name of what is wrong with it.
pub(super) const CONFIG_KEPT: &str = "configuration";

/// Names an action: under one name it is begun once at a time.
pub(super) fn key(action: &Action) -> String {
    match action {
        Action::Journal(_) => "journal".to_owned(),
        Action::Grant { job, .. } => format!("{GRANT}{job}"),
        Action::Spawn(run) => format!("{SPAWN}{run}"),
        Action::Await(run) => format!("await {run}"),
        Action::Conclude(run, _) => format!("conclude {run}"),
        Action::Stop(run) => format!("stop {run}"),
        Action::Kill(run) => format!("kill {run}"),
        Action::Collect(run) => format!("collect {run}"),
        Action::RemoveStray(run) => format!("remove {run}"),
        Action::Perform(effect) => format!("{PERFORM}{effect}"),
        Action::Compare(job) => format!("compare {job}"),
        Action::Merge(pr) => format!("{MERGE}{pr}"),
    }
}

/// What is journalled when an action is given up, where a person or another run
/// can go on. What clears up after a run is never given up.
pub(super) fn given_up(key: &str, failure: &Failure) -> Option<Event> {
    let why = failure.chain();
    if let Some(run) = key.strip_prefix(SPAWN) {
        let run = run.parse().ok()?;
        return Some(Event::SpawnFailed { run, why });
    }
    if let Some(pr) = key.strip_prefix(MERGE) {
        let pr = pr.parse().ok()?;
        return Some(Event::MergeFailed { pr, why });
    }
    let key = key.strip_prefix(PERFORM)?.to_owned();
    let result = EffectResult::Failed { why };
    Some(Event::EffectDone { key, result })
}
