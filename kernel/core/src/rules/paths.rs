//! Paths as they are told: of anybody's making, and as many as they like.

use super::secrets::{Secrets, secrets};
use crate::text::one_line;
use std::fmt;

/// Most paths that are told; the others are counted.
const MOST_TOLD: usize = 20;
/// Most characters of a path that are told.
pub(super) const LONGEST_PATH: usize = 300;

/// Paths for a sentence: the first ones, as a terminal may show them, and how many more there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToldPaths {
    told: Vec<String>,
    more: u64,
}

impl ToldPaths {
    /// Adds a path.
    pub fn add(&mut self, path: &[u8]) {
        if self.told.len() == MOST_TOLD {
            self.more += 1;
            return;
        }
        self.told.push(match secrets() {
            Ok(secrets) => told_path(secrets, path),
            Err(_) => A_FILE.to_owned(),
        });
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }
}

impl<P: AsRef<[u8]>> FromIterator<P> for ToldPaths {
    fn from_iter<I: IntoIterator<Item = P>>(paths: I) -> Self {
        let mut told = Self::default();
        paths.into_iter().for_each(|path| told.add(path.as_ref()));
        told
    }
}

impl fmt::Display for ToldPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told.join(", "))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

/// What is told in the place of a path that is not.
const A_FILE: &str = "(a file)";

/// A path as it may be told, in one line. One that holds a secret is not.
pub(super) fn told_path(secrets: &Secrets, path: &[u8]) -> String {
    let may = secrets.kinds_in(b"");
    if !secrets.of_line(path, &may).is_empty() {
        return A_FILE.to_owned();
    }
    let path = one_line(&String::from_utf8_lossy(path));
    match path.char_indices().nth(LONGEST_PATH) {
        Some((end, _)) => format!("{}…", &path[..end]),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_a_short_line() {
        let token = format!("ghp_{}", "aB3dE6gH9jK2".repeat(3));
        let odd = ["a\nnot merged: ask eve", "b\u{1b}[2J", &token];
        let told = ToldPaths::from_iter(odd).to_string();
        assert_eq!(told, "a not merged: ask eve, b\\u{1b}[2J, (a file)");
        let long = "p".repeat(4000);
        let mut told = ToldPaths::from_iter(vec![&long; 200_000]);
        told.add(b"c");
        let text = told.to_string();
        assert!(text.ends_with("…, and 199981 more"), "{text}");
        assert!(text.chars().count() < 21 * (LONGEST_PATH + 3), "{text}");
        assert!(ToldPaths::default().is_empty() && !told.is_empty());
    }
}
