//! What a change may not hold: the `enforce:` rules of the target's prohibitions, and secrets.
//! Judged when something is pushed, and once more before it is merged.
//!
//! A line counts as added where it stands in none of the contents that the file had before:
//! a line that moves is not judged again. Nothing that is told holds the line itself, which
//! may be a secret.

mod enforce;
mod globs;
mod judge;
mod lines;
mod paths;
mod secrets;

pub use globs::Globs;
pub use judge::{ChangedFile, FileJudge, Findings, Violation};
pub use paths::ToldPaths;
pub use secrets::{Found, find_secrets};

use enforce::MOST_RULES;
use secrets::Secrets;
use std::collections::BTreeMap;

/// Folder of the files that may carry rules.
pub const PROHIBITIONS: &str = "prohibitions";

/// Why the rules of a commit cannot be used. Nothing may be let through then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", self.place())]
pub struct RuleError {
    /// Path of the file in the repository.
    pub file: String,
    /// Line from 1; 0 where the whole file is meant.
    pub line: u64,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub help: String,
}

impl RuleError {
    /// The file, with the line where there is one: `prohibitions/0003-x.md:4`.
    pub fn place(&self) -> String {
        match self.line {
            0 => self.file.clone(),
            line => format!("{}:{line}", self.file),
        }
    }
}

/// The rules of one commit of the target.
#[derive(Clone)]
pub struct Rules {
    enforced: Vec<enforce::Rule>,
    secrets: &'static Secrets,
    allow_secrets_in: Globs,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Rules");
        shown.field("enforced", &self.enforced);
        shown.field("allow_secrets_in", &self.allow_secrets_in);
        shown.finish_non_exhaustive()
    }
}

impl Rules {
    /// Reads the rules of all prohibitions (`prohibitions/**/*.md` of one commit, by path; other
    /// paths are passed over). `allow_secrets_in` is `secrets.allow_in` of the configuration.
    pub fn read<C: AsRef<[u8]>>(
        prohibitions: &BTreeMap<String, C>,
        allow_secrets_in: &Globs,
    ) -> Result<Self, RuleError> {
        let mut enforced: Vec<enforce::Rule> = Vec::new();
        for (file, content) in prohibitions
            .iter()
            .filter(|(file, _)| may_carry_rules(file))
        {
            enforced.extend(enforce::read(file, content.as_ref())?);
            if enforced.len() > MOST_RULES {
                return Err(RuleError {
                    file: file.clone(),
                    line: 0,
                    what: format!("with it there are more than {MOST_RULES} rules"),
                    help: "put several globs in one rule, or several words in one pattern"
                        .to_owned(),
                });
            }
        }
        let secrets = secrets::secrets().map_err(|what| RuleError {
            file: "the rules for secrets".to_owned(),
            line: 0,
            what,
            help: "this is a defect of factory: report it, and use the version before".to_owned(),
        })?;
        Ok(Self {
            enforced,
            secrets,
            allow_secrets_in: allow_secrets_in.clone(),
        })
    }

    /// Begins to judge a file whose content comes in pieces.
    pub fn file<'a>(&'a self, changed: &ChangedFile<'a>) -> FileJudge<'a> {
        FileJudge::new(self, changed)
    }

    /// Judges a file at once. `after` is its content, empty where it was removed; `before` are
    /// its contents in the commit's parents, where there were any.
    pub fn judge(&self, changed: &ChangedFile<'_>, after: &[u8], before: &[&[u8]]) -> Findings {
        let mut judge = self.file(changed);
        judge.after(after);
        for before in before {
            judge.next_before();
            judge.before(before);
        }
        judge.finish()
    }
}

/// True for a path whose file may carry rules.
pub fn may_carry_rules(path: &str) -> bool {
    let below = path.strip_prefix(PROHIBITIONS);
    below.is_some_and(|below| below.starts_with('/') && below.ends_with(".md"))
}
