//! Whether a run that was planned may still begin: what it needs is looked up meanwhile,
//! and people, other runs and `factory.yaml` do not wait for that.

use super::Room;
use crate::{
    config::Amounts,
    event::Now,
    ids::{IssueNo, RunId},
    model::{Job, Purpose},
    plan::Observed,
    quantity::{Bytes, Milli},
    state::State,
};

impl State {
    /// True while a run of the job is not over. Another one begins after it.
    pub(super) fn has_open_run(&self, job: IssueNo) -> bool {
        let of_job = RunId { job, k: 0 }..=RunId { job, k: u32::MAX };
        let mut runs = self.runs.range(of_job);
        runs.any(|(_, run)| run.is_open())
    }

    /// What the kernel that runs, or ran last, sees of the engine.
    pub fn seen(&self) -> Observed {
        let kernel = self.meta.kernel.as_ref();
        let unknown = Amounts {
            memory: Bytes(u64::MAX),
            cpus: Milli(u64::MAX),
        };
        Observed {
            engine: kernel.and_then(|kernel| kernel.engine).unwrap_or(unknown),
            slots: kernel.and_then(|kernel| kernel.slots),
            ..Observed::default()
        }
    }

    /// True where the job's next run may begin in this slot, as things are now.
    pub(crate) fn admits(&self, job: &Job, purpose: &Purpose, slot: u32, now: Now) -> bool {
        let waits = match purpose {
            Purpose::Split
            | Purpose::Plan
            | Purpose::Code
            | Purpose::Check
            | Purpose::Review
            | Purpose::Verify => self.queue.holds(job.issue),
            // A merge that is made goes on: others wait behind it.
            Purpose::MergeTest { .. } => true,
        };
        let mut room = Room::of(self, &self.seen(), now);
        let is_free = room.free.contains(&slot);
        waits && is_free && !self.has_open_run(job.issue) && room.take(self, job, purpose).is_ok()
    }
}
