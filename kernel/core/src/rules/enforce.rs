//! `enforce:` in the front matter of a prohibition.

use super::{Globs, RuleError};
use crate::{config::explain, quantity::Bytes};
use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, de};
use serde_saphyr::Spanned;

/// Most rules of all prohibitions together.
pub(super) const MOST_RULES: usize = 100;
/// Most characters of a pattern.
const LONGEST_PATTERN: usize = 1000;
/// Most bytes that a compiled pattern may take.
const PATTERN_BYTES: usize = 1 << 20;
/// The line that begins and ends the front matter.
const FENCE: &str = "---";

/// A rule of a prohibition.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// Path of the prohibition.
    pub file: String,
    /// What must not be.
    pub kind: Kind,
    /// Where the rule holds; everywhere without any.
    pub within: Globs,
    /// Where it does not.
    pub except: Globs,
}

/// What a rule forbids.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Any change of these paths.
    Paths(Globs),
    /// Added lines that match.
    Pattern(Regex),
    /// Files of more bytes.
    Size(Bytes),
}

impl Rule {
    /// True where the rule holds for a path.
    pub(super) fn is_for(&self, path: &[u8]) -> bool {
        (self.within.is_empty() || self.within.is_match(path)) && !self.except.is_match(path)
    }

    /// True where the rule says which paths it is for.
    pub(super) fn is_bound(&self) -> bool {
        !self.within.is_empty() || !self.except.is_empty()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FrontMatter {
    #[serde(default)]
    enforce: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    paths: Option<Globs>,
    pattern: Option<Pattern>,
    max_file_size: Option<Bytes>,
    #[serde(default, rename = "in")]
    within: Globs,
    #[serde(default)]
    except: Globs,
}

struct Pattern(Regex);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let fail = |what: String| Err(de::Error::custom(what));
        if text.is_empty() {
            return fail("the pattern is empty: it would match every line".to_owned());
        }
        if text.chars().count() > LONGEST_PATTERN {
            return fail(format!(
                "the pattern is longer than {LONGEST_PATTERN} characters"
            ));
        }
        let built = RegexBuilder::new(&text)
            .size_limit(PATTERN_BYTES)
            .dfa_size_limit(PATTERN_BYTES)
            .build();
        match built {
            Ok(regex) => Ok(Self(regex)),
            Err(regex::Error::CompiledTooBig(_)) => fail(format!(
                "the pattern takes more than {} once it is compiled: repeat less in it",
                Bytes(PATTERN_BYTES as u64)
            )),
            Err(error) => {
                // Its last line says what is wrong; those before draw where.
                let error = error.to_string();
                let what = error.lines().last().unwrap_or_default();
                let what = what.trim_start_matches("error: ");
                fail(format!("the pattern `{text}` is wrong: {what}"))
            }
        }
    }
}

/// The rules of one prohibition, in their order; none where it has no front matter.
pub(super) fn read(file: &str, content: &[u8]) -> Result<Vec<Rule>, RuleError> {
    let Some(front) = front_matter(file, content)? else {
        return Ok(Vec::new());
    };
    let has_content = |line: &str| !line.trim().is_empty() && !line.trim().starts_with('#');
    if !front.lines().any(has_content) {
        return Ok(Vec::new());
    }
    let parsed: FrontMatter = serde_saphyr::from_str(&front).map_err(|error| {
        let error = explain::explain(&error, &front);
        RuleError {
            file: file.to_owned(),
            line: error.line,
            what: error.what,
            help: error.help,
        }
    })?;
    parsed
        .enforce
        .into_iter()
        .map(|entry| rule(file, entry))
        .collect()
}

/// The front matter, with an empty line in place of its first one, so that lines count as in
/// the file.
fn front_matter(file: &str, content: &[u8]) -> Result<Option<String>, RuleError> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let end = content.iter().position(|byte| *byte == b'\n');
    let first = &content[..end.unwrap_or(content.len())];
    if first.trim_ascii_end() != FENCE.as_bytes() {
        return Ok(None);
    }
    let fail = |what: &str, help: &str| {
        Err(RuleError {
            file: file.to_owned(),
            line: 1,
            what: what.to_owned(),
            help: help.to_owned(),
        })
    };
    let Ok(text) = std::str::from_utf8(content) else {
        return fail(
            "this is no UTF-8, and it begins with front matter",
            "save it as UTF-8",
        );
    };
    let mut front = String::from("\n");
    for line in text.split_inclusive('\n').skip(1) {
        if line.trim_end() == FENCE {
            return Ok(Some(front));
        }
        front.push_str(line);
    }
    fail(
        "the front matter that begins here does not end",
        "write a line `---` below it; for a rule across a page, write `***` instead",
    )
}

fn rule(file: &str, entry: Spanned<Entry>) -> Result<Rule, RuleError> {
    let line = entry.referenced.line();
    let fail = |what: &str, help: &str| {
        Err(RuleError {
            file: file.to_owned(),
            line,
            what: what.to_owned(),
            help: help.to_owned(),
        })
    };
    let Entry {
        paths,
        pattern,
        max_file_size,
        within,
        except,
    } = entry.value;
    for globs in [paths.as_ref(), Some(&within), Some(&except)] {
        if let Err(what) = globs.map_or(Ok(()), Globs::check) {
            return fail(&what, "write fewer or shorter globs");
        }
    }
    let kind = match (paths, pattern, max_file_size) {
        (Some(paths), None, None) if paths.is_empty() => {
            return fail(
                "`paths` names no path",
                "write for example `paths: [\"vendor/**\"]`",
            );
        }
        (Some(_), None, None) if !within.is_empty() => {
            return fail(
                "`in` means nothing beside `paths`",
                "write the globs in `paths`; `except` may stand beside it",
            );
        }
        (Some(paths), None, None) => Kind::Paths(paths),
        (None, Some(Pattern(regex)), None) => Kind::Pattern(regex),
        (None, None, Some(size)) => Kind::Size(size),
        (None, None, None) => {
            return fail(
                "this rule forbids nothing",
                "write one of `paths`, `pattern` and `max_file_size`",
            );
        }
        _ => {
            return fail(
                "this rule is more than one",
                "write `paths`, `pattern` and `max_file_size` each as a rule of its own",
            );
        }
    };
    Ok(Rule {
        file: file.to_owned(),
        kind,
        within,
        except,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(front: &str) -> Result<Vec<Rule>, RuleError> {
        read(
            "prohibitions/0001-x.md",
            format!("---\n{front}---\n# X\n").as_bytes(),
        )
    }

    #[test]
    fn each_kind_is_read() {
        let read = rules(
            "enforce:\n  - paths: [\"vendor/**\"]\n    except: [vendor/README]\n  - pattern: 'unsafe\\s*\\{'\n    in: [\"src/**\"]\n    except: [\"src/ffi/**\"]\n  - max_file_size: 1MiB\n",
        )
        .unwrap();
        assert!(matches!(&read[0].kind, Kind::Paths(globs) if globs.is_match(b"vendor/a")));
        assert!(!read[0].is_for(b"vendor/README"));
        assert!(matches!(&read[1].kind, Kind::Pattern(regex) if regex.is_match(b"unsafe {")));
        assert!(read[1].is_for(b"src/a.rs") && !read[1].is_for(b"src/ffi/a.rs"));
        assert!(!read[1].is_for(b"a.rs") && read[1].is_bound() && !read[2].is_bound());
        assert!(matches!(read[2].kind, Kind::Size(Bytes(1_048_576))));
    }

    #[test]
    fn a_prohibition_without_front_matter_enforces_nothing() {
        for content in [
            "# X\n",
            "",
            "text\n---\nenforce: [\n---\n",
            "--- x\n",
            "---\n---\n# X",
            "---\n# nothing\n\n---\n",
        ] {
            assert!(
                read("prohibitions/x.md", content.as_bytes())
                    .unwrap()
                    .is_empty()
            );
        }
        assert!(read("prohibitions/x.md", b"caf\xe9\n").unwrap().is_empty());
    }

    #[test]
    fn wrong_ones_are_named_with_line_and_next_step() {
        for (front, line, what, help) in [
            (
                "enfroce: []\n",
                2,
                "unknown key `enfroce`",
                "did you mean `enforce`?",
            ),
            (
                "enforce:\n  - path: [a]\n",
                3,
                "unknown key `path`",
                "did you mean `paths`?",
            ),
            (
                "enforce:\n  - pattern: 'a['\n",
                3,
                "the pattern `a[` is wrong: unclosed character class",
                "write",
            ),
            (
                "enforce:\n  - pattern: ''\n",
                3,
                "the pattern is empty",
                "write",
            ),
            (
                "enforce:\n  - pattern: '(\\w{900}){900}'\n",
                3,
                "takes more than 1MiB",
                "write",
            ),
            (
                "enforce:\n  - paths: ['a[']\n",
                3,
                "the glob `a[` is wrong",
                "write",
            ),
            (
                "enforce:\n  - max_file_size: big\n",
                3,
                "`big` is not an amount",
                "write",
            ),
            (
                "enforce:\n  - paths: [a]\n  - in: [a]\n",
                4,
                "forbids nothing",
                "one of `paths`",
            ),
            (
                "enforce:\n  - paths: [a]\n    pattern: b\n",
                3,
                "more than one",
                "a rule of its own",
            ),
            ("enforce:\n  - paths: []\n", 3, "names no path", "vendor"),
            (
                "enforce:\n  - paths: [a]\n    in: [b]\n",
                3,
                "means nothing beside `paths`",
                "except",
            ),
            (
                "enforce: yes\n",
                2,
                "`yes` is not a value of `enforce`",
                "enforce:",
            ),
            (
                "enforce:\n  - paths: vendor\n",
                3,
                "`vendor` is not a value of `paths`",
                "a list",
            ),
            ("enforce: [\n", 0, "", ""),
            ("hello\n", 2, "", ""),
        ] {
            let error = rules(front).expect_err(front);
            assert!(line == 0 || error.line == line, "{front}: {error:?}");
            assert!(
                error.what.contains(what) && error.help.contains(help),
                "{front}: {error:?}"
            );
            assert!(
                error.to_string().contains("prohibitions/0001-x.md"),
                "{error}"
            );
            for word in ["expected", "from_str", "invalid", "sequence"] {
                assert!(!error.what.contains(word), "{front}: `{word}` in {error:?}");
            }
        }
        let error = read("prohibitions/x.md", b"---\nenforce: []\n").unwrap_err();
        assert!(
            error.what.contains("does not end") && error.line == 1,
            "{error:?}"
        );
        let error = read("prohibitions/x.md", b"---\na: \xff\n---\n").unwrap_err();
        assert!(error.what.contains("no UTF-8"), "{error:?}");
    }
}
