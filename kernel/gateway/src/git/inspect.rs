//! The rules of a push, applied before anything of it is taken over.

use super::child::{self, ChildError, Limits};
use super::pkt::{PackHeader, PushRequest, RefUpdate};
use super::quarantine::Quarantine;
use super::refusal::PushRefusal;
use factory_core::grant::Grant;
use factory_core::ids::Oid;
use factory_core::wire::CHECKPOINT_REF;
use factory_ledger::{door::Tips, incoming::Incoming, repo::RepoError};
use rustix::process::Signal;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use tokio_util::sync::CancellationToken;

/// How an inspection ended, when not well.
#[derive(Debug, thiserror::Error)]
pub(super) enum InspectError {
    /// The push broke a rule.
    #[error("the push was refused")]
    Refused(#[source] PushRefusal),
    /// Nobody waits for the answer any more, or the run is ending.
    #[error("the inspection was stopped")]
    Stopped,
    /// We could not look.
    #[error("the push could not be inspected")]
    Failed(#[source] ChildError),
    /// We could not read what was spooled.
    #[error("the spooled push could not be read")]
    Spool(#[source] io::Error),
    /// A thread of ours broke off.
    #[error("the inspection broke off")]
    Worker(#[source] tokio::task::JoinError),
    /// We could not read what it brought.
    #[error("the pushed objects could not be read")]
    Unread(#[source] RepoError),
}

impl From<RepoError> for InspectError {
    fn from(error: RepoError) -> Self {
        Self::Unread(error)
    }
}

impl From<ChildError> for InspectError {
    fn from(error: ChildError) -> Self {
        match error {
            ChildError::Stopped => Self::Stopped,
            other => Self::Failed(other),
        }
    }
}

impl From<PushRefusal> for InspectError {
    fn from(refusal: PushRefusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Which ref of the run a push is for.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// The branch, which stands at `tip`.
    Branch { tip: Oid },
    /// The checkpoint, whatever it is at.
    Checkpoint,
}

/// What unpacking may use; a second wall behind [`super::unpacked`].
const UNPACKING: Limits = Limits {
    memory: 1 << 30,
    processor_seconds: 600,
};

/// A push that keeps the rules which need the command list alone.
#[derive(Debug)]
pub(super) struct Judged<'a> {
    pub(super) update: &'a RefUpdate,
    pub(super) pack: PackHeader,
    pub(super) target: Target,
}

/// A branch's full name.
pub(super) fn branch_ref(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

/// A push that was carried out before: its answer got lost, and the client says
/// it again, from where the ref was before the first time.
pub(super) fn is_repeated(grant: &Grant, request: &PushRequest, tips: &Tips) -> bool {
    let ([update], Some(branch), None) = (&*request.commands, &grant.branch, &request.problem)
    else {
        return false;
    };
    let tip = match &*update.name {
        CHECKPOINT_REF => &tips.checkpoint,
        name if *name == branch_ref(branch) => &tips.branch,
        _ => return false,
    };
    tip.as_ref() == Some(&update.new) && update.old != update.new
}

/// The rules that need the command list alone: one update of the run's own
/// branch or of its checkpoint, from where that stands, with a pack. Refs
/// without a tip are those of a namespace which the kernel has closed.
pub(super) fn judge_commands<'a>(
    grant: &Grant,
    request: &'a PushRequest,
    tips: &Tips,
) -> Result<Judged<'a>, PushRefusal> {
    let Some(branch) = &grant.branch else {
        return Err(PushRefusal::NoBranch);
    };
    let only = |name: &str| request.commands.iter().all(|update| update.name == name);
    let checkpoint = only(CHECKPOINT_REF);
    if !checkpoint && !only(&branch_ref(branch)) {
        return Err(PushRefusal::WrongRef {
            branch: branch.clone(),
        });
    }
    if let Some(problem) = &request.problem {
        return Err(PushRefusal::Unreadable {
            problem: problem.clone(),
        });
    }
    let [update] = request.commands.as_slice() else {
        return Err(PushRefusal::Unreadable {
            problem: "it names the same ref more than once".to_owned(),
        });
    };
    if update.new.is_zero() {
        return Err(PushRefusal::Deletion);
    }
    let tip = if checkpoint {
        &tips.checkpoint
    } else {
        &tips.branch
    };
    let tip = tip.as_ref().ok_or(PushRefusal::Ended)?;
    if *tip != update.old {
        return Err(PushRefusal::Moved { tip: tip.clone() });
    }
    let Some(pack) = request.pack else {
        return Err(PushRefusal::Unreadable {
            problem: "the pack is missing".to_owned(),
        });
    };
    Ok(Judged {
        update,
        pack,
        target: if checkpoint {
            Target::Checkpoint
        } else {
            Target::Branch { tip: tip.clone() }
        },
    })
}

/// Unpacks a push into `quarantine`, if its pack is whole, every object in it passes git's
/// fsck, and everything that they name is there.
pub(super) async fn index(
    quarantine: &Quarantine,
    spool: &File,
    pack: PackHeader,
    stop: &CancellationToken,
) -> Result<(), InspectError> {
    // One thread: a push gets no more of the host than its run's turn.
    const INDEX_PACK: [&str; 10] = [
        "-c",
        "pack.writeReverseIndex=false",
        // Larger files are unpacked piece by piece.
        "-c",
        "core.bigFileThreshold=32m",
        "-c",
        "core.deltaBaseCacheLimit=32m",
        "index-pack",
        "--stdin",
        "--fix-thin",
        "--threads=1",
    ];
    let strict = [&INDEX_PACK[..], &["--strict"]].concat();
    let indexed = match index_pack(quarantine.git(&strict), spool, pack, stop).await {
        Err(ChildError::Signal { status, .. })
            if status.signal() == Some(Signal::XCPU.as_raw()) =>
        {
            let seconds = UNPACKING.processor_seconds;
            let rule = format!("a push is unpacked within {seconds} seconds of a processor");
            return Err(PushRefusal::Bulk { rule }.into());
        }
        ended => ended?,
    };
    if indexed.status.success() {
        return Ok(());
    }
    // git tells a broken pack and a bad object apart in words only: what is
    // indexed when nothing is checked was readable.
    let readable = index_pack(quarantine.git(&INDEX_PACK), spool, pack, stop)
        .await?
        .status
        .success();
    let found = child::lines(&indexed.stderr);
    Err(InspectError::Refused(if readable {
        PushRefusal::Fsck { found }
    } else {
        PushRefusal::Unreadable {
            problem: found.join("; "),
        }
    }))
}

/// The rules that need the objects, as far as they are quickly told: false where
/// [`judge_history`] has to look. `start` is where the run began. Blocks.
pub(super) fn judge_objects(
    incoming: &Incoming,
    target: &Target,
    new: &Oid,
    start: &Oid,
) -> Result<bool, InspectError> {
    let rule = match target {
        Target::Branch { .. } => "a branch holds commits",
        Target::Checkpoint => "a checkpoint is a commit",
    };
    match incoming.kind(new)? {
        Some("commit") => {}
        Some(kind) => {
            let found = vec![format!("{new} is a {kind}; {rule}")];
            return Err(PushRefusal::Fsck { found }.into());
        }
        None => {
            let problem = format!("{new} is not among the pushed objects");
            return Err(PushRefusal::Unreadable { problem }.into());
        }
    }
    let held = match target {
        Target::Branch { tip } => incoming.holds(new, tip),
        Target::Checkpoint => match incoming.parents(new).as_deref() {
            None => None,
            Some([]) => Some(false),
            Some([first, ..]) => incoming.holds(first, start),
        },
    };
    match held {
        Some(false) => Err(not_held(target, new, start).into()),
        Some(true) => Ok(true),
        None => Ok(false),
    }
}

/// Has git look whether a push goes on from where it has to: it takes its time and memory
/// for itself, and is stopped when nobody waits any more.
pub(super) async fn judge_history(
    quarantine: &Quarantine,
    target: &Target,
    new: &Oid,
    start: &Oid,
    stop: &CancellationToken,
) -> Result<(), InspectError> {
    let (held, holder) = match target {
        Target::Branch { tip } => (tip, new.to_string()),
        Target::Checkpoint => (start, format!("{new}^1")),
    };
    let asked = ["merge-base", "--is-ancestor", held.as_str(), &holder];
    let ended = child::run(quarantine.git(&asked), Stdio::null(), Some(stop)).await?;
    match (ended.status.code(), target) {
        (Some(0), _) => Ok(()),
        // Git also fails where there is no first parent.
        (Some(1), _) | (_, Target::Checkpoint) => Err(not_held(target, new, start).into()),
        (_, Target::Branch { .. }) => Err(PushRefusal::Fsck {
            found: child::lines(&ended.stderr),
        }
        .into()),
    }
}

fn not_held(target: &Target, new: &Oid, start: &Oid) -> PushRefusal {
    match target {
        Target::Branch { tip } => PushRefusal::NotFastForward {
            tip: tip.clone(),
            new: new.clone(),
        },
        Target::Checkpoint => PushRefusal::ForeignCheckpoint {
            start: start.clone(),
        },
    }
}

async fn index_pack(
    command: Command,
    mut spool: &File,
    pack: PackHeader,
    stop: &CancellationToken,
) -> Result<child::Ended, ChildError> {
    // The child shares the file's position.
    let input = spool
        .seek(SeekFrom::Start(pack.offset))
        .and_then(|_| spool.try_clone());
    let input = input.map_err(|source| ChildError::Input { source })?;
    child::run_within(&UNPACKING, command, Stdio::from(input), Some(stop)).await
}
