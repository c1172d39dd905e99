//! What a forge would make of an agent's text beside showing it: a mention tells somebody, and
//! a reference writes into somebody else's issue. Neither is an agent's to do.
//!
//! What would be one becomes code, which forges leave alone and people can still read and
//! copy: `@name` is shown between backticks. A forge looks at text as it is shown, so an
//! entity that stands for the `@` is as good as one. What cannot become code (in a block of
//! HTML, or where that would change what is code around it) is written apart: `@ name`,
//! `no. 7`.

use super::data::{longest_run, unix};
use pulldown_cmark::{Event, Options, Parser, Tag};
use std::ops::Range;

/// Longest fence of backticks that is put around one; beyond it all is written apart. Some
/// readers give up on longer ones, and a text must not grow without bound.
const LONGEST_FENCE: usize = 8;
/// What in a web address comes before the number of something that can be referred to.
const REFERRED: [&str; 7] = [
    "issues",
    "pull",
    "pulls",
    "pull-requests",
    "merge_requests",
    "discussions",
    "work_items",
];
/// Names of entities that stand for what makes a mention or a reference.
const ENTITIES: [&str; 4] = ["commat", "num", "excl", "sol"];

/// Markdown of an agent without mentions and references: `@name`, `@org/team`, `#7`, `!7`,
/// `GH-7`, `owner/repo#7`, and addresses of issues and the like. Code stays as it is, and
/// addresses of mail are no mentions. What has none in it already stays as it is; the text
/// becomes at most ten times as long.
pub fn defused(markdown: &str) -> String {
    let markdown = unix(markdown);
    let out = fenced_off(&markdown);
    // A fence may have changed what is code.
    if fenced_off(&out) == out {
        out
    } else {
        written_apart(&markdown)
    }
}

/// One change of a text: what takes the place of a part of it.
type Edit = (Range<usize>, String);

/// Makes code of each mention and reference that a reader would see.
fn fenced_off(markdown: &str) -> String {
    let fence = longest_run(markdown) + 1;
    if fence > LONGEST_FENCE {
        return written_apart(markdown);
    }
    let fence = "`".repeat(fence);
    let mut edits: Vec<Edit> = Vec::new();
    let mut seen = Seen::default();
    // How deep in code, or in a link that becomes code as a whole.
    let mut inside = 0_usize;
    for (event, range) in Parser::new_ext(markdown, Options::ENABLE_TABLES).into_offset_iter() {
        match event {
            Event::Start(_) if inside > 0 => inside += 1,
            Event::End(_) if inside > 0 => inside -= 1,
            _ if inside > 0 => {}
            Event::Text(text) => seen.push(&text, range, markdown),
            event => {
                seen.flush(markdown, &fence, &mut edits);
                match event {
                    Event::Start(Tag::CodeBlock(_)) => inside = 1,
                    Event::Start(Tag::Link { dest_url, .. }) if is_referring(&dest_url) => {
                        inside = 1;
                        edits.push(code_of(markdown, range, &fence));
                    }
                    Event::Html(_) | Event::InlineHtml(_) => {
                        let apart = written_apart(&markdown[range.clone()]);
                        edits.push((range, apart));
                    }
                    _ => {}
                }
            }
        }
    }
    seen.flush(markdown, &fence, &mut edits);
    let mut out = String::with_capacity(markdown.len());
    let mut at = 0;
    for (range, text) in edits {
        // What a reader sees twice stands once in the source.
        if range.start >= at {
            out.push_str(&markdown[at..range.start]);
            out.push_str(&text);
            at = range.end;
        }
    }
    out.push_str(&markdown[at..]);
    out
}

/// Text that a reader sees in one piece, and where each character comes from.
#[derive(Default)]
struct Seen {
    chars: Vec<char>,
    from: Vec<Range<usize>>,
}

impl Seen {
    fn push(&mut self, text: &str, range: Range<usize>, markdown: &str) {
        let is_plain = markdown[range.clone()] == *text;
        for (at, c) in text.char_indices() {
            self.chars.push(c);
            self.from.push(if is_plain {
                let start = range.start + at;
                start..start + c.len_utf8()
            } else {
                // An entity stands for it.
                range.clone()
            });
        }
    }

    fn flush(&mut self, markdown: &str, fence: &str, edits: &mut Vec<Edit>) {
        for token in tokens(&self.chars) {
            let range = self.from[token.start].start..self.from[token.end - 1].end;
            edits.push(code_of(markdown, range, fence));
        }
        self.chars.clear();
        self.from.clear();
    }
}

/// Code of a part of the text, with all that it needs to be code there.
fn code_of(markdown: &str, range: Range<usize>, fence: &str) -> Edit {
    let before = &markdown[..range.start];
    // A backslash would escape the fence.
    let slashes = before.len() - before.trim_end_matches('\\').len();
    let start = range.start - slashes % 2;
    let text = &markdown[start..range.end];
    let space = |is_needed: bool| if is_needed { " " } else { "" };
    let edges = space(text.starts_with('`') || text.ends_with('`'));
    // A backtick beside the fence would belong to it.
    let left = space(markdown[..start].ends_with('`'));
    let right = space(markdown[range.end..].starts_with('`'));
    let code = format!("{left}{fence}{edges}{text}{edges}{fence}{right}");
    (start..range.end, code)
}

/// The mentions and references in a text as it is shown, in order.
fn tokens(chars: &[char]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let (mut at, mut word, mut is_web) = (0, 0..0, false);
    while at < chars.len() {
        let Some(end) = sign_at(chars, at) else {
            at += 1;
            continue;
        };
        let from = found.last().map_or(0, |last| last.end);
        if at >= word.end {
            let is_part = |c: char| !is_edge(c);
            word = begin(chars, at, is_part)..end_of(chars, at, is_part);
            is_web = is_address(&chars[word.clone()]);
        }
        let token = if is_web {
            from.max(word.start)..word.end
        } else {
            // `owner/repo` before a number.
            let path = |c: char| is_name(c) || matches!(c, '.' | '/');
            let start = if chars[at] == '@' {
                at
            } else {
                begin(chars, at, path)
            };
            from.max(start)..end
        };
        // What follows at once would be one as soon as this is code.
        let mut end = token.end;
        while chars.get(end) == Some(&'@') && chars.get(end + 1).is_some_and(|c| is_word(*c)) {
            end = end_of(chars, end + 1, is_name);
        }
        at = end;
        found.push(token.start..end);
    }
    found
}

/// Where the mention or reference ends whose sign stands at `at`; none where there is none.
fn sign_at(chars: &[char], at: usize) -> Option<usize> {
    let is_apart = |at: usize| at == 0 || !chars[at - 1].is_ascii_alphanumeric();
    match chars[at] {
        // After a word it is an address of mail.
        '@' if is_apart(at) => {
            chars.get(at + 1).filter(|c| is_word(**c))?;
            let mut end = end_of(chars, at + 1, is_name);
            // `@org/team`, `@scope/package.js`
            while matches!(chars.get(end), Some('/' | '.'))
                && chars.get(end + 1).is_some_and(|c| is_word(*c))
            {
                end = end_of(chars, end + 1, is_name);
            }
            Some(end)
        }
        '#' | '!' => number(chars, at + 1),
        'G' | 'g'
            if is_apart(at) && matches!(chars.get(at + 1..at + 3), Some(['H' | 'h', '-'])) =>
        {
            number(chars, at + 3)
        }
        '/' => {
            let referred = begin(chars, at, is_name);
            let name: String = chars[referred..at].iter().collect();
            let is_path = referred > 0 && chars[referred - 1] == '/';
            (is_path && REFERRED.contains(&name.as_str())).then(|| number(chars, at + 1))?
        }
        _ => None,
    }
}

/// The end of a whole number that begins there.
fn number(chars: &[char], at: usize) -> Option<usize> {
    let end = end_of(chars, at, |c| c.is_ascii_digit());
    let goes_on = chars.get(end).is_some_and(char::is_ascii_alphanumeric);
    (end > at && !goes_on).then_some(end)
}

/// Where the characters before `at` begin that are all so.
fn begin(chars: &[char], at: usize, is: impl Fn(char) -> bool) -> usize {
    let before = chars[..at].iter().rev().take_while(|c| is(**c)).count();
    at - before
}

/// Where the characters from `at` on end that are all so.
fn end_of(chars: &[char], at: usize, is: impl Fn(char) -> bool) -> usize {
    at + chars[at..].iter().take_while(|c| is(**c)).count()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_name(c: char) -> bool {
    is_word(c) || c == '-'
}

/// What ends an address in a text.
fn is_edge(c: char) -> bool {
    c.is_whitespace()
        || matches!(
            c,
            '<' | '>' | '(' | ')' | '[' | ']' | '"' | '\'' | '`' | '|' | ','
        )
}

/// Whether a word is a web address, which code has to hold as a whole.
fn is_address(word: &[char]) -> bool {
    let slashes = |part: &[char]| part == [':', '/', '/'];
    word.windows(3).any(slashes) || word.starts_with(&['w', 'w', 'w', '.'])
}

fn is_referring(address: &str) -> bool {
    let chars: Vec<char> = address.chars().collect();
    (0..chars.len()).any(|at| chars[at] == '/' && sign_at(&chars, at).is_some())
}

/// Writes every mention and reference apart, wherever it stands, and every entity that may
/// stand for a part of one.
fn written_apart(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    for (at, c) in chars.iter().copied().enumerate() {
        match c {
            '&' if stands_for_a_sign(&chars[at + 1..]) => out.push_str("&amp;"),
            '#' | '!' if sign_at(&chars, at).is_some() => {
                let is_apart = at == 0 || chars[at - 1].is_whitespace();
                out.push_str(if is_apart { "no. " } else { " no. " });
            }
            '@' | '/' if sign_at(&chars, at).is_some() => out.extend([c, ' ']),
            '-' if at >= 2
                && sign_at(&chars, at - 2).is_some_and(|end| end > at)
                && matches!(chars[at - 2], 'G' | 'g') =>
            {
                out.push(' ');
            }
            c => out.push(c),
        }
    }
    out
}

/// Whether an entity begins after its `&`; any number may stand for anything.
fn stands_for_a_sign(after: &[char]) -> bool {
    let named = |name: &&str| after.iter().copied().take(name.len()).eq(name.chars());
    after.first() == Some(&'#') || ENTITIES.iter().any(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*, sample::select};
    use pulldown_cmark::TagEnd;

    #[test]
    fn mentions_and_references_become_code() {
        for (text, expected) in [
            ("Ask @bob, and @org/team.", "Ask `@bob`, and `@org/team`."),
            ("(@bob) *@bob* @bob's", "(`@bob`) *`@bob`* `@bob`'s"),
            (
                "bob@example.org is no mention",
                "bob@example.org is no mention",
            ),
            (
                "see #7, !8, GH-9 and o/r#10",
                "see `#7`, `!8`, `GH-9` and `o/r#10`",
            ),
            ("# 7 and #7a, a!", "# 7 and #7a, a!"),
            (
                "@types/node.js uses @ alone",
                "`@types/node.js` uses @ alone",
            ),
            (
                "at https://forge.example/o/r/issues/7#note, too",
                "at `https://forge.example/o/r/issues/7#note`, too",
            ),
            ("https://a.example/@bob/x y", "`https://a.example/@bob/x` y"),
            ("https://a.example/x?y=1", "https://a.example/x?y=1"),
            (
                "[it](https://forge.example/o/r/pull/7) [else](https://a.example)",
                "`[it](https://forge.example/o/r/pull/7)` [else](https://a.example)",
            ),
            (
                "<https://forge.example/o/r/pull/7>",
                "`<https://forge.example/o/r/pull/7>`",
            ),
            // Code is code.
            ("`@bob` ``#7 ` @bob``", "`@bob` ``#7 ` @bob``"),
            (
                "```\n@bob\n```\n\n    @bob #7",
                "```\n@bob\n```\n\n    @bob #7",
            ),
            ("a ` b @bob", "a ` b ``@bob``"),
            // What is shown is what counts.
            (
                "&#64;bob &commat;bob #&#49;",
                "`&#64;bob` `&commat;bob` `#&#49;`",
            ),
            ("\\@bob \\\\@bob", "`\\@bob` \\\\`@bob`"),
            ("@**bob**", "@**bob**"),
            // In HTML nothing becomes code.
            (
                "<div>\n@bob #7 &#64;bob\n</div>",
                "<div>\n@ bob no. 7 &amp; no. 64;bob\n</div>",
            ),
            (
                "<a href=\"https://forge.example/o/r/issues/7\">@bob</a>",
                "<a href=\"https://forge.example/o/r/issues/ 7\">`@bob`</a>",
            ),
            ("| a |\n|---|\n| @bob |", "| a |\n|---|\n| `@bob` |"),
            ("> @bob\n> #7", "> `@bob`\n> `#7`"),
        ] {
            assert_eq!(defused(text), expected, "{text}");
        }
    }

    /// What makes and breaks code, and what stands in it.
    const PIECES: [&str; 40] = [
        "@bob",
        "@a",
        "#1",
        "!2",
        "GH-3",
        "o/r#4",
        "@org/team",
        "`",
        "``",
        "```",
        "~~~",
        "\n",
        "\n\n",
        " ",
        "    ",
        "\t",
        "\\",
        "*",
        "_",
        "<div>",
        "</div>",
        "<b>",
        "<!--",
        "-->",
        "[",
        "](",
        ")",
        "![",
        "[x]: ",
        "<",
        ">",
        "https://f.example/o/r/issues/5",
        "www.f.example/@b",
        "&#64;",
        "&commat;",
        "&amp;",
        "&#49;",
        "| a |\n|---|\n",
        "- ",
        "a",
    ];

    /// What a reader sees outside code.
    fn seen(markdown: &str) -> Vec<String> {
        let (mut all, mut now, mut inside) = (Vec::new(), String::new(), 0);
        for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
            if let Event::Text(text) = event {
                if inside == 0 {
                    now.push_str(&text);
                }
                continue;
            }
            all.push(std::mem::take(&mut now));
            match event {
                Event::Start(Tag::CodeBlock(_)) => inside += 1,
                Event::End(TagEnd::CodeBlock) => inside -= 1,
                Event::Html(text) | Event::InlineHtml(text) => all.push(text.into_string()),
                Event::Start(Tag::Link { dest_url, .. }) if is_referring(&dest_url) => {
                    all.push(dest_url.into_string());
                }
                _ => {}
            }
        }
        all.push(now);
        all
    }

    proptest! {
        #[test]
        fn nothing_is_left_and_once_is_enough(pieces in vec(select(&PIECES), 0..24)) {
            let text = pieces.concat();
            let clean = defused(&text);
            prop_assert_eq!(defused(&clean), clean.clone(), "{}", text);
            prop_assert!(clean.len() <= 10 * text.len(), "{}", text);
            for text in seen(&clean) {
                let chars: Vec<char> = text.chars().collect();
                prop_assert!(tokens(&chars).is_empty(), "{} in {}", text, clean);
            }
        }
    }
}
