//! The work goes on on another machine.

use super::{ended, merge, tx::Tx};
use crate::{
    event::{EffectResult, Refusal},
    ids::RunId,
    model::{EffectKind, Machine},
    text,
};

/// The first synchronisation says whose state the remote takes.
pub(super) fn shared(tx: &mut Tx<'_>, machine: Machine) -> String {
    let note = format!("sync: shared from {}", text::one_line(&machine.host));
    tx.meta().holder = Some(machine);
    note
}

/// Raises the epoch and ends what is bound to the machine before: its runs, and
/// a merge that was about to move a branch in a work tree there.
pub(super) fn taken_over(tx: &mut Tx<'_>, machine: Machine) -> Result<String, Refusal> {
    let host = text::one_line(&machine.host);
    let meta = tx.meta();
    meta.epoch.0 += 1;
    meta.kernel = None;
    meta.holder = Some(machine);
    let mut note = format!("factory: taken over by {host}, epoch {}", meta.epoch);
    for effect in tx.open_effects() {
        match effect.kind {
            // The merge is made and tested again, with the target as it is here.
            EffectKind::AdvanceTarget { .. } => {
                merge::effect_done(tx, &effect.key, EffectResult::TargetMoved)?;
            }
            // Its swap asks where the branch is here.
            EffectKind::MoveBranch { .. } => {}
        }
    }
    let left = tx.open_runs();
    for run in &left {
        ended::left_behind(tx, *run, &format!("the work moved to {host}"))?;
    }
    if !left.is_empty() {
        note.push_str(&format!(", left behind {}", names(&left)));
    }
    Ok(note)
}

/// Ends runs whose containers belong to the repository that this is a copy of.
pub(super) fn elsewhere(tx: &mut Tx<'_>, runs: &[RunId]) -> Result<String, Refusal> {
    for run in runs {
        let why = "it goes on in the repository that this is a copy of";
        ended::left_behind(tx, *run, why)?;
    }
    Ok(format!(
        "kernel: this repository was copied or moved to another disk; {} done again here",
        names(runs)
    ))
}

fn names(runs: &[RunId]) -> String {
    let names: Vec<String> = runs.iter().map(ToString::to_string).collect();
    names.join(", ")
}
