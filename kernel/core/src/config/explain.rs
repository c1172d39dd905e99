//! Why a `factory.yaml` does not parse, in words of its own: what is wrong, and
//! what to write instead. The parser's words are for programmers.

use super::ConfigError;
use serde_saphyr::Error;

/// An example of `types`.
const TYPES: &str = "for example `types: {worker: {min: 1, max: 6, per_day: {pull_requests: 20, issues: 10}}, sensor: {max: 2}}`";

/// Most characters of a value that are shown.
const SHOWN: usize = 60;

/// The error for text that is not a configuration.
pub(crate) fn explain(error: &Error, text: &str) -> ConfigError {
    let error = match error.without_snippet() {
        Error::AliasError { error, .. } => error.without_snippet(),
        other => other,
    };
    let (line, column) = error
        .location()
        .map_or((0, 0), |at| (at.line(), at.column()));
    let (what, help) = words(error, &Place::find(text, line, column));
    ConfigError {
        what,
        line,
        column,
        help,
    }
}

fn words(error: &Error, place: &Place<'_>) -> (String, String) {
    match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => (
            format!("unknown key `{field}`"),
            suggestion(field, expected),
        ),
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => (
            format!("`{variant}` is not a value here"),
            suggestion(variant, expected),
        ),
        Error::DuplicateMappingKey { key, .. } => (
            match key {
                Some(key) => format!("`{key}` is there twice"),
                None => "a key is there twice".to_owned(),
            },
            "keep one of them".to_owned(),
        ),
        Error::MultipleDocuments { .. } => (
            "a second document begins here".to_owned(),
            "keep everything in one: remove the line `---` above".to_owned(),
        ),
        Error::UnknownAnchor { .. } => (
            "an alias (`*name`) has no anchor (`&name`) before it".to_owned(),
            "write the value itself".to_owned(),
        ),
        Error::Budget { .. } => (
            "this is nested too deep, or repeated too often".to_owned(),
            "write the values themselves, without anchors and aliases".to_owned(),
        ),
        Error::ExternalMessage { msg, .. } => (
            format!("this is no YAML: {msg}"),
            "look at the lines above too: a bracket or a quote may be open, or the indentation differ"
                .to_owned(),
        ),
        Error::Eof { .. } => (
            "the file ends too early".to_owned(),
            "a bracket or a quote may be open".to_owned(),
        ),
        // What our own types say of a value.
        Error::Message { msg, .. } => (msg.clone(), place.help()),
        _ => (place.unfit(), place.help()),
    }
}

/// The key whose value does not fit, as far as the text tells.
struct Place<'a> {
    key: Option<&'a str>,
    value: &'a str,
    /// It stands below `types`, where some keys mean something else.
    in_types: bool,
}

impl<'a> Place<'a> {
    /// The last key that begins before a place; of a line without one, the
    /// nearest above that is indented less.
    fn find(text: &'a str, line: u64, column: u64) -> Self {
        let count = usize::try_from(line).unwrap_or(usize::MAX);
        let upto: Vec<&str> = text.lines().take(count).collect();
        let mut lines = upto.into_iter().rev();
        let Some(last) = lines.next() else {
            return Self {
                key: None,
                value: "",
                in_types: false,
            };
        };
        let column = usize::try_from(column).unwrap_or(usize::MAX);
        if let Some((key, value)) = last_key(last, column) {
            return Self {
                key: Some(key),
                value,
                in_types: is_in_types(last, column, lines),
            };
        }
        let item = last.trim_start().starts_with('-');
        let mut above = lines
            .filter(|line| indent(line) < indent(last) || (item && indent(line) == indent(last)));
        Self {
            key: above.find_map(|line| Some(last_key(line, usize::MAX)?.0)),
            value: plain(last.trim_start().trim_start_matches("- "), false),
            in_types: false,
        }
    }

    fn unfit(&self) -> String {
        match (self.key, self.value) {
            (None, _) => "this is no list of `key: value`".to_owned(),
            (Some(key), "") => format!("`{key}` has no value that fits"),
            (Some(key), value) if value.chars().count() > SHOWN => {
                let begin: String = value.chars().take(SHOWN).collect();
                format!("`{begin}…` is not a value of `{key}`")
            }
            (Some(key), value) => format!("`{value}` is not a value of `{key}`"),
        }
    }

    fn help(&self) -> String {
        match self.key.and_then(|key| shape(key, self.in_types)) {
            None => "write one `key: value` a line, for example `slots: 2`".to_owned(),
            Some(shape) => format!("write {shape}"),
        }
    }
}

/// How far a line is set in.
fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// True where `types` is open at a column of a line: in its braces, or set in below it.
fn is_in_types<'a>(line: &str, column: usize, above: impl Iterator<Item = &'a str>) -> bool {
    let end = column.saturating_sub(1).min(line.len());
    let is_open = |at: usize| {
        let between = line.get(at..end).unwrap_or_default();
        let mut depth = 0_usize;
        let mut braces = between.chars().filter(|c| matches!(c, '{' | '}'));
        // What is opened once its own braces are closed is beside it.
        let stays = braces.all(|c| {
            depth = match c {
                '{' => depth + 1,
                _ => depth.saturating_sub(1),
            };
            depth > 0
        });
        stays && depth > 0
    };
    let here = |(at, key, _): (usize, &str, &str)| key == "types" && is_open(at);
    let mut depth = indent(line);
    keys(line).any(here)
        || above.filter(|above| !above.trim().is_empty()).any(|above| {
            let is_outer = indent(above) < depth;
            depth = depth.min(indent(above));
            is_outer && keys(above).any(|(_, key, _)| key == "types")
        })
}

/// The keys that a line names, each with where it begins and what follows it.
fn keys(line: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let line = match line.trim_start().starts_with('#') {
        true => "",
        false => line,
    };
    line.match_indices(':').filter_map(move |(colon, _)| {
        let (before, rest) = (&line[..colon], &line[colon + 1..]);
        let key = before.rsplit(|c: char| !word(c)).next()?;
        let ends = rest.chars().next().is_none_or(char::is_whitespace);
        (ends && !key.is_empty()).then_some((colon - key.len(), key, rest))
    })
}

/// The last key of ours of a line that begins before a column (from 1), with its value.
fn last_key(line: &str, column: usize) -> Option<(&str, &str)> {
    let before = keys(line).take_while(|(at, ..)| *at < column);
    let ours = |key: &str| shape(key, false).is_some();
    let (begin, key, rest) = before.filter(|(_, key, _)| ours(key)).last()?;
    let count = |c: char| line[..begin].matches(c).count();
    Some((key, plain(rest, count('{') > count('}'))))
}

/// A value without what follows it: a comment, or, between braces, the rest of these.
fn plain(value: &str, in_braces: bool) -> &str {
    let value = value.split(" #").next().unwrap_or_default();
    let mut depth = 0_usize;
    let end = value.find(|c| match c {
        '{' | '[' => {
            depth += 1;
            false
        }
        '}' | ']' if depth > 0 => {
            depth -= 1;
            false
        }
        '}' | ']' | ',' => in_braces && depth == 0,
        _ => false,
    });
    value[..end.unwrap_or(value.len())].trim()
}

/// The first line (from 1) that names a key; 0 where none does.
pub(super) fn line_of(text: &str, key: &str) -> u64 {
    let names = |line: &str| keys(line).any(|(_, found, _)| found == key);
    text.lines().position(names).map_or(0, |n| n as u64 + 1)
}

/// What to write for a key, below `types` or elsewhere.
fn shape(key: &str, in_types: bool) -> Option<&'static str> {
    Some(match key {
        "version" => "`version: 1`",
        "slots" => "a number from 1 to 1000, or `auto`",
        "types" | "worker" | "sensor" | "adversary" => TYPES,
        "per_day" if in_types => TYPES,
        "min" | "max" | "pull_requests" | "comments" => "a whole number, 0 or more",
        "issues" if in_types => "a whole number, 0 or more",
        "forge" => "`forge: local`",
        "engine" => {
            "`engine: claude`, `codex` or `mini`, or a command of your own: `engine: {command: [\"sh\", \"./agent.sh\"]}`"
        }
        "command" => "a list, for example `command: [\"sh\", \"./agent.sh\"]`",
        "model" => "the name of a model, for example `model: claude-sonnet-4-5`",
        "models" | "anthropic" | "openai" => {
            "for example `models: {anthropic: {key_env: TEAM_API_KEY}}`"
        }
        "base_url" => "an address, for example `base_url: \"https://api.anthropic.com\"`",
        "key_env" => "the name of a variable, for example `key_env: ANTHROPIC_API_KEY`",
        "image" => "for example `image: {base: \"debian:bookworm-slim\", packages: [make]}`",
        "base" => "the name of an image, for example `base: \"debian:bookworm-slim\"`",
        "dockerfile" => "a path, for example `dockerfile: docker/Dockerfile`",
        "packages" => "a list, for example `packages: [make, python3]`",
        "checks" => "a list of commands, for example `checks: [\"make test\"]`",
        "gates" => "for example `gates: {issues: human, plan: auto, merge: auto}`",
        "issues" | "merge" => "`human` or `auto`",
        "auto_merge" => {
            "for example `auto_merge: {min_confidence: 0.9, max_changed_lines: 400, max_files: 30}`"
        }
        "min_confidence" => "a number from 0 to 1, for example `min_confidence: 0.9`",
        "max_changed_lines" | "max_files" => "a whole number, 0 or more",
        "stages" | "split" => {
            "for example `stages: {review: {engine: codex, model: gpt-5.1-codex}}`"
        }
        "plan" | "review" => {
            "in `gates` `human` or `auto`, in `tiers` `true` or `false`, in `stages` for example `{engine: claude}`"
        }
        "tiers" | "low" | "medium" | "high" => {
            "for example `tiers: {low: {model: claude-haiku-4-5}, high: {plan: true, rounds: 8}}`"
        }
        "escalate" => "`true` or `false`",
        "test_files" => "a list of globs, for example `test_files: [\"tests/**\", \"Makefile\"]`",
        "rounds" => "a number from 1 to 100",
        "runtime" => "the name of a runtime that `docker info` lists, for example `runtime: runsc`",
        "limits" => "for example `limits: {memory: 4GiB, wall: 45m}`",
        "memory" => "an amount, for example `memory: 4GiB`",
        "disk" => "an amount, for example `disk: 10GiB`",
        "cpus" => "a number, for example `cpus: 1.5`",
        "pids" => "a number from 16 to 4194304",
        "wall" | "stall" => "a length of time, for example `90s`, `45m` or `2h`",
        "budget" | "per_run" | "per_job" | "per_day" => {
            "for example `budget: {per_run: {usd: 5}, per_day: {tokens: 20000000}}`"
        }
        "prices" => "for example `prices: {my-model: {input: 3, output: 15}}`",
        "usd" => "a number, for example `usd: 2.5`",
        "protected" => {
            "a list of globs, for example `protected: [\"factory.yaml\", \"deploy/**\"]`"
        }
        "secrets" | "allow_in" => "for example `secrets: {allow_in: [\"tests/fixtures/**\"]}`",
        // Of the front matter of prohibitions.
        "enforce" => "for example `enforce: [{paths: [\"vendor/**\"]}]`",
        "paths" | "in" | "except" => "a list of globs, for example `paths: [\"vendor/**\"]`",
        "pattern" => "a regular expression, for example `pattern: 'unsafe\\s*\\{'`",
        "max_file_size" => "an amount, for example `max_file_size: 1MiB`",
        "branch_prefix" => "the beginning of a branch's name, for example `branch_prefix: factory`",
        _ => return None,
    })
}

fn suggestion(given: &str, expected: &[&'static str]) -> String {
    let nearest = expected.iter().map(|e| (distance(given, e), *e)).min();
    match nearest {
        Some((d, name)) if d <= 2 || d * 3 <= name.len() => format!("did you mean `{name}`?"),
        Some(_) => format!("known here: {}", expected.join(", ")),
        None => "remove it".to_owned(),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != *cb))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn values_that_do_not_fit_are_named_in_our_words() {
        for (text, line, what, help) in [
            (
                "slots: -1\n",
                1,
                "slots must be from 1 to 1000, or auto; got `-1`",
                "write a number from 1 to 1000, or `auto`",
            ),
            (
                "slots: [1]\n",
                1,
                "`[1]` is not a value of `slots`",
                "or `auto`",
            ),
            (
                "rounds: 1\nslots: 2\nslots: 3\n",
                3,
                "`slots` is there twice",
                "keep one",
            ),
            (
                "slots: 2\n---\nslots: 3\n",
                3,
                "a second document begins here",
                "remove the line `---`",
            ),
            (
                "checks: make\n",
                1,
                "`make` is not a value of `checks`",
                "`checks: [\"make test\"]`",
            ),
            ("checks:\n  - make: x\n", 2, "is not a value of `", "write"),
            (
                "checks:\n- [a]\n",
                2,
                "`[a]` is not a value of `checks`",
                "a list of commands",
            ),
            (
                "engine: {}\n",
                1,
                "`{}` is not a value of `engine`",
                "write `engine: claude`",
            ),
            (
                "engine: {command: make}\n",
                1,
                "`make` is not a value of `command`",
                "a list",
            ),
            (
                "rounds: -1\n",
                1,
                "`-1` is not a value of `rounds`",
                "a number from 1 to 100",
            ),
            (
                "rounds: many # yes\n",
                1,
                "`many` is not a value of `rounds`",
                "a number from 1 to 100",
            ),
            (
                "limits: {pids: -1, wall: 45m}\n",
                1,
                "`-1` is not a value of `pids`",
                "from 16",
            ),
            (
                "limits: 5\n",
                1,
                "`5` is not a value of `limits`",
                "`limits: {memory: 4GiB, wall: 45m}`",
            ),
            (
                "limits:\n  cpus: {}\n",
                2,
                "`{}` is not a value of `cpus`",
                "cpus: 1.5",
            ),
            (
                "# checks: x\nchecks: [a,\n  [b], # c\n  d]\n",
                3,
                "`[b],` is not a value of `checks`",
                "a list",
            ),
            (
                "limits: {pids: 4194305}\n",
                1,
                "pids is 4194305",
                "to 4194304",
            ),
            (
                "image: {base: \"a b\"}\n",
                1,
                "image.base `a b` is not the name of an image",
                "debian:bookworm-slim",
            ),
            (
                "image: {base: \"-x\"}\n",
                1,
                "image.base `-x`",
                "debian:bookworm-slim",
            ),
            (
                "model: [a]\n",
                1,
                "`[a]` is not a value of `model`",
                "the name of a model",
            ),
            (
                "models: {anthropic: 3}\n",
                1,
                "`3` is not a value of `anthropic`",
                "key_env",
            ),
            (
                "gates: {merge: [auto]}\n",
                1,
                "`[auto]` is not a value of `merge`",
                "`human` or `auto`",
            ),
            ("hello\n", 1, "this is no list of `key: value`", "slots: 2"),
            (
                "- slots\n",
                1,
                "this is no list of `key: value`",
                "slots: 2",
            ),
            ("checks: *x\n", 1, "has no anchor", "write the value itself"),
            ("checks: [\n", 0, "", "bracket"),
            (
                "checks: [\"a\"\nslots: 3\n",
                2,
                "this is no YAML",
                "bracket",
            ),
            ("branch_prefix: \"a\n", 0, "", "quote"),
        ] {
            let error = Config::parse(text).expect_err(text);
            assert!(line == 0 || error.line == line, "{text}: {error:?}");
            assert!(
                error.what.contains(what) && error.help.contains(help),
                "{text}: {error:?}"
            );
            if what.contains("YAML") || what.is_empty() {
                continue;
            }
            let said = format!("{} {}", error.what, error.help);
            for word in [
                "expected", "Options", "from_str", "tagged", "invalid", "u32", "sequence",
            ] {
                assert!(
                    !said.contains(word),
                    "{text}: `{word}` is the parser's word: {said}"
                );
            }
        }
    }

    #[test]
    fn every_key_has_a_shape() {
        fn look(value: &serde_json::Value) {
            for (key, value) in value.as_object().into_iter().flatten() {
                assert!(shape(key, false).is_some(), "{key}");
                look(value);
            }
        }
        let text = "model: x\nmodels:\n  anthropic: {base_url: \"https://example.org\", key_env: A_API_KEY}\n  openai: {}\n";
        let mut config = Config::parse(text).unwrap();
        config.image.base = Some("x".to_owned());
        config.runtime = Some("runsc".to_owned());
        config.image.dockerfile = Some("Dockerfile".to_owned());
        look(&serde_json::to_value(&config).unwrap());
    }
}
