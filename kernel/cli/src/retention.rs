//! How long what is over is kept. Its refs go while the kernel works; the room
//! that they took is free when a thorough packing found no run and no kernel.

use crate::{factory::Factory, failure::Failure, views::archive};
use factory_core::{
    ids::{IssueNo, PrNo, RunId},
    model::{IssueState, Seconds},
};
use factory_ledger::{
    pack::{self, DatedRef, Depth, Which},
    places::Places,
};
use std::{collections::BTreeMap, path::Path, time::UNIX_EPOCH};

/// In the cache: written when something was dropped.
const TO_FREE: &str = "to-free";
/// In the cache: when that was.
const FREED: &str = "freed";
/// Time between two thorough packings that nobody asked for.
const FREED_EVERY: Seconds = 7 * DAY;
/// After so long, twice what git waits, nothing of the last drop is left to free.
const SETTLED: Seconds = 28 * DAY;
const DAY: Seconds = 86_400;
/// How long transcripts and inboxes of archived runs are kept.
const RUN_KEPT: Seconds = 30 * DAY;
/// How long after its issue was closed a job's commits are kept.
const WORK_KEPT: Seconds = 90 * DAY;

/// What was dropped.
#[derive(Debug, Default)]
pub struct Dropped {
    /// Transcripts, as files or in `door.git`.
    pub transcripts: u64,
    /// Inboxes of runs.
    pub inboxes: u64,
    /// Commits that were kept for an issue.
    pub kept: u64,
}

/// Drops what is old enough. May be repeated, also while the kernel works: what
/// is live is kept, and what is over stays over.
pub fn drop_old(factory: &Factory, now: Seconds) -> Result<Dropped, Failure> {
    let places = &factory.places;
    // What the state has live is kept whatever its age.
    let over = |name: &str| -> bool {
        let run = name
            .rsplit('/')
            .next()
            .and_then(|n| n.parse::<RunId>().ok());
        run.is_some_and(|run| !factory.state.runs.contains_key(&run))
    };
    let old = |found: Vec<DatedRef>| -> Vec<DatedRef> {
        let mut found = found;
        found.retain(|dated| over(&dated.name) && dated.seconds < now - RUN_KEPT);
        found
    };
    let inboxes = old(pack::dated_refs(places, Which::State, "refs/inbox/")?);
    pack::drop_refs(places, Which::State, &inboxes)?;
    let transcripts = old(pack::dated_refs(places, Which::Door, "refs/transcripts/")?);
    let mut names: Vec<RunId> = Vec::new();
    names.extend(transcripts.iter().filter_map(|dated| run_of(&dated.name)));
    pack::drop_refs(places, Which::Door, &transcripts)?;

    let mut kept = Vec::new();
    let mut closed = BTreeMap::new();
    for dated in pack::dated_refs(places, Which::Door, "refs/keep/")? {
        let Some(issue) = issue_of(factory, &dated.name)? else {
            continue;
        };
        let at = match closed.get(&issue) {
            Some(at) => *at,
            None => closed_at(factory, issue)?,
        };
        closed.insert(issue, at);
        if at.is_some_and(|at| at < now - WORK_KEPT) {
            kept.push(dated);
        }
    }
    pack::drop_refs(places, Which::Door, &kept)?;

    for entry in std::fs::read_dir(places.transcripts())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".jsonl").filter(|name| over(name)) else {
            continue;
        };
        let made = entry.metadata()?.modified()?;
        let made = made.duration_since(UNIX_EPOCH).unwrap_or_default();
        if Seconds::try_from(made.as_secs()).is_ok_and(|made| made < now - RUN_KEPT) {
            std::fs::remove_file(entry.path())?;
            names.extend(name.parse::<RunId>().ok());
        }
    }
    // A transcript may be both a file and a ref.
    names.sort();
    names.dedup();
    let dropped = Dropped {
        transcripts: names.len() as u64,
        inboxes: inboxes.len() as u64,
        kept: kept.len() as u64,
    };
    if dropped.transcripts + dropped.inboxes + dropped.kept > 0 {
        std::fs::write(places.cache().join(TO_FREE), "")?;
    }
    Ok(dropped)
}

fn run_of(name: &str) -> Option<RunId> {
    name.rsplit('/').next()?.parse().ok()
}

/// The issue that a commit in `door.git` is kept for.
fn issue_of(factory: &Factory, name: &str) -> Result<Option<IssueNo>, Failure> {
    let Some(name) = name.strip_prefix("refs/keep/") else {
        return Ok(None);
    };
    if let Some(run) = name
        .strip_prefix("run/")
        .or_else(|| name.strip_prefix("checkpoint/"))
    {
        return Ok(run_of(run).map(|run| run.job));
    }
    if let Some(issue) = name
        .strip_prefix("job-")
        .or_else(|| name.strip_prefix("base-tests-"))
    {
        return Ok(issue.parse().ok());
    }
    if let Some(pr) = name.strip_prefix("merge-") {
        let Ok(pr) = pr.parse::<PrNo>() else {
            return Ok(None);
        };
        return Ok(archive::pr(factory, pr)?.map(|pr| pr.issue));
    }
    let Some(branch) = name.strip_prefix("branch/") else {
        return Ok(None);
    };
    // `<prefix>/<issue>-<slug>`; somebody else's branch may look the same.
    let last = branch.rsplit('/').next().unwrap_or(branch);
    let digits = last.split('-').next().unwrap_or(last);
    let Ok(issue) = digits.parse::<IssueNo>() else {
        return Ok(None);
    };
    let job = archive::job(factory, issue)?;
    Ok(job.filter(|job| job.branch == branch).map(|job| job.issue))
}

/// When an issue was closed; none while it is open.
fn closed_at(factory: &Factory, number: IssueNo) -> Result<Option<Seconds>, Failure> {
    if factory.state.issues.contains_key(&number) || factory.state.jobs.contains_key(&number) {
        return Ok(None);
    }
    let issue = archive::issue(factory, number)?;
    Ok(issue.and_then(|issue| match issue.state {
        IssueState::Closed { at, .. } => Some(at),
        IssueState::Proposed | IssueState::Approved { .. } => None,
    }))
}

/// Frees the room of what was dropped, if there is any and the last time was a
/// week ago. Only for whoever holds the kernel's lock and has no run. Tells
/// whether it packed.
pub fn free(places: &Places, now: Seconds) -> Result<bool, Failure> {
    let lately = made(&places.cache().join(FREED)).is_some_and(|at| at > now - FREED_EVERY);
    if lately || made(&places.cache().join(TO_FREE)).is_none() {
        return Ok(false);
    }
    for which in [Which::State, Which::Door] {
        if which.dir(places).exists() && !pack::pack(places, which, Depth::Whole, now)? {
            // Somebody packs it: the next kernel tries again.
            return Ok(false);
        }
    }
    freed(places, now)?;
    Ok(true)
}

/// Notes a thorough packing. What was dropped lately is younger than git throws
/// away, so there is something to free until the last drop is long ago.
pub fn freed(places: &Places, now: Seconds) -> Result<(), Failure> {
    std::fs::write(places.cache().join(FREED), "")?;
    let to_free = places.cache().join(TO_FREE);
    if made(&to_free).is_some_and(|at| at < now - SETTLED) {
        std::fs::remove_file(to_free)?;
    }
    Ok(())
}

/// When a file was written last; none where there is none.
fn made(file: &Path) -> Option<Seconds> {
    let made = std::fs::metadata(file).and_then(|meta| meta.modified());
    let since = made.ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Seconds::try_from(since.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use factory_ledger::{base::BaseRepo, door::DoorRepo, git::Git};
    use std::time::Duration;

    #[test]
    fn room_is_freed_once_something_was_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        places.ensure_dirs().unwrap();
        let base = BaseRepo::init(places.base_git()).unwrap();
        let door = DoorRepo::init(places.door_git(), &base).unwrap();
        let git = Git::isolated(door.dir());
        let made = git
            .call(["hash-object", "-w", "--stdin"])
            .stdin("a transcript");
        let blob = made.text().unwrap();
        let file = door.dir().join("objects").join(&blob[..2]).join(&blob[2..]);
        let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let opened = std::fs::File::options().read(true).open(&file).unwrap();
        opened.set_modified(long_ago).unwrap();
        // Packing nothing at all frees nothing either.
        let tree = git.call(["mktree"]).stdin("").text().unwrap();
        let who = ["-c", "user.name=x", "-c", "user.email=x@y"];
        let commit = git.call(who).args(["commit-tree", "-m", "t", &tree]);
        door.keep("job-1", &commit.text().unwrap().parse().unwrap())
            .unwrap();
        let there = || git.call(["cat-file", "-e", &blob]).text().is_ok();

        let now = crate::clock::now().0;
        assert!(!free(&places, now).unwrap());
        assert!(there(), "nothing was dropped");
        std::fs::write(places.cache().join(TO_FREE), "").unwrap();
        assert!(free(&places, now).unwrap());
        assert!(!there());
        assert!(!free(&places, now).unwrap(), "once a week");
        assert!(free(&places, now + 8 * DAY).unwrap());
        assert!(free(&places, now + 40 * DAY).unwrap());
        assert!(!free(&places, now + 60 * DAY).unwrap(), "it is settled");
    }
}
