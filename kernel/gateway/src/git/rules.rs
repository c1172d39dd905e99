//! What a run's commits may hold: its own name, nothing that leads out of the tree or that a
//! person has to add, none of our keys, and nothing that breaks the repository's own rules.

use super::content;
use super::inspect::{InspectError, Target};
use super::objects::{Push, path_shown};
use super::quarantine::Quarantine;
use super::refusal::PushRefusal;
use crate::door::RunDoor;
use factory_core::brief::{AGENT_EMAIL, AGENT_NAME};
use factory_core::ids::Oid;
use factory_core::rules::{
    ChangedFile, Findings, Globs, PROHIBITIONS, Rules, Violation, find_secrets, may_carry_rules,
};
use factory_core::text::one_line;
use factory_ledger::changes::{ChangesError, Entry, FileChange};
use factory_ledger::incoming::Judge;
use factory_ledger::repo::RepoError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes of a symbolic link's target.
const LINK_BYTES: u64 = 4096;
/// Most bytes of the target's prohibitions, as for a run's brief.
const PROHIBITIONS_BYTES: u64 = 4 << 20;
/// Most protected paths that are told.
const PROTECTED: usize = 10;
/// A key that is cut by the end of a piece is found with the next one; none is longer.
const KEY_BYTES: usize = 4096;

/// The rules that were read last, with the commit and the globs that they were read by: runs
/// that began on the same target share them.
#[derive(Debug, Default)]
pub(crate) struct ReadRules(Mutex<Option<(Key, Arc<Rules>)>>);

/// What decides over rules: the target's commit, and where no secret is looked for.
type Key = (Oid, Vec<String>);

/// Reads what the run's pushes are judged by. Nothing is let through where that cannot be.
fn rules(door: &RunDoor) -> Result<Arc<Rules>, InspectError> {
    let (grant, repository) = (door.grant(), &door.stores().door);
    let none = Globs::default();
    let (target, allowed) = match &grant.rules {
        Some(rules) => (rules.target.clone(), &rules.allow_secrets_in),
        None => {
            let target = repository.target()?;
            (target.unwrap_or_else(|| grant.start.clone()), &none)
        }
    };
    let key = (target, allowed.texts().to_vec());
    let read = &door.stores().rules.0;
    let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, rules)) = &*read
        && *of == key
    {
        return Ok(Arc::clone(rules));
    }
    let files = repository.read_files(&key.0, &[PROHIBITIONS], PROHIBITIONS_BYTES)?;
    let rules = Rules::read(&files, allowed).map_err(|error| PushRefusal::Rules {
        found: vec![format!(
            "on the target branch: {error}; a person has to mend it: {}",
            error.help
        )],
    })?;
    let rules = Arc::new(rules);
    *read = Some((key, Arc::clone(&rules)));
    Ok(rules)
}

/// Judges the commits of one push.
pub(super) struct RunJudge<'a> {
    door: &'a RunDoor,
    quarantine: &'a Quarantine,
    stop: &'a dyn Fn() -> bool,
    /// None for checkpoints, which nobody merges.
    branch: Option<Branch<'a>>,
    found: Findings,
    protected: BTreeSet<String>,
}

/// What a branch's commits are judged by.
struct Branch<'a> {
    tip: &'a Oid,
    new: &'a Oid,
    rules: Arc<Rules>,
    protected: Globs,
}

impl<'a> RunJudge<'a> {
    pub(super) fn of(push: &'a Push, stop: &'a dyn Fn() -> bool) -> Result<Self, InspectError> {
        let branch = match &push.target {
            Target::Branch { tip } => {
                let protected = push
                    .door
                    .grant()
                    .rules
                    .as_ref()
                    .map(|rules| rules.protected.clone());
                Some(Branch {
                    tip,
                    new: &push.new,
                    rules: rules(&push.door)?,
                    protected: protected.unwrap_or_default(),
                })
            }
            Target::Checkpoint => None,
        };
        Ok(Self {
            door: &push.door,
            quarantine: &push.quarantine,
            stop,
            branch,
            found: Findings::default(),
            protected: BTreeSet::new(),
        })
    }

    /// Refuses the push where something was found; else what its agent is told.
    pub(super) fn ended(self) -> Result<String, PushRefusal> {
        if !self.found.is_empty() {
            let found = self.found.to_string();
            let found = found.lines().map(str::to_owned).collect();
            return Err(PushRefusal::Rules { found });
        }
        if self.protected.is_empty() {
            return Ok(String::new());
        }
        let mut told = String::from("A person decides on this before it is merged; it changes\n");
        for path in &self.protected {
            told.push_str(&format!("  {path}\n"));
        }
        Ok(told)
    }

    fn find(&mut self, violation: Violation) {
        // Once, however many commits have it.
        if !self.found.told().contains(&violation) {
            self.found.add(violation);
        }
    }

    fn find_at(&mut self, path: &[u8], rule: &str, what: String, advice: &str) {
        self.find(Violation {
            rule: rule.to_owned(),
            path: path_shown(path),
            line: None,
            what,
            advice: advice.to_owned(),
        });
    }

    fn link(&mut self, path: &[u8], link: &Entry, change: &FileChange) -> Result<(), ChangesError> {
        let what = match change.content(link, LINK_BYTES)? {
            None => format!("a symbolic link's target has at most {LINK_BYTES} bytes"),
            // It led there before, whatever its name is; a relative one leads elsewhere from
            // another directory.
            Some(target) if change.is_known_link && target.first() == Some(&b'/') => return Ok(()),
            Some(target) => match leads_out(path, &target) {
                Some(why) => format!("a symbolic link to `{}` {why}", path_shown(&target)),
                None => return Ok(()),
            },
        };
        let advice = "Link to a file in this repository, by a path relative to the link.";
        self.find_at(path, "links stay in the repository", what, advice);
        Ok(())
    }

    fn submodule(&mut self, path: &[u8], after: &Entry) {
        let what = if after.is_submodule() {
            "a submodule is added or moved by a person"
        } else if path.eq_ignore_ascii_case(b".gitmodules") {
            "submodules are changed by a person"
        } else {
            return;
        };
        let advice = "Leave it as it was, or put the files themselves here; say in your report what is needed.";
        self.find_at(path, "submodules", what.to_owned(), advice);
    }

    fn find_key(&mut self, path: String, line: Option<u64>) {
        self.find(Violation {
            rule: "no key of the factory".to_owned(),
            path,
            line,
            what: "a model key of this factory stands here".to_owned(),
            advice: "Take it out of every commit.".to_owned(),
        });
    }

    /// A prohibition whose rules cannot be read would stop all work once it is merged.
    fn prohibition(&mut self, path: &[u8], content: &[u8]) {
        let name = String::from_utf8_lossy(path).into_owned();
        let alone = BTreeMap::from([(name, content)]);
        if let Err(error) = Rules::read(&alone, &Globs::default()) {
            self.find(Violation {
                rule: "prohibitions can be read".to_owned(),
                path: path_shown(path),
                line: (error.line > 0).then_some(error.line),
                what: error.what,
                advice: error.help,
            });
        }
    }

    fn contents(&mut self, rules: &Rules, change: &FileChange) -> Result<(), InspectError> {
        let before = change.contents_before();
        let sizes = before.iter().map(|entry| change.size_of(entry));
        let sizes = sizes.collect::<Result<Vec<_>, RepoError>>()?;
        let size_before = sizes.into_iter().max();
        let changed = ChangedFile {
            path: change.path,
            size: change.after.map(|_| change.size),
            size_before,
            new_content: !change.known,
        };
        let mut judge = rules.file(&changed);
        let path = String::from_utf8_lossy(change.path);
        let carries = may_carry_rules(&path) && change.after.is_some_and(|after| !after.is_link());
        let is_read = judge.wants_after() || carries || !change.known;
        if let Some(after) = change.after.as_ref().filter(|_| is_read) {
            let mut keys = KeySearch::default();
            let door = self.door;
            let mut whole = Vec::new();
            content::read(self.quarantine, change, after, self.stop, &mut |piece| {
                judge.after(piece);
                if !change.known {
                    keys.search(door, piece);
                }
                if carries && whole.len() + piece.len() <= PROHIBITIONS_BYTES as usize {
                    whole.extend_from_slice(piece);
                }
            })?;
            if let Some(line) = keys.found {
                self.find_key(path_shown(change.path), Some(line));
            }
            if carries {
                self.prohibition(change.path, &whole);
            }
        }
        if judge.wants_before() {
            for entry in &before {
                judge.next_before();
                content::read(self.quarantine, change, entry, self.stop, &mut |piece| {
                    judge.before(piece);
                })?;
            }
        }
        let findings = judge.finish();
        for violation in findings.told() {
            self.find(violation.clone());
        }
        Ok(())
    }
}

/// Looks for our keys in a content that comes in pieces.
#[derive(Default)]
struct KeySearch {
    /// The end of what was looked at.
    tail: Vec<u8>,
    /// Lines that ended before `tail`.
    lines: u64,
    /// The line of the first key.
    found: Option<u64>,
}

impl KeySearch {
    fn search(&mut self, door: &RunDoor, piece: &[u8]) {
        if self.found.is_some() {
            return;
        }
        self.tail.extend_from_slice(piece);
        let ends = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        let text = String::from_utf8_lossy(&self.tail);
        if let Some(at) = door.stores().keys.stand_in(&text) {
            self.found = Some(self.lines + ends(&text.as_bytes()[..at]) + 1);
        }
        let cut = self.tail.len().saturating_sub(KEY_BYTES);
        self.lines += ends(&self.tail[..cut]);
        self.tail.drain(..cut);
    }
}

impl Judge for RunJudge<'_> {
    type Error = InspectError;

    fn commit(&mut self, commit: &Oid, text: Option<&[u8]>) -> Result<(), InspectError> {
        let Some(text) = text else {
            let rule = format!("a commit has at most 1048576 bytes, and {commit} has more");
            return Err(PushRefusal::Bulk { rule }.into());
        };
        let Some(branch) = &self.branch else {
            return Ok(());
        };
        let keys = &self.door.stores().keys;
        if let Some((part, has)) = other_name(text) {
            return Err(PushRefusal::Identity {
                commit: commit.clone(),
                part,
                has: one_line(&keys.redact(&has)),
                since: (commit != branch.new).then(|| branch.tip.clone()),
            }
            .into());
        }
        let text = String::from_utf8_lossy(text);
        let place = format!("commit {}", commit.short());
        if keys.stand_in(&text).is_some() {
            self.find_key(place.clone(), None);
        }
        let secrets =
            find_secrets(&text).map_err(|what| PushRefusal::Rules { found: vec![what] })?;
        for secret in secrets {
            self.find(Violation {
                rule: format!("no secret: {}", secret.rule),
                path: place.clone(),
                line: None,
                what: "a secret stands in its message or its header".to_owned(),
                advice: "Take it out of the commit, and have it replaced where it is valid."
                    .to_owned(),
            });
        }
        Ok(())
    }

    fn file(&mut self, _commit: &Oid, change: &FileChange) -> Result<(), InspectError> {
        let Some(branch) = &self.branch else {
            return Ok(());
        };
        if (self.stop)() {
            return Err(InspectError::Stopped);
        }
        if self.protected.len() < PROTECTED && branch.protected.is_match(change.path) {
            self.protected.insert(path_shown(change.path));
        }
        let rules = Arc::clone(&branch.rules);
        if let Some(after) = &change.after {
            if after.is_link() {
                self.link(change.path, after, change)?;
            }
            self.submodule(change.path, after);
        }
        let path = String::from_utf8_lossy(change.path);
        if self.door.stores().keys.stand_in(&path).is_some() {
            self.find_key("a path".to_owned(), None);
            return Ok(());
        }
        self.contents(&rules, change)
    }
}

/// Who is named in a commit as its author or committer, where that is not the run.
fn other_name(commit: &[u8]) -> Option<(&'static str, String)> {
    let own = format!("{AGENT_NAME} <{AGENT_EMAIL}> ");
    let header = || {
        commit
            .split(|byte| *byte == b'\n')
            .take_while(|line| !line.is_empty())
    };
    ["author", "committer"].into_iter().find_map(|part| {
        let line = header().find_map(|line| {
            let rest = line.strip_prefix(part.as_bytes())?;
            rest.strip_prefix(b" ")
        });
        let line = line.unwrap_or_default();
        if line.starts_with(own.as_bytes()) {
            return None;
        }
        // Without the time that ends it.
        let end = line
            .iter()
            .rposition(|byte| *byte == b'>')
            .map_or(line.len(), |at| at + 1);
        let name: String = String::from_utf8_lossy(&line[..end])
            .chars()
            .take(200)
            .collect();
        Some((part, name))
    })
}

/// Why a symbolic link may not be, where it stands at `path` and leads to `target`.
fn leads_out(path: &[u8], target: &[u8]) -> Option<&'static str> {
    if target.first() == Some(&b'/') {
        return Some("leads out of this repository");
    }
    let mut depth = path.iter().filter(|byte| **byte == b'/').count();
    let mut named = false;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            // What is named before it may be a link itself, and lead elsewhere.
            b".." if named => return Some("goes up again behind a name"),
            b".." if depth == 0 => return Some("leads out of this repository"),
            b".." => depth -= 1,
            name if is_git(name) => return Some("leads into `.git`"),
            _ => named = true,
        }
    }
    None
}

/// True for `.git`, and for what some file systems take for it.
fn is_git(name: &[u8]) -> bool {
    let end = name.iter().rposition(|byte| !matches!(byte, b'.' | b' '));
    let name = &name[..end.map_or(0, |at| at + 1)];
    name.eq_ignore_ascii_case(b".git") || name.eq_ignore_ascii_case(b"git~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    #[test]
    fn a_link_stays_within_its_repository() {
        let rows: [(&str, &str, bool); 20] = [
            ("a", "b", true),
            ("a", "./b/c", true),
            ("a/b", "../c", true),
            ("a/b/c", "../../d/e", true),
            ("a", "b/", true),
            ("a", "", true),
            ("a", ".gitignore", true),
            ("a/b", "...", true),
            ("a", "/etc/passwd", false),
            ("a", "..", false),
            ("a/b", "../..", false),
            ("a/b", "../../b", false),
            ("a/b", ".././../b", false),
            ("a/b/c", "../up/../../x", false),
            ("a", "b/../c", false),
            ("a", ".git/config", false),
            ("a/b", "../.GIT", false),
            ("a", "b/.git", false),
            ("a", ".git. /hooks", false),
            ("a", "GIT~1/hooks", false),
        ];
        for (path, target, good) in rows {
            let why = leads_out(path.as_bytes(), target.as_bytes());
            assert_eq!(why.is_none(), good, "{path} -> {target}: {why:?}");
        }
    }

    #[test]
    fn a_commit_is_by_the_run() {
        let own = format!("{AGENT_NAME} <{AGENT_EMAIL}>");
        let commit = |author: &str, committer: &str| {
            format!(
                "tree 1\nparent 2\nauthor {author} 1 +0000\ncommitter {committer} 1 +0000\n\nauthor {own} 1 +0000\n"
            )
        };
        let named =
            |author: &str, committer: &str| other_name(commit(author, committer).as_bytes());
        assert_eq!(named(&own, &own), None);
        let other = "Ann <ann@example.invalid>";
        assert_eq!(named(other, &own), Some(("author", other.to_owned())));
        assert_eq!(named(&own, other), Some(("committer", other.to_owned())));
        for near in [
            format!("{own}x"),
            format!(" {own}"),
            format!("{AGENT_NAME}  <{AGENT_EMAIL}>"),
            format!("{AGENT_NAME} <{AGENT_EMAIL} >"),
            AGENT_NAME.to_owned(),
        ] {
            assert!(named(&near, &own).is_some(), "{near}");
        }
        assert!(other_name(b"").is_some());
        assert!(other_name(b"author \xff\xfe").is_some());
    }

    proptest! {
        #[test]
        fn any_link_and_commit_are_judged(
            path in "[a-c/]{0,9}", target in "[a./]{0,12}", bytes in vec(any::<u8>(), 0..60),
        ) {
            other_name(&bytes);
            leads_out(path.as_bytes(), &bytes);
            // What may stay leads, step by step, to a place in the tree.
            if leads_out(path.as_bytes(), target.as_bytes()).is_none() {
                let mut depth = path.matches('/').count();
                for part in target.split('/') {
                    match part {
                        "" | "." => {}
                        ".." => {
                            prop_assert!(depth > 0);
                            depth -= 1;
                        }
                        _ => depth += 1,
                    }
                }
                prop_assert!(!target.starts_with('/'));
            }
        }
    }
}
