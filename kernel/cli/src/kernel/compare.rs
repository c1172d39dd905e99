//! Tries the merge of a job's work with every open pull request, before its own one opens.

use super::{
    Outcome,
    tools::{Tools, Work},
};
use factory_core::{
    event::Event,
    ids::{IssueNo, Oid, PrNo},
    model::{PrState, Stage},
    state::State,
};
use factory_ledger::{
    change,
    failpoint::{Process::Kernel, around},
};
use factory_runtime::Runtime;
use std::sync::Arc;

/// Looks with which open pull requests the work of a job conflicts.
pub fn compare<R: Runtime>(tools: Arc<Tools<R>>, state: &State, number: IssueNo) -> Work {
    let stage = state.jobs.get(&number).map(|job| job.stage().clone());
    let Some(Stage::Opening { commit }) = stage else {
        return Box::pin(async { Ok(Outcome::default()) });
    };
    let others = state.prs.values().filter(|pr| {
        let is_open = !matches!(pr.state, PrState::Merged { .. } | PrState::Closed { .. });
        pr.issue != number && is_open
    });
    let others: Vec<(PrNo, Oid)> = others.map(|pr| (pr.number, pr.head.clone())).collect();
    Box::pin(async move {
        let head = commit.clone();
        let conflicts = tools.git(move |repos| {
            Ok(around(Kernel, "compare", || {
                change::conflicts(&repos.door, &head, &others)
            })?)
        });
        Ok(Event::Compared {
            job: number,
            conflicts: conflicts.await?,
            commit,
        }
        .into())
    })
}
