//! What a push brings, object by object: where each comes from, and what it changes.
//!
//! The common case costs no process: what is new was not there before, and stands in front
//! of commits whose trees are read. Git is asked where that leaves a doubt.

use super::child;
use super::inspect::{self, InspectError, Target};
use super::quarantine::Quarantine;
use super::refusal::PushRefusal;
use super::rules::RunJudge;
use crate::door::RunDoor;
use factory_core::ids::Oid;
use factory_core::text::shown;
use factory_ledger::changes::{Bounds, ChangesError};
use factory_ledger::door::Tips;
use factory_ledger::incoming::{Form, Incoming, Inspection, Unsure};
use std::process::Stdio;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Most commits of one push.
const COMMITS: usize = 10_000;
/// Most characters of a path that are told.
const PATH_CHARS: usize = 200;

/// What a run may build on.
#[derive(Debug, Clone)]
struct Ground {
    /// Commits whose histories were judged before, or are people's.
    settled: Vec<Oid>,
    /// Commits that the run may know beside these, and that nobody judged yet.
    seen: Vec<Oid>,
}

impl Ground {
    fn of(door: &RunDoor, target: &Target, tips: &Tips) -> Self {
        let grant = door.grant();
        let (branch, checkpoint) = (tips.branch.iter(), tips.checkpoint.iter());
        let branch = std::iter::once(&grant.start).chain(branch);
        let seen = checkpoint.chain(&grant.resume);
        match target {
            Target::Branch { .. } => Self {
                settled: branch.cloned().collect(),
                seen: seen.cloned().collect(),
            },
            // Nobody builds on it but the run that goes on from it.
            Target::Checkpoint => Self {
                settled: branch.chain(seen).cloned().collect(),
                seen: Vec::new(),
            },
        }
    }

    fn all(&self) -> impl Iterator<Item = &Oid> {
        self.settled.iter().chain(&self.seen)
    }
}

/// A push whose objects are judged.
pub(super) struct Push {
    pub(super) door: Arc<RunDoor>,
    pub(super) target: Target,
    pub(super) new: Oid,
    /// Where the run's refs are.
    pub(super) tips: Tips,
    /// Objects that others in the pack are made from.
    pub(super) bases: Vec<[u8; 20]>,
    /// Where it was unpacked.
    pub(super) quarantine: Arc<Quarantine>,
}

/// What was looked at, in one go.
struct Looked {
    unsure: Unsure,
    /// What the agent is told of a push that is good.
    told: String,
}

/// Judges what was unpacked; gives what may be taken over, and what the agent is told of it.
pub(super) async fn judge(
    push: Push,
    stop: &CancellationToken,
) -> Result<(Incoming, String), InspectError> {
    let quarantine = Arc::clone(&push.quarantine);
    let quarantine = &*quarantine;
    let start = push.door.grant().start.clone();
    let mut ground = Ground::of(&push.door, &push.target, &push.tips);
    let (push, folder) = (Arc::new(push), quarantine.path().to_owned());
    let (work, known, token) = (Arc::clone(&push), ground.clone(), stop.clone());
    // Most pushes are judged in this one go.
    let (incoming, is_told, mut brought, looked) = blocking(move || {
        let incoming = Incoming::open(&work.door.stores().door, &folder, &work.bases)?;
        let is_told = inspect::judge_objects(&incoming, &work.target, &work.new, &start)?;
        let brought = match is_told {
            true => incoming.brings(&work.new, &known.settled, &|| token.is_cancelled())?,
            false => None,
        };
        let looked = brought
            .as_ref()
            .map(|brought| work.inspect(&incoming, brought, &known, &Unsure::default(), &token));
        Ok((incoming, is_told, brought, looked.transpose()?))
    })
    .await?;
    let start = push.door.grant().start.clone();
    if !is_told {
        inspect::judge_history(quarantine, &push.target, &push.new, &start, stop).await?;
    }
    if let Some(looked) = &looked
        && looked.unsure.is_empty()
    {
        return Ok((incoming, looked.told.clone()));
    }
    // What targets moved on to is people's as well.
    let work = Arc::clone(&push);
    let shared = blocking(move || Ok(work.door.stores().door.shared()?)).await?;
    ground.settled.extend(shared);
    if brought.is_none() {
        let listed = new_commits(quarantine, &push.new, ground.settled.iter(), stop).await?;
        let foreign = listed.iter().any(|commit| !incoming.is_own(commit));
        if foreign {
            let own = new_commits(quarantine, &push.new, ground.all(), stop).await?;
            if let Some(foreign) = own.into_iter().find(|commit| !incoming.is_own(commit)) {
                let (object, path) = (foreign.to_string(), String::new());
                return Err(PushRefusal::Foreign { object, path }.into());
            }
        }
        brought = Some(listed);
    }
    let brought = Arc::new(brought.unwrap_or_default());
    let inspect = |incoming: Incoming, admitted: Unsure| {
        let (work, known, token) = (Arc::clone(&push), ground.clone(), stop.clone());
        let brought = Arc::clone(&brought);
        blocking(move || {
            let looked = work.inspect(&incoming, &brought, &known, &admitted, &token)?;
            Ok((incoming, looked))
        })
    };
    let (incoming, looked) = match looked {
        Some(looked) => (incoming, looked),
        None => inspect(incoming, Unsure::default()).await?,
    };
    if looked.unsure.is_empty() {
        return Ok((incoming, looked.told));
    }
    let mut unsure = looked.unsure;
    find(quarantine, &ground, &mut unsure, stop).await?;
    refuse_foreign(&unsure)?;
    let (incoming, looked) = inspect(incoming, unsure).await?;
    refuse_foreign(&looked.unsure)?;
    Ok((incoming, looked.told))
}

/// Refuses what was not found in any history that the run may know.
fn refuse_foreign(unsure: &Unsure) -> Result<(), PushRefusal> {
    match unsure.first() {
        None => Ok(()),
        Some((object, path)) => Err(PushRefusal::Foreign {
            object: object.to_owned(),
            path: path_shown(path),
        }),
    }
}

impl Push {
    fn inspect(
        &self,
        incoming: &Incoming,
        brought: &[Oid],
        ground: &Ground,
        admitted: &Unsure,
        stop: &CancellationToken,
    ) -> Result<Looked, InspectError> {
        let grant = self.door.grant();
        let form = match &self.target {
            Target::Branch { .. } => Form::Branch,
            Target::Checkpoint => {
                let earlier = self.tips.checkpoint.iter().chain(&grant.resume);
                let earlier = earlier.cloned().collect();
                Form::Checkpoint { earlier }
            }
        };
        let stop = || stop.is_cancelled();
        let inspection = Inspection {
            brought,
            there: &ground.settled,
            form: &form,
            admitted,
            bounds: Bounds::PUSH,
            stop: &stop,
        };
        let mut judge = RunJudge::of(self, &stop)?;
        let unsure = incoming.inspect(&inspection, &mut judge)?;
        // Of what may be another run's nothing is told but that it is not the pusher's.
        let told = match unsure.is_empty() {
            true => judge.ended()?,
            false => String::new(),
        };
        Ok(Looked { unsure, told })
    }
}

/// The commits of `new` that are in no history of `known`.
async fn new_commits<'a>(
    quarantine: &Quarantine,
    new: &'a Oid,
    known: impl Iterator<Item = &'a Oid>,
    stop: &CancellationToken,
) -> Result<Vec<Oid>, InspectError> {
    let most = format!("--max-count={}", COMMITS + 1);
    let known: Vec<&str> = known.map(Oid::as_str).collect();
    let asked = [&["rev-list", &most, new.as_str(), "--not"], &known[..]].concat();
    let ended = child::run(quarantine.git(&asked), Stdio::null(), Some(stop)).await?;
    if !ended.status.success() {
        let found = child::lines(&ended.stderr);
        return Err(PushRefusal::Fsck { found }.into());
    }
    let text = String::from_utf8_lossy(&ended.stdout);
    let commits: Vec<Oid> = text.lines().filter_map(|line| line.parse().ok()).collect();
    if commits.len() > COMMITS {
        let rule = format!("a push brings at most {COMMITS} commits");
        return Err(PushRefusal::Bulk { rule }.into());
    }
    Ok(commits)
}

/// Looks for objects in all histories that the run may know.
async fn find(
    quarantine: &Quarantine,
    ground: &Ground,
    unsure: &mut Unsure,
    stop: &CancellationToken,
) -> Result<(), InspectError> {
    let mut asked = vec!["rev-list", "--objects", "--no-object-names"];
    asked.extend(ground.all().map(Oid::as_str));
    let found = |object: &str| {
        unsure.find(object);
        !unsure.is_empty()
    };
    child::each_line(quarantine.git(&asked), stop, found).await?;
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InspectError> + Send + 'static,
) -> Result<T, InspectError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(InspectError::Worker)?
}

/// A path as it is told.
pub(super) fn path_shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut path = shown(&text);
    if let Some((end, _)) = path.char_indices().nth(PATH_CHARS) {
        path.truncate(end);
        path.push('…');
    }
    path.replace(['\n', '\t'], " ")
}

impl From<ChangesError> for InspectError {
    fn from(error: ChangesError) -> Self {
        let rule = match error {
            ChangesError::Stopped => return Self::Stopped,
            ChangesError::Unread(source) => return Self::Unread(source),
            ChangesError::Parents { commit, limit } => {
                return Self::Refused(PushRefusal::Parents { commit, limit });
            }
            ChangesError::Mode { path, mode } => {
                let found = format!(
                    "badFilemode: `{}` has the mode {mode:o}; git writes 40000, 100644, 100755, 120000 and 160000",
                    path_shown(&path)
                );
                return Self::Refused(PushRefusal::Fsck { found: vec![found] });
            }
            ChangesError::Entries { limit } => {
                format!("a push changes at most {limit} files and directories")
            }
            ChangesError::Compared => {
                "what a push changes can be compared: its directories have too many entries for its commits".to_owned()
            }
            ChangesError::Bytes { limit } => {
                format!("the files that a push changes have at most {limit} bytes together")
            }
            ChangesError::File { path, size, limit } => format!(
                "a pushed file has at most {limit} bytes, and `{}` has {size}",
                path_shown(&path)
            ),
            ChangesError::Depth { path } => format!(
                "a path has at most 4096 bytes and 128 directories, and `{}` has more",
                path_shown(&path)
            ),
        };
        Self::Refused(PushRefusal::Bulk { rule })
    }
}
