//! Lists of globs over the paths of a repository, with the meaning of a `.gitignore`.

use globset::{Candidate, Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::sync::{Arc, OnceLock};

/// Most globs of one list.
const MOST: usize = 100;
/// Most characters of one glob.
const LONGEST: usize = 200;

/// Globs over paths, matched as `.gitignore` does: `*` and `?` stop at a slash, `**` does
/// not; a glob without a slash, but for one at its end, holds in every folder; what matches a
/// folder matches all below it. There is no negation.
///
/// They are compiled when they are first matched: a state holds many that never are.
#[derive(Debug, Clone, Default)]
pub struct Globs {
    texts: Vec<String>,
    /// Two for each text: what it names, and what is below that.
    set: Arc<OnceLock<Result<GlobSet, String>>>,
}

impl Globs {
    /// Reads globs. The error says what is wrong with which one.
    pub fn new<T: Into<String>>(globs: impl IntoIterator<Item = T>) -> Result<Self, String> {
        let texts: Vec<String> = globs.into_iter().map(Into::into).collect();
        if texts.len() > MOST {
            return Err(format!(
                "these are {} globs; at most {MOST} may be",
                texts.len()
            ));
        }
        for text in &texts {
            parsed(text)?;
        }
        Ok(Self {
            texts,
            set: Arc::default(),
        })
    }

    /// Compiles them, so that nothing is let through later since they cannot be matched.
    pub fn check(&self) -> Result<(), String> {
        self.compiled().map(|_| ())
    }

    fn compiled(&self) -> Result<&GlobSet, String> {
        let compile = || {
            let mut set = GlobSetBuilder::new();
            for text in &self.texts {
                for glob in parsed(text)? {
                    set.add(glob);
                }
            }
            set.build()
                .map_err(|error| format!("the globs cannot be used: {error}"))
        };
        self.set.get_or_init(compile).as_ref().map_err(Clone::clone)
    }

    /// The first glob that matches a path of a repository, which has no slash in front. None
    /// where they cannot be compiled.
    pub fn first_match(&self, path: &[u8]) -> Option<&str> {
        if self.texts.is_empty() {
            return None;
        }
        let set = self.compiled().ok()?;
        let matched = set.matches_candidate(&Candidate::from_bytes(path));
        self.texts.get(matched.first()? / 2).map(String::as_str)
    }

    /// True where a glob matches the path.
    pub fn is_match(&self, path: &[u8]) -> bool {
        self.first_match(path).is_some()
    }

    /// The globs as they were written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// True for a list without any.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }
}

/// The two globs that one stands for.
fn parsed(text: &str) -> Result<[Glob; 2], String> {
    let parse = |glob: String| {
        GlobBuilder::new(&glob)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|error| format!("the glob `{text}` is wrong: {}", error.kind()))
    };
    let [whole, below] = rooted(text)?;
    Ok([parse(whole)?, parse(below)?])
}

/// A glob from the root of the repository, and the one for what is below it.
fn rooted(text: &str) -> Result<[String; 2], String> {
    let fail = |what: &str| Err(format!("the glob `{text}` {what}"));
    if text.chars().count() > LONGEST {
        return Err(format!("a glob is longer than {LONGEST} characters"));
    }
    if text.starts_with('!') {
        return fail("begins with `!`, which means nothing here");
    }
    let bare = text.strip_suffix('/').unwrap_or(text);
    let (bare, is_anchored) = match bare.strip_prefix('/') {
        Some(bare) => (bare, true),
        None => (bare, bare.contains('/')),
    };
    if bare.trim().is_empty() {
        return fail("names nothing");
    }
    if bare.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return fail("is no path from the root of the repository");
    }
    let whole = match is_anchored {
        true => bare.to_owned(),
        false => format!("**/{bare}"),
    };
    let below = format!("{whole}/**");
    Ok([whole, below])
}

impl PartialEq for Globs {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Eq for Globs {}

impl Serialize for Globs {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.texts.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Globs {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(Vec::<String>::deserialize(d)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_mean_what_they_do_in_a_gitignore() {
        for (glob, yes, no) in [
            (
                "vendor/**",
                &["vendor/a", "vendor/a/b"][..],
                &["vendor", "a/vendor/b"][..],
            ),
            (
                "vendor",
                &["vendor", "vendor/a", "a/vendor/b"],
                &["vendors/a"],
            ),
            ("vendor/", &["vendor/a/b", "a/vendor/b"], &["vendors"]),
            ("/vendor", &["vendor", "vendor/a"], &["a/vendor"]),
            (
                "*.min.js",
                &["a.min.js", "x/y/a.min.js"],
                &["a.js", "a.min.jsx"],
            ),
            ("src/*.rs", &["src/a.rs"], &["src/b/a.rs", "x/src/a.rs"]),
            ("src/**/a.rs", &["src/a.rs", "src/b/c/a.rs"], &["a.rs"]),
            ("**/gen/**", &["gen/a", "x/gen/a"], &["gen"]),
            (
                "factory.yaml",
                &["factory.yaml", "x/factory.yaml"],
                &["factory.yml"],
            ),
            (
                ".github/workflows/**",
                &[".github/workflows/a.yml"],
                &[".github/a"],
            ),
            ("a{b,c}", &["ab", "x/ac"], &["ad"]),
            ("[ab].c", &["a.c"], &["c.c"]),
            ("a\\*", &["a*"], &["ab"]),
        ] {
            let globs = Globs::new([glob]).expect(glob);
            for path in yes {
                assert_eq!(
                    globs.first_match(path.as_bytes()),
                    Some(glob),
                    "{glob} {path}"
                );
                assert!(globs.is_match(path.as_bytes()));
            }
            for path in no {
                assert_eq!(globs.first_match(path.as_bytes()), None, "{glob} {path}");
            }
        }
        let globs = Globs::new(["b", "a"]).unwrap();
        assert_eq!(
            globs.first_match(b"a/b"),
            Some("b"),
            "the first one is told"
        );
        assert!(globs.is_match(b"\xff/a"), "names need not be UTF-8");
    }

    #[test]
    fn a_wrong_glob_is_named() {
        for (glob, what) in [
            ("!a", "`!a` begins with `!`"),
            ("", "names nothing"),
            ("/", "names nothing"),
            ("a//b", "is no path"),
            ("../a", "is no path"),
            ("a[", "the glob `a[` is wrong: unclosed character class"),
            ("a{b", "the glob `a{b` is wrong"),
        ] {
            let error = Globs::new([glob]).expect_err(glob);
            assert!(error.contains(what), "{glob}: {error}");
        }
        assert!(Globs::new(["a".repeat(LONGEST + 1)]).is_err());
        assert!(Globs::new(vec!["a"; MOST + 1]).is_err());
        let most = Globs::new(vec!["[!a]".repeat(LONGEST / 4); MOST]).unwrap();
        assert!(most.check().is_ok(), "as many as may be can be used");
    }
}
