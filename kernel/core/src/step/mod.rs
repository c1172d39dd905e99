//! `step`: what an event changes. Synchronous, total, deterministic.

mod checked;
mod command;
mod configured;
mod ended;
mod job;
mod merge;
mod moved;
mod queue;
mod reading;
mod reported;
mod run;
mod split;
mod steer;
mod tx;
mod verify;

use crate::{
    event::{Event, Now, Refusal},
    model::ConfigInForce,
    state::{Delta, State},
};
use tx::Tx;

/// What an event changes: to be committed as one state commit, then applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What changes; [`State::apply`] takes it over once its commit landed.
    pub delta: Delta,
    /// What happened, one line: the subject of the state commit.
    pub note: String,
    /// `<epoch>.<n>`, the value of the commit's `Factory-Step` trailer.
    pub step: String,
}

impl Step {
    /// The message of the state commit.
    pub fn message(&self) -> String {
        format!("{}\n\nFactory-Step: {}\n", self.note, self.step)
    }
}

/// Decides what `event` changes in `state`, or why it changes nothing.
pub fn step(state: &State, event: Event, now: Now) -> Result<Step, Refusal> {
    let mut tx = Tx::new(state, now);
    let note = match event {
        Event::KernelStarted { kernel, adopted } => {
            let meta = tx.meta();
            meta.epoch.0 += 1;
            let mut note = format!("kernel: started, epoch {} (pid {})", meta.epoch, kernel.pid);
            let before = meta.kernel.as_ref();
            if !before.is_some_and(|before| before.is_of_the_same_start(&kernel)) {
                meta.ending = None;
            }
            meta.kernel = Some(kernel);
            if !adopted.is_empty() {
                let names: Vec<String> = adopted.iter().map(ToString::to_string).collect();
                note.push_str(&format!(", adopted {}", names.join(", ")));
            }
            note
        }
        Event::ConfigLoaded { config, .. } if *config == state.config.config => {
            return Err(Refusal::Stale("the configuration".to_owned()));
        }
        Event::ConfigLoaded { commit, config } => {
            let from = commit
                .as_ref()
                .map_or("defaults".to_owned(), |c| c.short().to_owned());
            tx.set_config(ConfigInForce {
                commit,
                config: *config,
            });
            configured::follow(&mut tx, &state.config.config)?;
            format!("config: loaded from {from}")
        }
        Event::TargetChanged { branch } => {
            let note = format!("target: {branch}");
            tx.meta().target = branch;
            note
        }
        Event::Shared { machine } => moved::shared(&mut tx, machine),
        Event::TakenOver { machine } => moved::taken_over(&mut tx, machine)?,
        Event::RunsElsewhere { runs } => moved::elsewhere(&mut tx, &runs)?,
        Event::Command { by, command } => command::command(&mut tx, &by, command)?,
        Event::RunGranted {
            job,
            purpose,
            slot,
            facts,
        } => run::granted(&mut tx, job, purpose, slot, facts)?,
        Event::RunRunning { run } => run::running(&mut tx, run)?,
        Event::SpawnFailed { run, why } => ended::spawn_failed(&mut tx, run, &why)?,
        Event::Inbox { run, entries } => run::inbox(&mut tx, run, entries)?,
        Event::ContainerEnded { run, exit } => ended::ended(&mut tx, run, exit)?,
        Event::EndReached => {
            tx.meta().ending = None;
            "kernel: ends as it was told".to_owned()
        }
        Event::EndOrdered { how } => run::end_ordered(&mut tx, how)?,
        Event::RunCollected { run } => run::collected(&mut tx, run)?,
        Event::EffectDone { key, result } => merge::effect_done(&mut tx, &key, result)?,
        Event::DraftsDue => reported::due(&mut tx)?,
        Event::MergeMade { pr, target, result } => merge::merge_made(&mut tx, pr, target, result)?,
        Event::Compared {
            job,
            commit,
            conflicts,
        } => job::compared(&mut tx, job, &commit, conflicts)?,
        Event::MergeFailed { pr, why } => merge::merge_failed(&mut tx, pr, why)?,
    };
    Ok(tx.finish(note))
}
