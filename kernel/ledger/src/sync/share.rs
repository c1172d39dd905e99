//! What goes to the remote.

use super::{PREFIX, STATE, SyncError, TARGET};
use crate::inbox::Inbox;
use crate::pack::{Which, dated_refs};
use crate::places::Places;
use crate::user::UserRepo;
use factory_core::ids::Oid;
use factory_core::inbox::InboxEntry;
use factory_core::model::{PrState, Run};
use factory_core::state::State;
use std::collections::BTreeMap;

/// Everything beside the state that another machine needs to go on from it, by
/// full name on the remote. Read it after the state: refs only move forward, so
/// what is found is then at least as new.
pub fn wanted(
    places: &Places,
    user: &UserRepo,
    state: &State,
    transcripts: bool,
) -> Result<BTreeMap<String, Oid>, SyncError> {
    let mut wanted = BTreeMap::new();
    let mut want = |name: String, oid: &Oid| {
        wanted.insert(format!("{PREFIX}{name}"), oid.clone());
    };
    if let Some(tip) = user.tip(&state.meta.target)? {
        want(TARGET.trim_start_matches(PREFIX).to_owned(), &tip);
    }
    let inbox = Inbox::open(places)?;
    for run in state.runs.values() {
        if let Some(tip) = inbox.tip(run.id)? {
            want(format!("inbox/{}", run.id), &tip);
        }
        let (pushed, checkpoint) = newest(&inbox, run)?;
        if let Some(commit) = pushed {
            want(format!("keep/run/{}", run.id), &commit);
        }
        if let Some(commit) = checkpoint {
            want(format!("keep/checkpoint/{}", run.id), &commit);
        }
        if let Some(resume) = &run.resume {
            want(
                format!("keep/checkpoint/{}", resume.run),
                &resume.checkpoint,
            );
        }
    }
    for job in state.jobs.values() {
        if let Some(resume) = &job.resume {
            want(
                format!("keep/checkpoint/{}", resume.run),
                &resume.checkpoint,
            );
        }
        if let Some(commit) = job.stage().commit() {
            want(format!("keep/job-{}", job.issue), commit);
        }
        let with_base_tests = job.change.as_ref().and_then(|c| c.with_base_tests.as_ref());
        if let Some(commit) = with_base_tests {
            want(format!("keep/base-tests-{}", job.issue), commit);
        }
        // An instruction has no branch of its own.
        if !job.branch.is_empty()
            && let Some(tip) = user.tip(&job.branch)?
        {
            want(format!("branch/{}", job.branch), &tip);
        }
    }
    for pr in state.prs.values() {
        want(format!("keep/job-{}", pr.issue), &pr.head);
        if let PrState::Testing { merge, .. } = &pr.state {
            want(format!("keep/merge-{}", pr.number), merge);
        }
    }
    if transcripts {
        for dated in dated_refs(places, Which::Door, "refs/transcripts/")? {
            want(
                dated.name.trim_start_matches("refs/").to_owned(),
                &dated.oid,
            );
        }
    }
    Ok(wanted)
}

/// Where the newest push and the newest checkpoint of a run led: its inbox may
/// know more than the state.
fn newest(inbox: &Inbox, run: &Run) -> Result<(Option<Oid>, Option<Oid>), SyncError> {
    let (mut pushed, mut checkpoint) = (run.pushed.clone(), run.checkpoint.clone());
    for (_, entry) in inbox.read_after(run.id, run.inbox_seen.as_ref())? {
        match entry {
            InboxEntry::Push { new, .. } => pushed = Some(new),
            InboxEntry::Checkpoint { commit } => checkpoint = Some(commit),
            InboxEntry::Usage(_)
            | InboxEntry::OverBudget
            | InboxEntry::Report { .. }
            | InboxEntry::End(_) => {}
        }
    }
    Ok((pushed, checkpoint))
}

/// What must change on a remote that has `there`: what is wanted and not there,
/// and what is there and no longer wanted. Transcripts that are there stay.
pub fn changes(
    there: &BTreeMap<String, Oid>,
    wanted: BTreeMap<String, Oid>,
) -> BTreeMap<String, Option<Oid>> {
    let kept = format!("{PREFIX}transcripts/");
    let stale = there
        .keys()
        .filter(|name| *name != STATE && !name.starts_with(&kept) && !wanted.contains_key(*name));
    let mut changes: BTreeMap<_, _> = stale.map(|name| (name.clone(), None)).collect();
    for (name, oid) in wanted {
        if there.get(&name) != Some(&oid) {
            changes.insert(name, Some(oid));
        }
    }
    changes
}
