//! What a run's commits may hold: its own name, and nothing that leads out of the tree, that
//! a person has to add, or that is one of our keys.

use super::inspect::{InspectError, Target};
use super::objects::path_shown;
use super::refusal::PushRefusal;
use crate::door::RunDoor;
use factory_core::brief::{AGENT_EMAIL, AGENT_NAME};
use factory_core::ids::Oid;
use factory_core::text::one_line;
use factory_ledger::changes::{ChangesError, FileChange};
use factory_ledger::incoming::Judge;

/// Most places that a refusal names.
const FOUND: usize = 20;
/// Most bytes of a symbolic link's target.
const LINK_BYTES: u64 = 4096;
/// Most bytes of a file that are read at once.
const READ_BYTES: u64 = 16 << 20;

/// The rules for one push.
pub(super) struct Rules<'a> {
    door: &'a RunDoor,
    /// Where the branch stands, and the newest commit that it is to have; none for checkpoints,
    /// which nobody merges.
    branch: Option<(&'a Oid, &'a Oid)>,
    found: Vec<String>,
    /// How many more there are.
    more: usize,
}

impl<'a> Rules<'a> {
    pub(super) fn of(door: &'a RunDoor, target: &'a Target, new: &'a Oid) -> Self {
        let branch = match target {
            Target::Branch { tip } => Some((tip, new)),
            Target::Checkpoint => None,
        };
        Self {
            door,
            branch,
            found: Vec::new(),
            more: 0,
        }
    }

    /// Refuses the push where something was found.
    pub(super) fn ended(mut self) -> Result<(), PushRefusal> {
        if self.more > 0 {
            self.found.push(format!("and {} more", self.more));
        }
        match self.found.is_empty() {
            true => Ok(()),
            false => Err(PushRefusal::Rules { found: self.found }),
        }
    }

    fn find(&mut self, what: String) {
        if self.found.contains(&what) {
            return;
        }
        match self.found.len() < FOUND {
            true => self.found.push(what),
            false => self.more += 1,
        }
    }

    fn link(&mut self, change: &FileChange) -> Result<(), ChangesError> {
        let Some(link) = change.after.filter(|entry| entry.is_link()) else {
            return Ok(());
        };
        let path = path_shown(change.path);
        match change.content(&link, LINK_BYTES)? {
            None => self.find(format!(
                "{path}: a symbolic link's target has at most {LINK_BYTES} bytes; link to a file in this repository"
            )),
            Some(target) => {
                if let Some(why) = leads_out(change.path, &target) {
                    let target = path_shown(&target);
                    self.find(format!(
                        "{path}: a symbolic link to `{target}` {why}; link to a file in this repository, by a path relative to the link"
                    ));
                }
            }
        }
        Ok(())
    }

    fn submodule(&mut self, change: &FileChange) {
        let Some(after) = change.after else {
            return;
        };
        let path = path_shown(change.path);
        if after.is_submodule() {
            self.find(format!(
                "{path}: a submodule is added or moved by a person; put the files themselves here, or say in your report what is needed"
            ));
        } else if change.path.eq_ignore_ascii_case(b".gitmodules") {
            self.find(format!(
                "{path}: submodules are changed by a person; leave this file as it was, and say in your report what is needed"
            ));
        }
    }

    /// What the gateway knows is a key stands in no path and no content.
    fn key(&mut self, change: &FileChange) -> Result<(), ChangesError> {
        let keys = &self.door.stores().keys;
        let what = "a model key of this factory stands here; take it out of every commit";
        if keys
            .stand_in(&String::from_utf8_lossy(change.path))
            .is_some()
        {
            self.find(format!("a path: {what}"));
            return Ok(());
        }
        let Some(after) = change.after.filter(|_| !change.known) else {
            return Ok(());
        };
        let Some(content) = change.content(&after, READ_BYTES)? else {
            return Ok(());
        };
        let text = String::from_utf8_lossy(&content);
        if let Some(at) = keys.stand_in(&text) {
            let line = text[..at].matches('\n').count() + 1;
            self.find(format!("{}:{line}: {what}", path_shown(change.path)));
        }
        Ok(())
    }
}

impl Judge for Rules<'_> {
    type Error = InspectError;

    fn commit(&mut self, commit: &Oid, text: Option<&[u8]>) -> Result<(), InspectError> {
        let Some(text) = text else {
            let rule = format!("a commit has at most 1048576 bytes, and {commit} has more");
            return Err(PushRefusal::Bulk { rule }.into());
        };
        let Some((tip, new)) = self.branch else {
            return Ok(());
        };
        if let Some((part, has)) = other_name(text) {
            return Err(PushRefusal::Identity {
                commit: commit.clone(),
                part,
                has: one_line(&self.door.stores().keys.redact(&has)),
                since: (commit != new).then(|| tip.clone()),
            }
            .into());
        }
        let keys = &self.door.stores().keys;
        if keys.stand_in(&String::from_utf8_lossy(text)).is_some() {
            self.find(format!(
                "commit {}: a model key of this factory stands in it; take it out of every commit",
                commit.short()
            ));
        }
        Ok(())
    }

    fn file(&mut self, _commit: &Oid, change: &FileChange) -> Result<(), InspectError> {
        if self.branch.is_some() {
            self.link(change)?;
            self.submodule(change);
            self.key(change)?;
        }
        Ok(())
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
}
