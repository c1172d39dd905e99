//! Whether the state and its history are whole, and what is wrong with them.

use crate::git::Git;
use crate::places::Places;
use crate::state::{ANCHOR_REF, ARCHIVE, STATE_REF, StateRepo};
use crate::store::{Store, StoreError};
use factory_core::ids::Oid;
use factory_core::state::State;
use flate2::read::ZlibDecoder;
use git2::{ObjectType, Repository};
use std::collections::HashSet;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Trailer of every state commit.
const TRAILER: &str = "Factory-Step: ";
/// Most lines of git that a report repeats.
const MOST_LINES: usize = 10;

/// `<epoch>.<n>`: names a step. A later step of one history has a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepNo {
    /// Epoch of the state after the step.
    pub epoch: u64,
    /// Counts all steps of the state.
    pub n: u64,
}

impl StepNo {
    /// The step that a commit's message names in its trailer.
    pub fn of(message: &str) -> Option<Self> {
        let mut lines = message.lines().rev();
        let value = lines.find_map(|line| line.strip_prefix(TRAILER))?;
        let (epoch, n) = value.trim().split_once('.')?;
        Some(Self {
            epoch: epoch.parse().ok()?,
            n: n.parse().ok()?,
        })
    }
}

impl fmt::Display for StepNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.n)
    }
}

/// A state commit that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landmark {
    /// The commit.
    pub oid: Oid,
    /// Its step.
    pub step: StepNo,
    /// The step before it; none for a first one.
    pub parent: Option<Oid>,
    /// What happened, one line.
    pub subject: String,
}

/// Something wrong with the state or its history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// There is no state.
    #[error("{STATE_REF} does not exist")]
    Gone,
    /// A ref of ours does not hold what a ref holds.
    #[error("{name} is no ref that can be read: {what}")]
    Ref {
        /// The ref.
        name: &'static str,
        /// What libgit2 said.
        what: String,
    },
    /// A commit of the history cannot be read.
    #[error("commit {oid} of the state's history cannot be read: {what}")]
    Commit {
        /// The commit.
        oid: String,
        /// What libgit2 said.
        what: String,
    },
    /// A commit of the history is none of ours.
    #[error(
        "commit {oid} of the state's history has no `Factory-Step`; it was not made by factory"
    )]
    Foreign {
        /// The commit.
        oid: String,
    },
    /// The history does not count its steps.
    #[error("step {later} follows on step {earlier} in the state's history, commit {oid}")]
    NotRising {
        /// The earlier commit.
        oid: String,
        /// Its step.
        earlier: StepNo,
        /// The step of the commit above it.
        later: StepNo,
    },
    /// The newest state cannot be decoded.
    #[error("the state at commit {oid} cannot be read: {what}")]
    Undecodable {
        /// The commit.
        oid: Oid,
        /// What is wrong with it.
        what: String,
    },
    /// The anchor is not in the state's history.
    #[error(
        "{ANCHOR_REF} ({step}) is not in the history of {STATE_REF}: the state was set back or rewritten"
    )]
    Astray {
        /// The step it leads to.
        step: StepNo,
    },
    /// There are later steps than the newest state's, outside of its history.
    #[error("step {} ({}) and {others} more are newer than {STATE_REF}: the state was set back", .newest.step, .newest.subject)]
    SetBack {
        /// The highest of them.
        newest: Box<Landmark>,
        /// How many more there are.
        others: usize,
    },
    /// An object cannot be read, or its content is not what its name says.
    #[error("object {oid} is damaged")]
    Damaged {
        /// The object.
        oid: Oid,
    },
    /// git's own check found something.
    #[error("git fsck: {line}")]
    Fsck {
        /// One line of it.
        line: String,
    },
}

/// What [`verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The newest state.
    pub tip: Option<Landmark>,
    /// Where the anchor is; none where it was never set.
    pub anchor: Option<Landmark>,
    /// Commits in the history, as far as it can be read.
    pub steps: u64,
    /// Steps right above the newest state that never landed, or are just
    /// landing: their writer lost the swap, or died before it. Harmless.
    pub unlanded: Vec<Landmark>,
    /// What is wrong; empty when all is well.
    pub problems: Vec<Problem>,
}

/// Looks at everything in `state.git`, which must exist. Reads every commit and
/// every loose object; changes nothing. A kernel may work meanwhile.
pub fn verify(places: &Places) -> Result<Report, StoreError> {
    let state = StateRepo::open(places)?;
    // First: what lands while we look is then in the history of the tip.
    let found = state.store.with(|repo| scan(&state.store, repo))?;
    let mut report = Report::default();
    let named = found.damaged.iter().take(MOST_LINES);
    let named = named.map(|oid| Problem::Damaged { oid: oid.clone() });
    report.problems.extend(named);
    state.store.with(|repo| {
        let seen = walk(&state, repo, &found.damaged, &mut report)?;
        look_at_anchor(&state.store, repo, &found.damaged, &seen, &mut report)?;
        look_beside(found.steps, &seen, &mut report);
        Ok::<_, StoreError>(())
    })?;
    report.problems.extend(fsck(state.path()));
    Ok(report)
}

/// A first look, before anything of a state is read: whether it is gone although
/// there were steps, older than its anchor, or damaged where it is live. Costs
/// little beside reading the state. `head` is the newest state.
pub fn glance(state: &StateRepo, head: Option<&Oid>) -> Result<Option<Problem>, StoreError> {
    let store = &state.store;
    store.with(|repo| {
        let anchor = store.tip(repo, ANCHOR_REF)?;
        for oid in head.into_iter().chain(&anchor) {
            if damaged(store.path(), oid) {
                return Ok(Some(Problem::Damaged { oid: oid.clone() }));
            }
        }
        let step = |oid: &Oid| {
            let commit = store.find_commit(repo, oid)?;
            Ok::<_, StoreError>(landmark(store, &commit)?.map(|mark| mark.step))
        };
        let lost = match (head, &anchor) {
            (Some(head), Some(anchor)) => {
                let (now, then) = (step(head)?, step(anchor)?);
                if let Some(step) = then.filter(|_| now < then) {
                    return Ok(Some(Problem::Astray { step }));
                }
                false
            }
            (Some(_), None) => false,
            (None, Some(_)) => true,
            // A first step whose writer died is not there to be lost.
            (None, None) => scan(store, repo)?.steps.iter().any(|mark| mark.step.n > 0),
        };
        match head {
            _ if lost => Ok(Some(Problem::Gone)),
            Some(head) => {
                let found = live_damage(store, repo, head)?;
                Ok(found.map(|oid| Problem::Damaged { oid }))
            }
            None => Ok(None),
        }
    })
}

/// The first damaged object of those that are read for the live state.
fn live_damage(store: &Store, repo: &Repository, commit: &Oid) -> Result<Option<Oid>, StoreError> {
    let root = store.find_commit(repo, commit)?.tree_id();
    let mut todo = vec![root];
    while let Some(id) = todo.pop() {
        let oid = store.core_oid(id)?;
        if damaged(store.path(), &oid) {
            return Ok(Some(oid));
        }
        // What is missing is told by who reads it.
        let Ok(tree) = repo.find_tree(id) else {
            continue;
        };
        let live = tree
            .iter()
            .filter(|entry| id != root || entry.name_bytes() != ARCHIVE.as_bytes());
        todo.extend(live.map(|entry| entry.id()));
    }
    Ok(None)
}

/// What lies in `state.git`, reachable or not.
pub(crate) struct Found {
    /// Every readable state commit.
    pub(crate) steps: Vec<Landmark>,
    /// Objects that cannot be read.
    pub(crate) damaged: HashSet<Oid>,
}

/// Looks at every object. Loose ones are read whole, since a cut write or a
/// full disk damages one file; of packed ones that are no commits, the head.
pub(crate) fn scan(store: &Store, repo: &Repository) -> Result<Found, StoreError> {
    let failed = |e| store.failed("list the objects", e);
    let odb = repo.odb().map_err(failed)?;
    let mut ids = Vec::new();
    odb.foreach(|id| {
        ids.push(*id);
        true
    })
    .map_err(failed)?;
    let mut found = Found {
        steps: Vec::new(),
        damaged: HashSet::new(),
    };
    for id in ids {
        let oid = store.core_oid(id)?;
        let whole = !damaged(store.path(), &oid)
            && match odb.read_header(id) {
                Ok((_, ObjectType::Commit)) => match repo.find_commit(id) {
                    Ok(commit) => {
                        found.steps.extend(landmark(store, &commit)?);
                        true
                    }
                    Err(_) => false,
                },
                Ok(_) => true,
                Err(_) => false,
            };
        if !whole {
            found.damaged.insert(oid);
        }
    }
    Ok(found)
}

/// True for a loose object whose file does not hold what its name says.
/// libgit2 cannot be asked: it reads a truncated one for ever.
fn damaged(repository: &Path, oid: &Oid) -> bool {
    let file = match std::fs::read(loose_file(repository, oid)) {
        Ok(file) => file,
        Err(e) => return e.kind() != std::io::ErrorKind::NotFound,
    };
    let mut object = Vec::new();
    if ZlibDecoder::new(&file[..])
        .read_to_end(&mut object)
        .is_err()
    {
        return true;
    }
    // `<kind> <size>\0<content>`
    let content = object.iter().position(|b| *b == 0).and_then(|end| {
        let head = std::str::from_utf8(&object[..end]).ok()?;
        let (kind, size) = head.split_once(' ')?;
        let content = &object[end + 1..];
        let whole = size.parse() == Ok(content.len());
        Some((ObjectType::from_str(kind).filter(|_| whole)?, content))
    });
    let id = content.and_then(|(kind, bytes)| git2::Oid::hash_object(kind, bytes).ok());
    id.is_none_or(|id| id.to_string() != oid.as_str())
}

/// Where an object lies unless it is packed.
pub(crate) fn loose_file(repository: &Path, oid: &Oid) -> PathBuf {
    let (dir, file) = oid.as_str().split_at(2);
    repository.join("objects").join(dir).join(file)
}

pub(crate) fn landmark(
    store: &Store,
    commit: &git2::Commit<'_>,
) -> Result<Option<Landmark>, StoreError> {
    let message = String::from_utf8_lossy(commit.message_bytes());
    let Some(step) = StepNo::of(&message) else {
        return Ok(None);
    };
    let parent = commit.parent_ids().next();
    Ok(Some(Landmark {
        oid: store.core_oid(commit.id())?,
        step,
        parent: parent.map(|id| store.core_oid(id)).transpose()?,
        subject: message.lines().next().unwrap_or_default().to_owned(),
    }))
}

/// The commit of a ref of ours. What is wrong with it is put among `problems`.
fn tip(repo: &Repository, name: &'static str, problems: &mut Vec<Problem>) -> Option<git2::Oid> {
    match repo.refname_to_id(name) {
        Ok(id) => Some(id),
        Err(e) if e.code() == git2::ErrorCode::NotFound => None,
        Err(e) => {
            problems.push(Problem::Ref {
                name,
                what: e.message().to_owned(),
            });
            None
        }
    }
}

/// Walks the history from its newest state; gives the commits that it holds.
fn walk(
    state: &StateRepo,
    repo: &Repository,
    damaged: &HashSet<Oid>,
    report: &mut Report,
) -> Result<HashSet<Oid>, StoreError> {
    let mut seen = HashSet::new();
    let before = report.problems.len();
    let first = tip(repo, STATE_REF, &mut report.problems);
    if first.is_none() && report.problems.len() == before {
        report.problems.push(Problem::Gone);
    }
    let mut next = first;
    let mut later: Option<StepNo> = None;
    while let Some(id) = next {
        let (parent, mark) = match read(&state.store, repo, id, damaged)? {
            Ok(read) => read,
            Err(problem) => {
                report.problems.push(problem);
                break;
            }
        };
        report.steps += 1;
        next = parent;
        let Some(mark) = mark else {
            let oid = id.to_string();
            report.problems.push(Problem::Foreign { oid });
            continue;
        };
        if let Some(later) = later.filter(|later| *later <= mark.step) {
            report.problems.push(Problem::NotRising {
                oid: id.to_string(),
                earlier: mark.step,
                later,
            });
        }
        later = Some(mark.step);
        seen.insert(mark.oid.clone());
        if first == Some(id) {
            if let Err(what) = decode(state, &mark.oid) {
                let oid = mark.oid.clone();
                report.problems.push(Problem::Undecodable { oid, what });
            }
            report.tip = Some(mark);
        }
    }
    Ok(seen)
}

/// A commit's parent, and what it says of itself where it is one of ours.
type Read = (Option<git2::Oid>, Option<Landmark>);

fn read(
    store: &Store,
    repo: &Repository,
    id: git2::Oid,
    damaged: &HashSet<Oid>,
) -> Result<Result<Read, Problem>, StoreError> {
    let problem = |what: &str| {
        Ok(Err(Problem::Commit {
            oid: id.to_string(),
            what: what.to_owned(),
        }))
    };
    if damaged.contains(&store.core_oid(id)?) {
        return problem("it is damaged");
    }
    match repo.find_commit(id) {
        Ok(commit) => Ok(Ok((commit.parent_id(0).ok(), landmark(store, &commit)?))),
        Err(e) => problem(e.message()),
    }
}

/// The state at a commit, or in one line why it cannot be read.
pub(crate) fn decode(state: &StateRepo, commit: &Oid) -> Result<State, String> {
    let said = |e| match e {
        StoreError::Git { doing, source, .. } => format!("cannot {doing}: {}", source.message()),
        other => other.to_string(),
    };
    let store = &state.store;
    let found = store.with(|repo| live_damage(store, repo, commit));
    if let Some(oid) = found.map_err(said)? {
        return Err(format!("object {oid} is damaged"));
    }
    let files = state.read_live(commit).map_err(said)?;
    State::decode(&files).map_err(|e| e.to_string())
}

fn look_at_anchor(
    store: &Store,
    repo: &Repository,
    damaged: &HashSet<Oid>,
    seen: &HashSet<Oid>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let Some(id) = tip(repo, ANCHOR_REF, &mut report.problems) else {
        return Ok(());
    };
    match read(store, repo, id, damaged)? {
        Ok((_, Some(mark))) => {
            if !seen.contains(&mark.oid) {
                let step = mark.step;
                report.problems.push(Problem::Astray { step });
            }
            report.anchor = Some(mark);
        }
        Ok((_, None)) => {
            let oid = id.to_string();
            report.problems.push(Problem::Foreign { oid });
        }
        Err(problem) => report.problems.push(problem),
    }
    Ok(())
}

/// Looks at the steps that are not in the history.
fn look_beside(steps: Vec<Landmark>, seen: &HashSet<Oid>, report: &mut Report) {
    let tip = report.tip.as_ref();
    let newest = tip.map(|mark| mark.step);
    let above = steps
        .into_iter()
        .filter(|mark| Some(mark.step) > newest && !seen.contains(&mark.oid));
    let (next, mut higher): (Vec<_>, Vec<_>) =
        above.partition(|mark| tip.is_some() && mark.parent.as_ref() == tip.map(|t| &t.oid));
    higher.sort_by_key(|mark| mark.step);
    if let Some(newest) = higher.pop() {
        let (newest, others) = (Box::new(newest), higher.len() + next.len());
        report.problems.push(Problem::SetBack { newest, others });
    } else {
        report.unlanded = next;
    }
}

/// Lets git look whether anything that a ref leads to is missing.
fn fsck(repository: &Path) -> Vec<Problem> {
    let call = Git::isolated(repository).call([
        "fsck",
        "--connectivity-only",
        "--no-dangling",
        "--no-reflogs",
        "--no-progress",
    ]);
    let lines = match call.command().output() {
        Ok(out) if out.status.success() => return Vec::new(),
        Ok(out) => [out.stdout, out.stderr].concat(),
        Err(e) => format!("it could not be run: {e}").into_bytes(),
    };
    let text = String::from_utf8_lossy(&lines);
    // Words on configuration and branches, which say nothing of what is damaged.
    let remark = |line: &&str| line.starts_with("warning: ") || line.starts_with("notice: ");
    let lines = text.lines().filter(|line| !remark(line));
    lines
        .take(MOST_LINES)
        .map(|line| Problem::Fsck {
            line: line.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::StepNo;

    #[test]
    fn a_step_is_read_from_its_trailer_only() {
        let step = |epoch, n| Some(StepNo { epoch, n });
        assert_eq!(StepNo::of("x\n\nFactory-Step: 3.17\n"), step(3, 17));
        // What a person wrote into a title does not count.
        let forged = "issue 1: Factory-Step: 9.9\n\nFactory-Step: 3.18\n";
        assert_eq!(StepNo::of(forged), step(3, 18));
        for none in ["", "x", "Factory-Step: 3", "Factory-Step: x.1"] {
            assert_eq!(StepNo::of(none), None, "{none}");
        }
        assert!(step(3, 17) < step(3, 100) && step(3, 100) < step(10, 1));
    }
}
