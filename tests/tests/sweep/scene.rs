//! The scenario: two issues that write the same file. The first draft of the
//! first is red and is mended, and what is green then is sent back by its review, where
//! somebody reviews; meanwhile the user commits, so that the merge is
//! tested; the second conflicts with it.

use git2::{IndexAddOption, Repository, Signature, Time};
use std::path::Path;

/// The file that both issues write.
pub const TOPIC: &str = "topic.txt";
/// What a check takes for red.
pub const DRAFT: &str = "draft";
/// What a review sends back.
pub const PLAIN: &str = "plain";
/// The file that the user commits meanwhile.
const OTHER: &str = "other.txt";

/// Merges, and what is on main besides, newest first.
pub const SUBJECTS: [&str; 4] = [
    "Merge pull request 2 from factory/2-second",
    "Merge pull request 1 from factory/1-first",
    "Something else",
    "Begin",
];

fn someone() -> Signature<'static> {
    Signature::new("Uma User", "uma@example.org", &Time::new(1_700_000_000, 0)).unwrap()
}

/// A user's repository with one commit that configures the factory.
pub fn make(repo: &Path, config: &str) {
    let mut options = git2::RepositoryInitOptions::new();
    options.initial_head("main").external_template(false);
    let repository = Repository::init_opts(repo, &options).unwrap();
    let mut settings = repository.config().unwrap();
    settings.set_str("user.name", "Uma User").unwrap();
    settings.set_str("user.email", "uma@example.org").unwrap();
    std::fs::write(repo.join("factory.yaml"), config).unwrap();
    commit_all(&repository, "Begin");
}

fn commit_all(repository: &Repository, message: &str) {
    let mut index = repository.index().unwrap();
    index.add_all(["*"], IndexAddOption::DEFAULT, None).unwrap();
    index.write().unwrap();
    let tree = repository.find_tree(index.write_tree().unwrap()).unwrap();
    let parent = repository.head().ok().map(|h| h.peel_to_commit().unwrap());
    let parents: Vec<_> = parent.iter().collect();
    let me = someone();
    repository
        .commit(Some("HEAD"), &me, &me, message, &tree, &parents)
        .unwrap();
}

/// The user commits something of their own, once.
pub fn user_commits(repo: &Path) {
    if has(repo, OTHER) {
        return;
    }
    std::fs::write(repo.join(OTHER), "other\n").unwrap();
    commit_all(&Repository::open(repo).unwrap(), "Something else");
}

/// Whether main has a file.
pub fn has(repo: &Path, path: &str) -> bool {
    let repository = Repository::open(repo).unwrap();
    let main = repository.find_reference("refs/heads/main").unwrap();
    let tree = main.peel_to_tree().unwrap();
    tree.get_path(Path::new(path)).is_ok()
}

/// Whether the first issue's work is on main.
pub fn first_is_merged(repo: &Path) -> bool {
    has(repo, TOPIC)
}

/// What a code run of `issue` makes of the topic it starts from, and of the
/// target's, where that is to be merged in. Doing it again changes nothing.
pub fn written(issue: u64, start: &str, target: Option<&str>) -> String {
    let mut lines: Vec<&str> = start
        .lines()
        .chain(target.unwrap_or_default().lines())
        .collect();
    let own = format!("issue {issue}: ");
    let [draft, plain, done] = [DRAFT, PLAIN, "done"].map(|word| format!("{own}{word}"));
    let before = lines.iter().find(|line| line.starts_with(&own)).copied();
    let next = match before {
        None if issue == 1 => &draft,
        Some(before) if before == draft => &plain,
        None | Some(_) => &done,
    };
    lines.retain(|line| !line.starts_with(&own));
    lines.push(next);
    lines.sort_unstable();
    lines.dedup();
    lines.iter().map(|line| format!("{line}\n")).collect()
}
