//! Paths that issues say they will touch, so that two that touch the same are not worked
//! on at the same time.

use crate::{event::Refusal, ids::IssueNo, text};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Included, Unbounded},
};

/// What a line begins with that names what an issue will touch.
const TOUCHES: &str = "touches:";

/// Label of an issue that may be worked on beside others that touch the same.
pub const MAY_OVERLAP: &str = "may-overlap";

/// The paths that lines `Touches: src/auth, docs/*.md` of a text name, from the
/// repository's top, sorted. A name with a wildcard counts for the folder it is in; the
/// repository itself is the empty path. A line of several words is prose.
pub fn written_touches(body: &str) -> Result<Vec<String>, Refusal> {
    let mut found = BTreeSet::new();
    for line in body.lines() {
        let Some((head, rest)) = line.trim().split_at_checked(TOUCHES.len()) else {
            continue;
        };
        if !head.eq_ignore_ascii_case(TOUCHES) {
            continue;
        }
        let names = rest.split(',').map(str::trim).filter(|n| !n.is_empty());
        let names: Option<Vec<&str>> = names.map(one).collect();
        for name in names.into_iter().flatten() {
            found.insert(path(name).ok_or_else(|| Refusal::Touches(text::one_line(name)))?);
        }
    }
    Ok(found.into_iter().collect())
}

/// A name that stands alone, or in backticks; none where words follow it.
fn one(name: &str) -> Option<&str> {
    let quoted = name.strip_prefix('`').and_then(|n| n.strip_suffix('`'));
    quoted.or_else(|| (!name.contains(char::is_whitespace)).then_some(name))
}

/// A path from the repository's top; none where it leads out of it.
fn path(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part if part.contains(['*', '?', '[', '{']) => break,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Who touches what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Paths(BTreeMap<String, BTreeSet<IssueNo>>);

impl Paths {
    pub(super) fn insert(&mut self, issue: IssueNo, paths: &[String]) {
        for path in paths {
            self.0.entry(path.clone()).or_default().insert(issue);
        }
    }

    pub(super) fn remove(&mut self, issue: IssueNo, paths: &[String]) {
        for path in paths {
            if let Some(there) = self.0.get_mut(path) {
                there.remove(&issue);
                if there.is_empty() {
                    self.0.remove(path);
                }
            }
        }
    }

    /// Issues that touch one of `paths`, something in it, or what it is in; each with the
    /// path of these.
    pub(super) fn overlapping<'p>(
        &self,
        paths: &'p [String],
    ) -> impl Iterator<Item = (IssueNo, &'p str)> {
        paths.iter().flat_map(move |path| {
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            let above = above.chain((!path.is_empty()).then_some(""));
            let at = above.chain([path.as_str()]).filter_map(|p| self.0.get(p));
            // All that begins with the path and a `/`, which `0` follows.
            let (from, to) = match path.as_str() {
                "" => (Excluded(String::new()), Unbounded),
                path => (Included(format!("{path}/")), Excluded(format!("{path}0"))),
            };
            let below = self.0.range((from, to)).map(|(_, issues)| issues);
            let issues = at.chain(below).flatten();
            issues.map(move |issue| (*issue, path.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_people_write_them() {
        let read = |body: &str| written_touches(body);
        let paths = read("Do it.\n\nTouches: src/auth, ./docs/*.md,/a//b/\ntouches: `my file`\n");
        assert_eq!(paths.unwrap(), ["a/b", "docs", "my file", "src/auth"]);
        assert_eq!(read("Touches: .").unwrap(), [""]);
        assert_eq!(read("Touches: **/*.rs").unwrap(), [""]);
        assert_eq!(read("Touches: a/../b").unwrap(), ["b"]);
        let prose = "It touches: a\nTouches: the login page, and more\nTouches:\n";
        assert!(read(prose).unwrap().is_empty());
        let out = read("Touches: src/../../etc").unwrap_err().to_string();
        assert!(
            out.contains("`src/../../etc` leads out of the repository"),
            "{out}"
        );
    }

    #[test]
    fn a_folder_overlaps_with_what_is_in_it_and_what_it_is_in() {
        let mut paths = Paths::default();
        for (n, path) in ["src", "src/auth", "src/auth/jwt.rs", "src-old", "src/b", ""]
            .into_iter()
            .enumerate()
        {
            paths.insert(IssueNo(n as u64), &[path.to_owned()]);
        }
        let overlapping = |path: &str| {
            let path = [path.to_owned()];
            let found = paths.overlapping(&path).map(|(n, _)| n.0);
            found
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        };
        assert_eq!(overlapping("src/auth"), [0, 1, 2, 5]);
        assert_eq!(overlapping("src"), [0, 1, 2, 4, 5]);
        assert_eq!(overlapping("src/auth/jwt.rs/x"), [0, 1, 2, 5]);
        assert_eq!(overlapping("docs"), [5]);
        assert_eq!(overlapping(""), [0, 1, 2, 3, 4, 5]);
    }
}
