//! The rules of the target, read from a commit, and what a merge is judged by them.

use crate::failure::{Class, Failure};
use factory_core::{
    agents::{AGENTS, Agents},
    brief::INTENT_DIRS,
    config::Config,
    ids::Oid,
    rules::{ChangedFile, Findings, Globs, PROHIBITIONS, Rules, ToldPaths, Violation},
};
use factory_ledger::{
    changes::{Bounds, ChangesError, FileChange},
    door::DoorRepo,
    repo::RepoError,
    user::UserRepo,
};
use std::collections::BTreeMap;

/// Most bytes of the intent layer, which is read as a whole.
const INTENT_LIMIT: u64 = 4 << 20;
/// Most bytes of a file that is judged, as of one that is pushed.
const FILE_LIMIT: u64 = Bounds::PUSH.file;

/// A repository that a commit's files are read from.
pub trait Commits {
    /// All files below `dirs`, by path.
    fn files(
        &self,
        commit: &Oid,
        dirs: &[&str],
        limit: u64,
    ) -> Result<BTreeMap<String, Vec<u8>>, RepoError>;
}

impl Commits for UserRepo {
    fn files(
        &self,
        commit: &Oid,
        dirs: &[&str],
        limit: u64,
    ) -> Result<BTreeMap<String, Vec<u8>>, RepoError> {
        self.read_files(commit, dirs, limit)
    }
}

impl Commits for DoorRepo {
    fn files(
        &self,
        commit: &Oid,
        dirs: &[&str],
        limit: u64,
    ) -> Result<BTreeMap<String, Vec<u8>>, RepoError> {
        self.read_files(commit, dirs, limit)
    }
}

/// The rules of a commit. Only its prohibitions are read: whatever else the intent layer holds,
/// something can be judged.
///
/// # Errors
/// Of [`Class::Config`] where one cannot be read: nothing is to pass then.
pub fn read(from: &impl Commits, commit: &Oid, config: &Config) -> Result<Rules, Failure> {
    let files = below(from, commit, &[PROHIBITIONS])?;
    Rules::read(&files, &config.secrets.allow_in).map_err(|error| {
        let place = error.place();
        let what = format!("{place} (commit {}): {}", commit.short(), error.what);
        Failure::new(Class::Config, what).help(error.help)
    })
}

/// The files of a commit's intent layer, by path.
///
/// # Errors
/// Of [`Class::Config`] where it is too large: no run can be told of it then.
pub fn intent_layer(
    from: &impl Commits,
    commit: &Oid,
) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    below(from, commit, &INTENT_DIRS)
}

/// The agents of a commit: its own, and the built-in ones of all other roles.
///
/// # Errors
/// Of [`Class::Config`] where one cannot be read: no run is to be told to be another one then.
pub fn agents(from: &impl Commits, commit: &Oid) -> Result<Agents, Failure> {
    let files = below(from, commit, &[AGENTS])?;
    Agents::read(&files).map_err(|wrong| {
        let Some(first) = wrong.first() else {
            return Failure::new(Class::Config, format!("{AGENTS} cannot be read"));
        };
        let what = format!(
            "{} (commit {}): {}",
            first.place(),
            commit.short(),
            first.what
        );
        let help = match wrong.len() {
            1 => first.help.clone(),
            all => format!("{}; `factory agent lint` names all {all}", first.help),
        };
        Failure::new(Class::Config, what).help(help)
    })
}

fn below(
    from: &impl Commits,
    commit: &Oid,
    dirs: &[&str],
) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    match from.files(commit, dirs, INTENT_LIMIT) {
        Err(error @ RepoError::TooLarge { .. }) => {
            let help = format!("make the files of {} smaller", dirs.join(", "));
            Err(Failure::of(Class::Config, error).help(help))
        }
        files => Ok(files?),
    }
}

/// What came of judging a merge.
pub struct Judged {
    /// What breaks a rule.
    pub findings: Findings,
    /// Changed paths that only a person may merge.
    pub protected: ToldPaths,
}

/// Judges what a merge changes in the target. The inner error says why it cannot be judged,
/// which is for a person to mend.
pub fn judge(
    door: &DoorRepo,
    rules: &Rules,
    protected: &Globs,
    target: &Oid,
    merge: &Oid,
) -> Result<Result<Judged, String>, Failure> {
    let mut judged = Judged {
        findings: Findings::default(),
        protected: ToldPaths::default(),
    };
    let walked = door.each_change(target, merge, Bounds::MERGE, &|| false, |change| {
        if protected.is_match(change.path) {
            judged.protected.add(change.path);
        }
        judged.findings.append(judge_file(rules, change)?);
        Ok::<(), ChangesError>(())
    });
    match walked {
        Ok(()) => Ok(Ok(judged)),
        Err(ChangesError::Unread(error)) => Err(error.into()),
        Err(beyond) => Ok(Err(format!("its changes cannot be judged: {beyond}"))),
    }
}

fn judge_file(rules: &Rules, change: &FileChange<'_>) -> Result<Findings, RepoError> {
    let mut before = Vec::new();
    let mut size_before = None;
    for entry in change.before.iter().flatten() {
        let content = change.content(entry, FILE_LIMIT)?;
        let size = content
            .as_ref()
            .map_or(FILE_LIMIT, |held| held.len() as u64);
        size_before = size_before.max(Some(size));
        before.extend(content);
    }
    let changed = ChangedFile {
        path: change.path,
        size: change.after.map(|_| change.size),
        size_before,
        new_content: !change.known,
    };
    let after = match &change.after {
        Some(entry) => change.content(entry, FILE_LIMIT)?,
        None => None,
    };
    let before: Vec<&[u8]> = before.iter().map(Vec::as_slice).collect();
    let mut findings = rules.judge(&changed, after.as_deref().unwrap_or_default(), &before);
    if change.size > FILE_LIMIT && !change.known {
        findings.add(Violation {
            rule: PROHIBITIONS.to_owned(),
            path: factory_core::text::one_line(&String::from_utf8_lossy(change.path)),
            line: None,
            what: format!(
                "it has more than {} MiB, too many to be judged",
                FILE_LIMIT >> 20
            ),
            advice: "Make it smaller, or leave it out.".to_owned(),
        });
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        let files = BTreeMap::from([("prohibitions/0001-x.md".to_owned(), text)]);
        Rules::read(&files, &Globs::default()).unwrap()
    }

    fn findings(rules: &Rules, path: &str, content: &str) -> usize {
        let changed = ChangedFile {
            path: path.as_bytes(),
            size: Some(content.len() as u64),
            size_before: None,
            new_content: true,
        };
        rules.judge(&changed, content.as_bytes(), &[]).told().len()
    }

    #[test]
    fn what_init_writes_holds() {
        let rules = rules(include_str!("intent_templates/prohibition.md"));
        assert_eq!(findings(&rules, "deploy/.env", "A=b\n"), 1);
        assert_eq!(findings(&rules, "certs/server.pem", "x\n"), 1);
        assert_eq!(findings(&rules, "src/main.rs", "fn main() {}\n"), 0);
    }

    #[test]
    fn what_the_readme_shows_holds() {
        let readme = include_str!("../../../README.md");
        let (_, shown) = readme.split_once("```markdown\n---\n").unwrap();
        let (shown, _) = shown.split_once("```").unwrap();
        let rules = rules(&format!("---\n{shown}"));
        for (path, content, count) in [
            ("vendor/a.c", "x\n", 1),
            ("web/a.min.js", "x\n", 1),
            ("src/a.rs", "unsafe {\n", 1),
            ("src/ffi/a.rs", "unsafe {\n", 0),
            ("a.rs", "unsafe {\n", 0),
            ("big.txt", &"x\n".repeat(1 << 20), 1),
        ] {
            assert_eq!(findings(&rules, path, content), count, "{path}");
        }
    }
}
