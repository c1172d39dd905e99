//! Small text functions: slugs, single lines, trimming; and what becomes of text that
//! somebody else wrote before a person, a terminal or a model gets it.

mod data;
mod mentions;
mod show;

pub use data::{fenced, without_comments};
pub use mentions::defused;
pub use show::{is_hidden, shown};

use crate::ids::IssueNo;

/// Longest slug in a branch name, in characters.
const SLUG_LIMIT: usize = 40;

/// Collapses white space and shows what is hidden, so that a text fits one line of a log.
pub fn one_line(text: &str) -> String {
    shown(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A title as it is compared with others: its letters in lower case, its words one space apart.
pub fn folded(title: &str) -> String {
    one_line(title).to_lowercase()
}

/// `<prefix>/<n>-<slug>`; the slug is `[a-z0-9-]`, at most 40 characters, and may be empty.
pub fn branch_name(prefix: &str, issue: IssueNo, title: &str) -> String {
    let mut slug = String::new();
    for c in title.chars() {
        if slug.len() >= SLUG_LIMIT {
            break;
        }
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() {
        format!("{prefix}/{issue}")
    } else {
        format!("{prefix}/{issue}-{slug}")
    }
}

/// At most `limit` bytes: a third from the beginning, the rest from the end, where errors stand.
pub fn trimmed(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let head = floor(text, limit / 3);
    let tail = ceil(text, text.len() - (limit - limit / 3));
    format!(
        "{}\n[… {} bytes left out …]\n{}",
        &text[..head],
        tail - head,
        &text[tail..]
    )
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// A span of time for people, in its largest unit.
pub fn span(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_plain_ascii() {
        let name = |title: &str| branch_name("factory", IssueNo(7), title);
        assert_eq!(
            name("Fix: the `parse()` bug!"),
            "factory/7-fix-the-parse-bug"
        );
        assert_eq!(name("日本語"), "factory/7");
        let long = "ab ".repeat(40);
        assert!(name(&long).len() <= "factory/7-".len() + 40 && !name(&long).ends_with('-'));
    }

    #[test]
    fn trimming_keeps_the_end_and_whole_characters() {
        let long = "ä".repeat(1000) + "the error";
        let short = trimmed(&long, 101);
        assert!(
            short.ends_with("the error") && short.starts_with('ä') && short.len() < 200,
            "{short}"
        );
        assert_eq!(trimmed("short", 100), "short");
        assert_eq!(one_line("a\u{1b}[31m\n  b"), "a\\u{1b}[31m b");
    }
}
