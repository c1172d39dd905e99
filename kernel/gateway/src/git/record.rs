//! What `door.git` has and the inbox does not know yet.

use crate::{door::RunDoor, error::GatewayError, stores::Stores};
use factory_core::ids::{Oid, RunId};
use factory_core::inbox::InboxEntry;
use factory_ledger::door::Tips;
use factory_ledger::inbox::InboxError;
use std::sync::PoisonError;

/// What the inbox of a run says about its refs. Kept by the run's door so that
/// an inbox of thousands of model calls is read once.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The newest entry that was read.
    seen: Option<Oid>,
    pushed: Option<Oid>,
    checkpoint: Option<Oid>,
}

impl Known {
    fn read(&mut self, stores: &Stores, run: RunId) -> Result<(), InboxError> {
        match stores.inbox.read_after(run, self.seen.as_ref()) {
            Ok(entries) => {
                for (oid, entry) in entries {
                    self.learn(oid, entry);
                }
                Ok(())
            }
            Err(error) => {
                // Whatever was done to the inbox by hand: the next call reads all of it.
                *self = Self::default();
                Err(error)
            }
        }
    }

    fn learn(&mut self, oid: Oid, entry: InboxEntry) {
        self.seen = Some(oid);
        match entry {
            InboxEntry::Push { new, .. } => self.pushed = Some(new),
            InboxEntry::Checkpoint { commit } => self.checkpoint = Some(commit),
            InboxEntry::Usage(_)
            | InboxEntry::OverBudget
            | InboxEntry::Report { .. }
            | InboxEntry::End(_) => {}
        }
    }

    /// Writes what `tips` are ahead by.
    fn write(
        &mut self,
        stores: &Stores,
        run: RunId,
        start: &Oid,
        tips: &Tips,
    ) -> Result<(), InboxError> {
        let old = self.pushed.as_ref().unwrap_or(start);
        let ahead = tips.branch.as_ref().filter(|tip| *tip != old);
        let push = ahead.map(|new| InboxEntry::Push {
            old: old.clone(),
            new: new.clone(),
        });
        let known = self.checkpoint.as_ref().unwrap_or(start);
        let ahead = tips.checkpoint.as_ref().filter(|tip| *tip != known);
        let checkpoint = ahead.map(|commit| InboxEntry::Checkpoint {
            commit: commit.clone(),
        });
        for entry in push.into_iter().chain(checkpoint) {
            let oid = stores.write_at(run, self.seen.as_ref(), &entry)?;
            stores.bell.notify_one();
            self.learn(oid, entry);
        }
        Ok(())
    }
}

/// Where the run's refs are, after the inbox knows it. An entry is written at
/// the place in the inbox that was read before the refs were: another gateway,
/// handing over or taking over, cannot write it a second time. Blocks.
pub(super) fn known_tips(door: &RunDoor) -> Result<Tips, GatewayError> {
    let grant = door.grant();
    let Some(branch) = &grant.branch else {
        return Ok(Tips::default());
    };
    let (stores, run) = (door.stores(), door.run());
    let inbox = |source| GatewayError::Inbox { source };
    let mut known = door.known.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        known.read(stores, run).map_err(inbox)?;
        let tips = stores
            .door
            .tips(run, branch)
            .map_err(|source| GatewayError::Door { source })?;
        match known.write(stores, run, &grant.start, &tips) {
            Ok(()) => return Ok(tips),
            Err(InboxError::Moved { .. }) => {}
            Err(source) => return Err(inbox(source)),
        }
    }
}
