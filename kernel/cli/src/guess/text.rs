//! A commit's names, and the texts of the few files that are looked into.

use std::collections::{BTreeMap, BTreeSet};

/// A larger file is passed over: none that is written by hand is.
const MOST_BYTES: u64 = 1 << 20;
/// Files of one kind (workflows, requirements, tests) that are looked into.
const MOST_OF_A_KIND: usize = 20;
/// Test files that are looked into, to see what runs them.
const MOST_TESTS: usize = 3;

const NAMED: [&str; 17] = [
    ".cargo/config",
    ".cargo/config.toml",
    ".gitlab-ci.yml",
    "Cargo.lock",
    "Cargo.toml",
    "GNUmakefile",
    "Makefile",
    "go.mod",
    "makefile",
    "package.json",
    "pyproject.toml",
    "pytest.ini",
    "requirements.txt",
    "rust-toolchain",
    "rust-toolchain.toml",
    "setup.cfg",
    "setup.py",
];

/// The files that guesses are made from, out of all names with their sizes; and
/// what is passed over, with the reason.
pub fn wanted<'a>(files: impl IntoIterator<Item = (&'a str, u64)>) -> (Vec<String>, Vec<String>) {
    let (mut wanted, mut skipped) = (Vec::new(), Vec::new());
    let mut counts = BTreeMap::new();
    for (path, bytes) in files {
        let most = match kind(path) {
            None => continue,
            Some("test") => MOST_TESTS,
            Some(_) => MOST_OF_A_KIND,
        };
        let count = counts.entry(kind(path)).or_insert(0);
        if *count == most {
            continue;
        }
        if bytes > MOST_BYTES {
            skipped.push(format!("{path}: {bytes} bytes are too many to look into"));
            continue;
        }
        *count += 1;
        wanted.push(path.to_owned());
    }
    (wanted, skipped)
}

fn kind(path: &str) -> Option<&'static str> {
    if NAMED.contains(&path) {
        return Some("named");
    }
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let is_yaml = name.ends_with(".yml") || name.ends_with(".yaml");
    if dir == ".github/workflows" && is_yaml {
        return Some("workflow");
    }
    let is_text = name.ends_with(".txt");
    if (dir.is_empty() && name.contains("requirements") || dir == "requirements") && is_text {
        return Some("requirements");
    }
    is_python_test(path).then_some("test")
}

/// A file that Python's test runners would take up.
pub fn is_python_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_vendored = ["vendor/", "node_modules/", "third_party/"]
        .iter()
        .any(|dir| path.starts_with(dir));
    !is_vendored
        && name.ends_with(".py")
        && (name.starts_with("test_") || name.ends_with("_test.py"))
}

/// A commit, as far as guesses need it.
#[derive(Debug, Default)]
pub struct Tree {
    paths: BTreeSet<String>,
    texts: BTreeMap<String, String>,
    skipped: Vec<String>,
}

impl Tree {
    /// All names, and the content of those that [`wanted`] named. What is no text is passed over.
    pub fn new(
        paths: impl IntoIterator<Item = String>,
        contents: BTreeMap<String, Vec<u8>>,
        mut skipped: Vec<String>,
    ) -> Self {
        let mut texts = BTreeMap::new();
        for (path, bytes) in contents {
            match String::from_utf8(bytes) {
                Ok(text) => {
                    texts.insert(path, text);
                }
                Err(_) => skipped.push(format!("{path}: not UTF-8 text")),
            }
        }
        Self {
            paths: paths.into_iter().collect(),
            texts,
            skipped,
        }
    }

    /// Whether a file of this name is there.
    pub fn has(&self, path: &str) -> bool {
        self.paths.contains(path)
    }

    /// All names below a folder, such as `vendor/`.
    pub fn below<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = &'a str> {
        let from = self.paths.range(dir.to_owned()..);
        from.map(String::as_str)
            .take_while(move |path| path.starts_with(dir))
    }

    /// All names.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(String::as_str)
    }

    /// A file's text, where it was looked into.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// The texts of all files whose name begins so.
    pub fn texts<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.texts.iter().map(|(p, t)| (p.as_str(), t.as_str()));
        all.filter(move |(path, _)| path.starts_with(dir))
    }

    /// What was passed over.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }
}

/// The first line (from 1) that holds `part`; 1 where none does.
pub fn line_of(text: &str, part: &str) -> usize {
    let found = text.lines().position(|line| line.contains(part));
    found.map_or(1, |at| at + 1)
}

/// The line (from 1) of a byte.
pub fn line_at(text: &str, byte: usize) -> usize {
    let before = text.as_bytes().get(..byte).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// TOML, or the word on why it is passed over.
pub fn toml(path: &str, text: &str) -> Result<toml::Table, String> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(text, span.start));
        let what = error.message().lines().next().unwrap_or("broken");
        format!("{path}:{line}: no TOML that can be read ({what})")
    })
}

/// The names in a list, some of them at most.
pub fn some_of(names: &BTreeSet<String>) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The numbers of `1.63` or `>=3.9`; none where it begins otherwise.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let text = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next().and_then(|part| part.parse().ok());
    Some((major, minor.unwrap_or(0)))
}
