//! Judging one changed file.

use super::{
    Rules,
    enforce::{Kind, Rule},
    lines::Lines,
    paths::told_path,
};
use crate::text::one_line;
use std::{collections::BTreeMap, fmt};

/// Most violations that are told; the others are counted.
const MOST_TOLD: usize = 20;
/// Most bytes that are kept of lines that match a rule, each with [`LINE_COST`] more.
const MOST_KEPT: usize = 32 << 20;
/// What a kept line costs beside its bytes.
const LINE_COST: usize = 64;

/// What is known of a changed file beside its contents.
#[derive(Debug, Clone, Copy)]
pub struct ChangedFile<'a> {
    /// Its path from the root of the repository.
    pub path: &'a [u8],
    /// Its bytes; none where it was removed.
    pub size: Option<u64>,
    /// The most bytes that it had in one of the commit's parents; none where it is new.
    pub size_before: Option<u64>,
    /// False where this very content is in the target's history already, under whatever name.
    /// Only rules that are bound to paths (`paths`, and others with `in` or `except`) look at it then.
    pub new_content: bool,
}

/// What breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule: the prohibition's path, or `no secret: <kind>`.
    pub rule: String,
    /// The file, as a terminal may show it.
    pub path: String,
    /// The line, from 1, where one is meant.
    pub line: Option<u64>,
    /// What is wrong, as the end of a sentence. Never holds a line's text.
    pub what: String,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {} ({}). {}", self.what, self.rule, self.advice)
    }
}

/// What was found: the first violations, and how many more there are. Shown as one line each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    told: Vec<Violation>,
    more: u64,
}

impl Findings {
    /// Adds a violation.
    pub fn add(&mut self, violation: Violation) {
        match self.told.len() < MOST_TOLD {
            true => self.told.push(violation),
            false => self.more += 1,
        }
    }

    /// Adds what was found elsewhere.
    pub fn append(&mut self, other: Findings) {
        other
            .told
            .into_iter()
            .for_each(|violation| self.add(violation));
        self.more += other.more;
    }

    /// The violations that are told, at most 20.
    pub fn told(&self) -> &[Violation] {
        &self.told
    }

    /// How many more there are.
    pub fn more(&self) -> u64 {
        self.more
    }

    /// True where nothing was found.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, violation) in self.told.iter().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}{violation}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// Judges one file whose contents come in pieces: all of [`FileJudge::after`], then for each
/// parent that has the file [`FileJudge::next_before`] and all of [`FileJudge::before`], then
/// [`FileJudge::finish`]. It keeps only lines that break a rule, unless they were there before.
#[derive(Debug)]
pub struct FileJudge<'a> {
    rules: &'a Rules,
    path: &'a [u8],
    /// What the path and the size alone break.
    findings: Findings,
    /// The patterns that hold here.
    patterns: Vec<&'a Rule>,
    /// The kinds of secrets that may be here; empty where none is looked for.
    secrets: Vec<bool>,
    lines: Lines,
    /// Lines that break a rule, with the first number of each.
    kept: BTreeMap<Vec<u8>, u64>,
    kept_bytes: usize,
    /// More lines break a rule than are kept.
    is_full: bool,
    is_after: bool,
}

impl<'a> FileJudge<'a> {
    pub(super) fn new(rules: &'a Rules, changed: &ChangedFile<'a>) -> Self {
        let mut judge = Self {
            rules,
            path: changed.path,
            findings: Findings::default(),
            patterns: Vec::new(),
            secrets: Vec::new(),
            lines: Lines::default(),
            kept: BTreeMap::new(),
            kept_bytes: 0,
            is_full: false,
            is_after: true,
        };
        for rule in rules
            .enforced
            .iter()
            .filter(|rule| rule.is_for(changed.path))
        {
            match &rule.kind {
                Kind::Paths(paths) => {
                    if let Some(glob) = paths.first_match(changed.path) {
                        let what = format!("`{glob}` may not be changed");
                        let advice = format!(
                            "Leave it as it is on the target branch; {} says why.",
                            rule.file
                        );
                        judge.tell(&rule.file, None, what, advice);
                    }
                }
                Kind::Size(most) => {
                    let is_judged = changed.new_content || rule.is_bound();
                    let larger = |size: &u64| {
                        *size > most.0 && changed.size_before.is_none_or(|before| *size > before)
                    };
                    if let Some(size) = changed.size.filter(larger).filter(|_| is_judged) {
                        let what = format!("it has {}, and {most} is the most here", bytes(size));
                        let advice =
                            format!("Make it smaller, or leave it out; {} says why.", rule.file);
                        judge.tell(&rule.file, None, what, advice);
                    }
                }
                Kind::Pattern(_) if changed.size.is_none() => {}
                Kind::Pattern(_) if changed.new_content || rule.is_bound() => {
                    judge.patterns.push(rule);
                }
                Kind::Pattern(_) => {}
            }
        }
        if changed.size.is_some() && !rules.allow_secrets_in.is_match(changed.path) {
            let may = rules.secrets.kinds_in(changed.path);
            for kind in rules.secrets.of_line(changed.path, &may) {
                judge.tell_secret(None, kind.id(), kind.name(), "its path");
            }
            if changed.new_content {
                judge.secrets = may;
            }
        }
        judge
    }

    /// Takes the next piece of the content.
    pub fn after(&mut self, piece: &[u8]) {
        if self.patterns.is_empty() && self.secrets.is_empty() {
            return;
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.push(piece, &mut |number, line| self.look_at(number, line));
        self.lines = lines;
    }

    /// False where the content decides on nothing, and need not be given.
    pub fn wants_after(&self) -> bool {
        !self.patterns.is_empty() || !self.secrets.is_empty()
    }

    /// True where what the file held before matters: some line of it would break a rule if it
    /// were new. Asked once all of the content was given.
    pub fn wants_before(&mut self) -> bool {
        self.end_after();
        !self.kept.is_empty()
    }

    /// What follows is the content in the next of the commit's parents.
    pub fn next_before(&mut self) {
        self.end_after();
        self.end_before();
    }

    /// Takes the next piece of what the file held in a parent.
    pub fn before(&mut self, piece: &[u8]) {
        self.end_after();
        if self.kept.is_empty() {
            return;
        }
        let kept = &mut self.kept;
        self.lines.push(piece, &mut |_, line| {
            kept.remove(line);
        });
    }

    /// What breaks a rule.
    pub fn finish(mut self) -> Findings {
        self.end_after();
        self.end_before();
        let mut kept: Vec<(u64, Vec<u8>)> = std::mem::take(&mut self.kept)
            .into_iter()
            .map(|(line, number)| (number, line))
            .collect();
        kept.sort();
        for (number, line) in kept {
            let broken: Vec<&Rule> = self.broken(&line).collect();
            for rule in broken {
                let Kind::Pattern(pattern) = &rule.kind else {
                    continue;
                };
                let what = format!("an added line matches `{}`", one_line(pattern.as_str()));
                let advice = format!("Write it another way; {} says why.", rule.file);
                self.tell(&rule.file, Some(number), what, advice);
            }
            if !self.secrets.is_empty() {
                for kind in self.rules.secrets.of_line(&line, &self.secrets) {
                    self.tell_secret(Some(number), kind.id(), kind.name(), "an added line");
                }
            }
        }
        if self.is_full {
            let what = "more lines of it match a rule than can be judged".to_owned();
            let advice = "Change fewer of them at once, or split the file.".to_owned();
            self.tell("every rule for lines", None, what, advice);
        }
        self.findings
    }

    fn end_after(&mut self) {
        if std::mem::replace(&mut self.is_after, false) {
            let mut lines = std::mem::take(&mut self.lines);
            lines.finish(&mut |number, line| self.look_at(number, line));
        }
    }

    fn end_before(&mut self) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.finish(&mut |_, line| {
            self.kept.remove(line);
        });
    }

    /// Keeps a line that breaks a rule if it is an added one.
    fn look_at(&mut self, number: u64, line: &[u8]) {
        let has_secret = || {
            !self.secrets.is_empty() && !self.rules.secrets.of_line(line, &self.secrets).is_empty()
        };
        if self.is_full || (self.broken(line).next().is_none() && !has_secret()) {
            return;
        }
        if self.kept.contains_key(line) {
            return;
        }
        self.kept_bytes += line.len() + LINE_COST;
        self.is_full = self.kept_bytes > MOST_KEPT;
        self.kept.insert(line.to_vec(), number);
    }

    /// The rules whose pattern a line matches. Lines are looked for in every file: whether it
    /// is a text is not told by a byte that whoever writes it may put in a comment.
    fn broken(&self, line: &[u8]) -> impl Iterator<Item = &'a Rule> {
        self.patterns
            .iter()
            .copied()
            .filter(move |rule| match &rule.kind {
                Kind::Pattern(pattern) => pattern.is_match(line),
                Kind::Paths(_) | Kind::Size(_) => false,
            })
    }

    fn tell_secret(&mut self, line: Option<u64>, id: &str, name: &str, place: &str) {
        let what = format!("{place} holds what looks like a secret: {name}");
        let advice = "Take it out, also of the commits that brought it, and read it from the environment. If it is none, a person may list the file in `secrets.allow_in` of factory.yaml.";
        self.tell(&format!("no secret: {id}"), line, what, advice.to_owned());
    }

    fn tell(&mut self, rule: &str, line: Option<u64>, what: String, advice: String) {
        let path = told_path(self.rules.secrets, self.path);
        self.findings.add(Violation {
            rule: rule.to_owned(),
            path,
            line,
            what,
            advice,
        });
    }
}

/// A number of bytes in words.
fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} bytes"),
        1024..1_048_576 => format!("{} KiB", count.div_ceil(1024)),
        _ => format!("{} MiB", count.div_ceil(1_048_576)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Globs, paths::LONGEST_PATH};
    use super::*;

    const FILE: &str = "prohibitions/0001-x.md";

    fn rules(enforce: &str) -> Rules {
        let text = format!("---\nenforce:\n{enforce}---\n# X\n");
        let files = BTreeMap::from([(FILE.to_owned(), text)]);
        Rules::read(&files, &Globs::new(["fixtures/**"]).unwrap()).unwrap()
    }

    fn changed(path: &str, size: u64) -> ChangedFile<'_> {
        ChangedFile {
            path: path.as_bytes(),
            size: Some(size),
            size_before: None,
            new_content: true,
        }
    }

    /// What is told of a file that holds `after` and held `before`.
    fn told(rules: &Rules, path: &str, after: &str, before: &[&str]) -> Vec<String> {
        let before: Vec<&[u8]> = before.iter().map(|text| text.as_bytes()).collect();
        let changed = changed(path, after.len() as u64);
        let findings = rules.judge(&changed, after.as_bytes(), &before);
        findings.told().iter().map(ToString::to_string).collect()
    }

    fn token() -> String {
        format!("ghp_{}", "aB3dE6gH9jK2".repeat(3))
    }

    #[test]
    fn nothing_below_a_path_is_changed() {
        let rules = rules("  - paths: [\"vendor/**\"]\n    except: [\"vendor/ours/**\"]\n");
        assert_eq!(
            told(&rules, "vendor/a.c", "x", &[]),
            [format!(
                "vendor/a.c: `vendor/**` may not be changed ({FILE}). Leave it as it is on the target branch; {FILE} says why."
            )]
        );
        let gone = ChangedFile {
            size: None,
            ..changed("vendor/a.c", 0)
        };
        assert_eq!(
            rules.judge(&gone, b"", &[b"x"]).told().len(),
            1,
            "removing is changing"
        );
        let known = ChangedFile {
            new_content: false,
            ..changed("vendor/a.c", 0)
        };
        assert_eq!(rules.judge(&known, b"", &[]).told().len(), 1);
        assert!(told(&rules, "vendor/ours/a.c", "x", &[]).is_empty());
        assert!(told(&rules, "src/a.c", "x", &[]).is_empty());
    }

    #[test]
    fn an_added_line_that_matches_is_told_with_its_number() {
        let rules = rules(
            "  - pattern: 'unsafe\\s*\\{'\n    in: [\"src/**\"]\n    except: [\"src/ffi/**\"]\n",
        );
        let told = |path, after, before: &[&str]| told(&rules, path, after, before);
        let text = "fn a() {}\nunsafe { b() }\n";
        assert_eq!(
            told("src/a.rs", text, &[]),
            [format!(
                "src/a.rs:2: an added line matches `unsafe\\s*\\{{` ({FILE}). Write it another way; {FILE} says why."
            )]
        );
        assert_eq!(
            told("src/a.rs", "unsafe{", &[""]).len(),
            1,
            "a last line without an end"
        );
        assert!(told("src/ffi/a.rs", text, &[]).is_empty());
        assert!(told("a.rs", text, &[]).is_empty());
        let moved = "unsafe { b() }\r\nfn a() {}\n";
        assert!(
            told("src/a.rs", moved, &[text]).is_empty(),
            "moving is not adding"
        );
        assert!(
            told("src/a.rs", moved, &["x", text]).is_empty(),
            "it stands in one parent"
        );
        assert_eq!(told("src/a.rs", text, &["x", "y"]).len(), 1);
    }

    #[test]
    fn content_that_is_known_is_judged_only_by_rules_for_its_path() {
        let rules =
            rules("  - pattern: one\n  - pattern: two\n    in: [src]\n  - max_file_size: 2B\n");
        let content = format!("one\ntwo\n{}\n", token());
        let known = ChangedFile {
            new_content: false,
            ..changed("src/a", 60)
        };
        let findings = rules.judge(&known, content.as_bytes(), &[]);
        assert_eq!(findings.told().len(), 1, "{findings}");
        assert_eq!(findings.told()[0].line, Some(2));
        assert_eq!(told(&rules, "src/a", &content, &[]).len(), 4);
    }

    #[test]
    fn a_file_may_not_grow_beyond_a_size() {
        let rules = rules("  - max_file_size: 1KiB\n    except: [data]\n");
        let sized = |path, size, before| {
            let changed = ChangedFile {
                size_before: before,
                ..changed(path, size)
            };
            rules.judge(&changed, b"", &[]).told().len()
        };
        assert_eq!(sized("a", 1024, None), 0);
        assert_eq!(sized("a", 1025, None), 1);
        assert_eq!(sized("data/a", 1025, None), 0);
        assert_eq!(sized("a", 3000, Some(3000)), 0, "it was as large before");
        assert_eq!(sized("a", 3001, Some(3000)), 1);
        let told = told(&rules, "a", &"x".repeat(2000), &[]);
        assert!(
            told[0].contains("it has 2 KiB, and 1KiB is the most here"),
            "{told:?}"
        );
    }

    #[test]
    fn a_secret_is_told_without_itself() {
        let rules = rules("  - pattern: unused\n");
        let text = format!("first\nkey: {}\n", token());
        let all = told(&rules, "config/a.yaml", &text, &[]);
        assert_eq!(all.len(), 1);
        assert!(all[0].starts_with("config/a.yaml:2: an added line holds what looks like a secret: GitHub Personal Access Token (no secret: github-pat)."), "{all:?}");
        assert!(!all[0].contains(&token()[4..]));
        assert!(
            told(&rules, "fixtures/a.yaml", &text, &[]).is_empty(),
            "a person allows it"
        );
        assert!(
            told(&rules, "config/a.yaml", &text, &[&text]).is_empty(),
            "it was there"
        );
        let binary = format!("\0\n{}\n", token());
        assert_eq!(
            told(&rules, "a.db", &binary, &[]).len(),
            1,
            "in what is no text too"
        );
        let path = format!("logs/{}", token());
        let of_path = told(&rules, &path, "x", &[]);
        assert!(
            of_path.len() == 1 && of_path[0].starts_with("(a file): its path holds"),
            "{of_path:?}"
        );
    }

    #[test]
    fn a_zero_byte_hides_no_line_from_patterns() {
        let rules = rules("  - pattern: LATER\n");
        let told = |after, before: &[&str]| told(&rules, "a.rs", after, before);
        for text in ["// \0\nLATER\n", "LATER\n// \0", "\0LATER", "LATER\0\n"] {
            assert_eq!(told(text, &[]).len(), 1, "{text:?}");
        }
        assert!(told("\0\nLATER\n", &["LATER\n"]).is_empty());
    }

    #[test]
    fn what_is_told_is_bounded() {
        let rules = rules("  - pattern: x\n");
        let text: String = (0..50).map(|n| format!("x{n}\n")).collect();
        let path = format!("{}\u{1b}\n", "p".repeat(4000));
        let findings = rules.judge(&changed(&path, 1), text.as_bytes(), &[]);
        assert_eq!((findings.told().len(), findings.more()), (20, 30));
        assert!(
            findings
                .told()
                .iter()
                .zip(1..)
                .all(|(told, n)| told.line == Some(n))
        );
        assert!(findings.told()[0].path.chars().count() <= LONGEST_PATH + 1);
        assert!(findings.to_string().ends_with("\nand 30 more"));
        let mut all = Findings::default();
        all.append(findings.clone());
        all.append(findings);
        assert_eq!((all.told().len(), all.more()), (20, 80));
    }

    #[test]
    fn more_lines_than_can_be_kept_are_no_way_through() {
        let rules = rules("  - pattern: x\n");
        let mut judge = rules.file(&changed("a", 1));
        for n in 0..600_000 {
            judge.after(format!("x{n}\n").as_bytes());
        }
        assert!(judge.wants_before());
        judge.next_before();
        for n in 0..600_000 {
            judge.before(format!("x{n}\n").as_bytes());
        }
        let findings = judge.finish();
        assert_eq!(findings.told().len(), 1, "{findings}");
        assert!(findings.told()[0].what.contains("than can be judged"));
    }

    #[test]
    fn a_long_line_hides_nothing_where_it_is_cut() {
        let rules = rules("  - pattern: nowhere\n");
        // The token begins in the first part of the line and ends in the second.
        let text = format!("{} {}\n", "-".repeat((1 << 20) - 21), token());
        assert_eq!(told(&rules, "a.min.js", &text, &[]).len(), 1);
    }

    #[test]
    fn pieces_are_judged_as_the_whole() {
        let rules = rules("  - pattern: bad\n");
        let (after, before) = (b"bad 1\nbad 2\nok\nbad 3", b"bad 2\nbad");
        let whole = rules.judge(&changed("a", 1), after, &[before]);
        let lines: Vec<_> = whole.told().iter().map(|told| told.line).collect();
        assert_eq!(lines, [Some(1), Some(4)]);
        for size in 1..after.len() {
            let mut judge = rules.file(&changed("a", 1));
            after.chunks(size).for_each(|piece| judge.after(piece));
            judge.next_before();
            before.chunks(size).for_each(|piece| judge.before(piece));
            assert_eq!(judge.finish(), whole, "{size}");
        }
    }
}
