//! What is no longer live: read from the state's archive when asked for.

use crate::{factory::Factory, failure::Failure};
use factory_core::{
    ids::{IssueNo, PrNo, RunId},
    model::{Comment, Issue, Job, Pr, Run},
    state::{self, StateError, archived},
};

/// Every archived file of a kind, with its path, sorted by path.
fn all(factory: &Factory, kind: &str) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut found = Vec::new();
    let root = format!("archive/{kind}");
    for hundred in factory.store.list(&factory.head, &root)? {
        found.extend(below(factory, &format!("{root}/{}", hundred.name), |_| {
            true
        })?);
    }
    Ok(found)
}

/// The files right in a directory whose name is wanted.
fn below(
    factory: &Factory,
    dir: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut found = Vec::new();
    for entry in factory.store.list(&factory.head, dir)? {
        if !entry.is_dir && wanted(&entry.name) {
            let path = format!("{dir}/{}", entry.name);
            if let Some(bytes) = factory.store.read_file(&factory.head, &path)? {
                found.push((path, bytes));
            }
        }
    }
    Ok(found)
}

fn one<T>(
    factory: &Factory,
    path: &str,
    parse: fn(&str, &[u8]) -> Result<T, StateError>,
) -> Result<Option<T>, Failure> {
    let bytes = factory.store.read_file(&factory.head, path)?;
    Ok(bytes.map(|bytes| parse(path, &bytes)).transpose()?)
}

/// All closed issues, by number.
pub fn issues(factory: &Factory) -> Result<Vec<Issue>, Failure> {
    let files = all(factory, "issues")?;
    let parsed = files
        .iter()
        .map(|(path, bytes)| state::parse_issue(path, bytes));
    let mut issues = parsed.collect::<Result<Vec<_>, _>>()?;
    issues.sort_by_key(|issue| issue.number);
    Ok(issues)
}

/// A closed issue.
pub fn issue(factory: &Factory, number: IssueNo) -> Result<Option<Issue>, Failure> {
    let path = archived("issues", number.0, &format!("{number}.md"));
    one(factory, &path, state::parse_issue)
}

/// Comments of a closed issue, oldest first.
pub fn comments(factory: &Factory, number: IssueNo) -> Result<Vec<Comment>, Failure> {
    let dir = archived("issues", number.0, &format!("{number}.d"));
    let mut comments = Vec::new();
    for (path, bytes) in below(factory, &dir, |_| true)? {
        let k = path
            .rsplit_once("/c-")
            .and_then(|(_, name)| name.strip_suffix(".md"))
            .and_then(|k| k.parse::<u32>().ok());
        comments.push((k, state::parse_comment(&path, &bytes)?));
    }
    comments.sort_by_key(|(k, _)| *k);
    Ok(comments.into_iter().map(|(_, comment)| comment).collect())
}

/// The job of an issue that no job works on any more.
pub fn job(factory: &Factory, number: IssueNo) -> Result<Option<Job>, Failure> {
    let path = archived("jobs", number.0, &format!("{number}.yaml"));
    one(factory, &path, state::parse)
}

/// All merged and closed pull requests, by number.
pub fn prs(factory: &Factory) -> Result<Vec<Pr>, Failure> {
    let files = all(factory, "prs")?;
    let parsed = files
        .iter()
        .map(|(path, bytes)| state::parse_pr(path, bytes));
    let mut prs = parsed.collect::<Result<Vec<_>, _>>()?;
    prs.sort_by_key(|pr| pr.number);
    Ok(prs)
}

/// A merged or closed pull request.
pub fn pr(factory: &Factory, number: PrNo) -> Result<Option<Pr>, Failure> {
    let path = archived("prs", number.0, &format!("{number}.md"));
    one(factory, &path, state::parse_pr)
}

/// All runs that are over, by job and number.
pub fn runs(factory: &Factory) -> Result<Vec<Run>, Failure> {
    sorted(&all(factory, "runs")?)
}

/// The runs of one job that are over.
pub fn runs_of(factory: &Factory, number: IssueNo) -> Result<Vec<Run>, Failure> {
    let dir = archived("runs", number.0, "");
    let mine = format!("r{number}-");
    sorted(&below(factory, dir.trim_end_matches('/'), |name| {
        name.starts_with(&mine)
    })?)
}

fn sorted(files: &[(String, Vec<u8>)]) -> Result<Vec<Run>, Failure> {
    let parsed = files.iter().map(|(path, bytes)| state::parse(path, bytes));
    let mut runs = parsed.collect::<Result<Vec<Run>, _>>()?;
    runs.sort_by_key(|run| run.id);
    Ok(runs)
}

/// A run that is over.
pub fn run(factory: &Factory, id: RunId) -> Result<Option<Run>, Failure> {
    let path = archived("runs", id.job.0, &format!("{id}.yaml"));
    one(factory, &path, state::parse)
}
