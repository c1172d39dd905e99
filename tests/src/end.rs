//! What a user finds at the end, whatever happened on the way.

use factory_core::{
    model::{Issue, IssueState, PrState},
    state::{State, parse_comment, parse_issue, parse_pr},
};
use git2::{ObjectType, Repository, TreeWalkMode, TreeWalkResult};
use std::{collections::BTreeMap, path::Path};

/// Everything that must come out the same. Attempts, names of runs, times,
/// commit ids and the length of the journal may differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct End {
    /// Title, state and labels by path.
    pub issues: BTreeMap<String, String>,
    /// Author and words by key.
    pub comments: BTreeMap<String, String>,
    /// Issue, branch, state and words by path.
    pub prs: BTreeMap<String, String>,
    /// Jobs, runs and effects that are not over.
    pub open: Vec<String>,
    /// Tree of main.
    pub tree: String,
    /// First-parent subjects of main, newest first.
    pub subjects: Vec<String>,
    /// Subjects of all merges that main holds.
    pub merges: Vec<String>,
    /// All refs of the user's repository.
    pub refs: Vec<String>,
    /// What the work tree has that main has not.
    pub dirty: Vec<String>,
}

/// How an end differs from the undisturbed one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// What should be there and is not.
    pub lost: Vec<String>,
    /// What is there twice, or should not be there at all.
    pub doubled: Vec<String>,
}

impl Difference {
    /// True where there is none.
    pub fn is_none(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty()
    }

    /// Compares two lists, of which each element counts as often as it is there.
    fn add(&mut self, what: &str, expected: &[String], found: &[String]) {
        let mut left = found.to_vec();
        for wanted in expected {
            match left.iter().position(|have| have == wanted) {
                Some(at) => drop(left.remove(at)),
                None => self.lost.push(format!("{what}: {wanted}")),
            }
        }
        let more = left.into_iter().map(|have| format!("{what}: {have}"));
        self.doubled.extend(more);
    }
}

impl End {
    /// What is lost and what is doubled beside the undisturbed end.
    pub fn beside(&self, undisturbed: &End) -> Difference {
        let mut found = Difference::default();
        let lines = |map: &BTreeMap<String, String>| -> Vec<String> {
            map.iter()
                .map(|(at, text)| format!("{at}: {text}"))
                .collect()
        };
        for (what, expected, have) in [
            ("issue", lines(&undisturbed.issues), lines(&self.issues)),
            (
                "comment",
                lines(&undisturbed.comments),
                lines(&self.comments),
            ),
            ("pull request", lines(&undisturbed.prs), lines(&self.prs)),
            (
                "tree",
                vec![undisturbed.tree.clone()],
                vec![self.tree.clone()],
            ),
            (
                "on main",
                undisturbed.subjects.clone(),
                self.subjects.clone(),
            ),
            ("merge", undisturbed.merges.clone(), self.merges.clone()),
            ("ref", undisturbed.refs.clone(), self.refs.clone()),
            ("open", undisturbed.open.clone(), self.open.clone()),
            (
                "changed file",
                undisturbed.dirty.clone(),
                self.dirty.clone(),
            ),
        ] {
            found.add(what, &expected, &have);
        }
        if self.subjects != undisturbed.subjects && found.is_none() {
            found.doubled.push("main is in another order".to_owned());
        }
        found
    }

    /// Looks at the user's repository and the factory's state in it.
    pub fn of(repo: &Path) -> Self {
        let user = Repository::open(repo).unwrap();
        let main = user.find_reference("refs/heads/main").unwrap();
        let main = main.peel_to_commit().unwrap();
        let mut end = Self {
            tree: main.tree_id().to_string(),
            ..Self::default()
        };
        let mut walk = user.revwalk().unwrap();
        walk.push(main.id()).unwrap();
        for id in walk {
            let commit = user.find_commit(id.unwrap()).unwrap();
            if commit.parent_count() > 1 {
                end.merges.push(subject(&commit));
            }
        }
        end.merges.retain(|merge| merge.starts_with("Merge pull"));
        end.merges.sort();
        let mut next = Some(main);
        while let Some(commit) = next {
            end.subjects.push(subject(&commit));
            next = commit.parent(0).ok();
        }
        let names = user.references().unwrap();
        let names = names.map(|r| r.unwrap().name().unwrap().to_owned());
        end.refs = names.collect();
        end.refs.sort();
        let statuses = user.statuses(None).unwrap();
        end.dirty = statuses
            .iter()
            .map(|entry| entry.path().unwrap().to_owned())
            .collect();
        end.read_state(&repo.join(".git/factory/state.git"));
        end
    }

    fn read_state(&mut self, git: &Path) {
        for (path, bytes) in state_files(git) {
            let name = path.rsplit('/').next().unwrap();
            if path.contains("issues/") && name.starts_with("c-") {
                let comment = parse_comment(&path, &bytes).unwrap();
                let said = format!("{}: {}", comment.author, words(&comment.text));
                self.comments.insert(path, said);
            } else if path.contains("issues/") {
                let issue = parse_issue(&path, &bytes).unwrap();
                self.issues.insert(path, issue_words(&issue));
            } else if path.contains("prs/") {
                let pr = parse_pr(&path, &bytes).unwrap();
                let state = match &pr.state {
                    PrState::Merged { by, .. } => format!("merged by {by}"),
                    PrState::Closed { by, reason, .. } => format!("closed by {by}: {reason}"),
                    open => factory_core::event::describe(open),
                };
                let said = format!(
                    "issue {}, {}, {}, {state}, {:?}: {}",
                    pr.issue,
                    pr.branch,
                    pr.title,
                    pr.note,
                    words(&pr.body)
                );
                self.prs.insert(path, said);
            } else if ["jobs/", "runs/", "effects/", "drafts/"]
                .iter()
                .any(|live| path.starts_with(live))
            {
                self.open.push(path);
            }
        }
    }
}

fn issue_words(issue: &Issue) -> String {
    let state = match &issue.state {
        IssueState::Closed { by, pr, .. } => format!("closed by {by} with {pr:?}"),
        IssueState::Proposed => "proposed".to_owned(),
        IssueState::Approved { by } => format!("approved by {by}"),
    };
    let (title, labels) = (&issue.title, &issue.labels);
    format!(
        "{title}, {state}, {labels:?}, {} comments: {}",
        issue.comments,
        words(&issue.body)
    )
}

fn subject(commit: &git2::Commit<'_>) -> String {
    commit.summary().unwrap().unwrap_or_default().to_owned()
}

/// All files of the newest state, the archive included.
pub fn state_files(git: &Path) -> BTreeMap<String, Vec<u8>> {
    let state = Repository::open_bare(git).unwrap();
    let head = state.find_reference("refs/state").unwrap();
    let tree = head.peel_to_tree().unwrap();
    let mut files = BTreeMap::new();
    tree.walk(TreeWalkMode::PreOrder, |dir, entry| {
        if entry.kind() == Some(ObjectType::Blob) {
            let blob = state.find_blob(entry.id()).unwrap();
            let name = entry.name().unwrap();
            files.insert(format!("{dir}{name}"), blob.content().to_vec());
        }
        TreeWalkResult::Ok
    })
    .unwrap();
    files
}

/// The live part of the state.
pub fn live_state(git: &Path) -> State {
    let mut files = state_files(git);
    files.retain(|name, _| !name.starts_with("archive/"));
    State::decode(&files).unwrap()
}

/// A text without what differs from one undisturbed factory to the next as well:
/// commit ids and names of runs.
pub fn words(text: &str) -> String {
    let varies = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let commit = word.len() >= 7 && word.bytes().all(|b| b.is_ascii_hexdigit());
        let run = word.parse::<factory_core::ids::RunId>().is_ok();
        commit || run
    };
    text.split_whitespace()
        .map(|word| if varies(word) { "#" } else { word })
        .collect::<Vec<_>>()
        .join(" ")
}
