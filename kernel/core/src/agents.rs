//! Agents: who does the work of each role, and with what words.

use crate::{
    config::{AgentType, explain},
    grant::Role,
    text,
};
use serde::Deserialize;
use serde_saphyr::Spanned;
use std::collections::BTreeMap;

/// Where a repository keeps agents of its own.
pub const AGENTS: &str = ".factory/agents";

/// Most bytes of an agent's file.
pub const FILE_LIMIT: usize = 64 << 10;

/// The line that begins and ends the front matter.
const FENCE: &str = "---";

/// Keys of the front matter, all of them needed.
const KEYS: &str = "`name`, `type`, `job` and `role`";

/// Roles that an agent may have.
pub const ROLES: [Role; 4] = [Role::Split, Role::Plan, Role::Code, Role::Review];

/// Who does the work of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its name, that of its file.
    pub name: String,
    /// What it is for, beside other types of agents.
    pub kind: AgentType,
    /// What it does, in a line.
    pub job: String,
    /// Whose work it does.
    pub role: Role,
    /// Its file as it is: front matter and prompt.
    pub text: String,
}

/// What is wrong with an agent's file. No run can be told who it is then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", self.place())]
pub struct AgentError {
    /// Path of the file in the repository.
    pub file: String,
    /// Line from 1; 0 where the whole file is meant.
    pub line: u64,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub help: String,
}

impl AgentError {
    /// The file, with the line where there is one: `.factory/agents/reviewer.md:4`.
    pub fn place(&self) -> String {
        let file = text::one_line(&self.file);
        match self.line {
            0 => file,
            line => format!("{file}:{line}"),
        }
    }
}

/// A repository's own agents, at most one of a role.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Agents(BTreeMap<Role, Agent>);

impl Agents {
    /// Reads the files below [`AGENTS`], by path.
    ///
    /// # Errors
    /// All that is wrong, in the order of the files.
    pub fn read<C: AsRef<[u8]>>(files: &BTreeMap<String, C>) -> Result<Self, Vec<AgentError>> {
        let mut agents: BTreeMap<Role, Agent> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (file, content) in files {
            match read(file, content.as_ref()) {
                Err(error) => wrong.push(error),
                Ok(agent) => match agents.get(&agent.role) {
                    Some(first) => wrong.push(AgentError {
                        file: file.clone(),
                        line: 0,
                        what: format!(
                            "its role is `{}`, as is that of {AGENTS}/{}.md",
                            agent.role.as_str(),
                            first.name
                        ),
                        help: "keep one agent for each role".to_owned(),
                    }),
                    None => {
                        agents.insert(agent.role, agent);
                    }
                },
            }
        }
        match wrong.is_empty() {
            true => Ok(Self(agents)),
            false => Err(wrong),
        }
    }

    /// The repository's own agent of a role; none where the built-in one works.
    pub fn own(&self, role: Role) -> Option<&Agent> {
        self.0.get(&role)
    }

    /// The file of a role's agent: the repository's own, or the built-in one.
    pub fn text(&self, role: Role) -> &str {
        self.own(role).map_or(builtin(role), |own| &own.text)
    }
}

/// The built-in agent of a role: front matter and prompt. A check has none.
pub fn builtin(role: Role) -> &'static str {
    match role {
        Role::Split => include_str!("../../../agent-images/agents/splitter.md"),
        Role::Plan => include_str!("../../../agent-images/agents/planner.md"),
        Role::Code => include_str!("../../../agent-images/agents/worker.md"),
        Role::Review => include_str!("../../../agent-images/agents/reviewer.md"),
        Role::Check => "",
    }
}

/// What follows the front matter.
pub fn prompt(agent: &str) -> &str {
    parts(agent).map_or(agent, |(_, prompt)| prompt)
}

/// Front matter and prompt; none where there is no front matter, or it does not end.
fn parts(agent: &str) -> Option<(&str, &str)> {
    let mut lines = agent.split_inclusive('\n');
    let first = lines.next().filter(|line| line.trim_end() == FENCE)?;
    let mut at = first.len();
    for line in lines {
        if line.trim_end() == FENCE {
            return Some((&agent[first.len()..at], &agent[at + line.len()..]));
        }
        at += line.len();
    }
    None
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FrontMatter {
    name: Option<Spanned<String>>,
    #[serde(rename = "type")]
    kind: Option<Spanned<String>>,
    job: Option<Spanned<String>>,
    role: Option<Spanned<String>>,
}

/// Reads an agent's file. Its path names the errors, and holds the agent's name.
///
/// # Errors
/// Where it is none.
pub fn read(file: &str, content: &[u8]) -> Result<Agent, AgentError> {
    let fail = |line: u64, what: String, help: &str| AgentError {
        file: file.to_owned(),
        line,
        what,
        help: help.to_owned(),
    };
    let in_folder = file.rsplit_once('/').map_or(file, |(_, name)| name);
    let is_at_top = file.len() == AGENTS.len() + 1 + in_folder.len() && file.starts_with(AGENTS);
    let stem = in_folder.strip_suffix(".md").filter(|_| is_at_top);
    let Some(stem) = stem else {
        let help = format!("move it away: agents are {AGENTS}/<name>.md");
        return Err(fail(0, "this is no agent".to_owned(), &help));
    };
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if stem.is_empty() || !stem.chars().all(is_plain) {
        let help = "use small letters, digits and `-`: reviewer.md";
        return Err(fail(0, "its name is none of an agent".to_owned(), help));
    }
    if content.len() > FILE_LIMIT {
        let what = format!("it has more than {} KiB", FILE_LIMIT >> 10);
        return Err(fail(0, what, "make it shorter"));
    }
    let Ok(text) = std::str::from_utf8(content) else {
        return Err(fail(0, "this is no UTF-8".to_owned(), "save it as UTF-8"));
    };
    let Some((front, prompt)) = parts(text) else {
        let what = "no front matter stands at its beginning, or it does not end".to_owned();
        let help = format!("begin with a line `---`, then {KEYS}, then another line `---`");
        return Err(fail(1, what, &help));
    };
    // Lines count as in the file.
    let front = format!("\n{front}");
    let is_empty = |line: &str| line.trim().is_empty() || line.trim().starts_with('#');
    let parsed: FrontMatter = match front.lines().all(is_empty) {
        true => {
            return Err(fail(
                1,
                "its front matter is empty".to_owned(),
                &needed(KEYS),
            ));
        }
        false => serde_saphyr::from_str(&front).map_err(|error| {
            let error = explain::explain(&error, &front);
            fail(error.line, error.what, &error.help)
        })?,
    };
    let given = |value: Option<Spanned<String>>, key: &str| {
        let value = value.filter(|value| !value.value.trim().is_empty());
        value
            .map(|value| (value.referenced.line(), value.value))
            .ok_or_else(|| fail(1, format!("`{key}` is missing"), &needed(KEYS)))
    };
    let (line, name) = given(parsed.name, "name")?;
    if name != stem {
        let help = format!("write `name: {stem}`, or give the file another name");
        let what = format!(
            "its name is `{}`, and its file's is not",
            text::one_line(&name)
        );
        return Err(fail(line, what, &help));
    }
    let (line, kind) = given(parsed.kind, "type")?;
    if kind != AgentType::Worker.as_str() {
        let what = format!("`{}` is no type that works here", text::one_line(&kind));
        return Err(fail(line, what, "write `type: worker`"));
    }
    let (_, job) = given(parsed.job, "job")?;
    let (line, role) = given(parsed.role, "role")?;
    let Some(role) = ROLES.into_iter().find(|known| known.as_str() == role) else {
        let what = format!("`{}` is no role of an agent", text::one_line(&role));
        let known = ROLES.map(Role::as_str).join(", ");
        return Err(fail(line, what, &format!("known here: {known}")));
    };
    if prompt.trim().is_empty() {
        let help = "write below the front matter what it is to do, and what it is to hand in";
        return Err(fail(0, "it has no prompt".to_owned(), help));
    }
    Ok(Agent {
        name,
        kind: AgentType::Worker,
        job: text::one_line(&job),
        role,
        text: text.to_owned(),
    })
}

fn needed(keys: &str) -> String {
    format!("write {keys} between its lines `---`")
}

/// The built-in agents, in the order of [`ROLES`].
///
/// # Errors
/// None that a build can have: a test reads them.
pub fn builtins() -> Result<Vec<Agent>, AgentError> {
    let named = [
        ("splitter", Role::Split),
        ("planner", Role::Plan),
        ("worker", Role::Code),
        ("reviewer", Role::Review),
    ];
    let read = |(name, role)| read(&format!("{AGENTS}/{name}.md"), builtin(role).as_bytes());
    named.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = ".factory/agents/judge.md";
    const TEXT: &str =
        "---\nname: judge\ntype: worker\njob: judges\nrole: review\n---\nYou judge.\n";

    fn files(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(file, text): &(&str, &str)| ((*file).to_owned(), (*text).to_owned());
        all.iter().map(owned).collect()
    }

    #[test]
    fn the_built_in_agents_are_read_by_the_same_rules() {
        let roles: Vec<Role> = builtins().unwrap().iter().map(|a| a.role).collect();
        assert_eq!(roles, ROLES);
    }

    #[test]
    fn what_the_readme_shows_is_read() {
        let readme = include_str!("../../../README.md");
        let (_, shown) = readme.split_once("```\n---\nname:").unwrap();
        let (shown, _) = shown.split_once("```").unwrap();
        let agent = read(FILE, format!("---\nname:{shown}").as_bytes()).unwrap();
        assert_eq!(agent.role, Role::Review);
    }

    #[test]
    fn an_own_agent_takes_the_place_of_the_built_in_one_of_its_role() {
        let agents = Agents::read(&files(&[(FILE, TEXT)])).unwrap();
        assert_eq!(prompt(agents.text(Role::Review)), "You judge.\n");
        assert_eq!(agents.text(Role::Code), builtin(Role::Code));
        assert_eq!(agents.own(Role::Review).unwrap().name, "judge");
        let windows = TEXT.replace('\n', "\r\n");
        assert_eq!(prompt(&windows), "You judge.\r\n");
        assert!(read(FILE, windows.as_bytes()).is_ok());
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_with_its_line() {
        let second = TEXT.replace("judge\n", "other\n");
        let agents = files(&[
            (FILE, TEXT),
            (".factory/agents/a/b.md", TEXT),
            (".factory/agents/other.md", &second),
        ]);
        let wrong = Agents::read(&agents).unwrap_err();
        let told: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                ".factory/agents/a/b.md: this is no agent",
                ".factory/agents/other.md: its role is `review`, as is that of .factory/agents/judge.md",
            ]
        );
        let long = format!("{TEXT}{}", "x".repeat(FILE_LIMIT));
        for (text, line, what, help) in [
            (
                "You judge.",
                1,
                "no front matter",
                "begin with a line `---`",
            ),
            (
                "---\nname: judge\n",
                1,
                "does not end",
                "another line `---`",
            ),
            ("---\n---\nx", 1, "is empty", "`role`"),
            (
                &TEXT.replace("role: review\n", ""),
                1,
                "`role` is missing",
                "`role`",
            ),
            (
                &TEXT.replace("name: judge", "name: jugde"),
                2,
                "`jugde`",
                "name: judge",
            ),
            (
                &TEXT.replace("worker", "sensor"),
                3,
                "`sensor`",
                "type: worker",
            ),
            (
                &TEXT.replace("review", "check"),
                5,
                "`check`",
                "split, plan, code, review",
            ),
            (
                &TEXT.replace("job:", "model:"),
                4,
                "unknown key `model`",
                "known here: name",
            ),
            (
                &TEXT.replace("job:", "jbo:"),
                4,
                "unknown key `jbo`",
                "did you mean `job`?",
            ),
            (&TEXT.replace("judges", "[a]"), 4, "", ""),
            (&TEXT.replace("You judge.", " "), 0, "no prompt", "below"),
            (&long, 0, "more than 64 KiB", "shorter"),
        ] {
            let error = read(FILE, text.as_bytes()).expect_err(text);
            assert_eq!(error.line, line, "{text}: {error:?}");
            assert!(error.what.contains(what), "{text}: {error:?}");
            assert!(error.help.contains(help), "{text}: {error:?}");
        }
        for file in [
            "judge.md",
            ".factory/agents/judge.txt",
            ".factory/agents/Judge.md",
        ] {
            assert_eq!(read(file, TEXT.as_bytes()).expect_err(file).line, 0);
        }
        assert!(read(FILE, b"---\n\xff\n---\nx").is_err());
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_read_or_named(
            file in "\\.factory/agents/[a-z./]{0,9}(\\.md)?",
            text in "(?s)(---\n)?((name|type|job|role|.): ?(judge|worker|review|[\\[{&*!|>].{0,5}|.{0,9})\n){0,6}(---\n)?.{0,20}",
            bytes in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            for content in [text.as_bytes(), &bytes, &[text.as_bytes(), &bytes].concat()] {
                match read(&file, content) {
                    Ok(agent) => prop_assert_eq!(agent.text.as_bytes(), content),
                    Err(error) => {
                        prop_assert!(!error.what.is_empty() && !error.help.is_empty());
                        let lines = String::from_utf8_lossy(content).lines().count() as u64;
                        prop_assert!(error.line <= lines + 1, "{:?}", error);
                    }
                }
                let whole = String::from_utf8_lossy(content);
                prop_assert!(whole.ends_with(prompt(&whole)));
            }
        }
    }
}
