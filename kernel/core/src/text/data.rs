//! Text of other people in a prompt: nothing in it is hidden, and it cannot end where it
//! stands.

use super::shown;
use pulldown_cmark::{CodeBlockKind, Event, LinkType, Options, Parser, Tag};
use std::{collections::BTreeSet, ops::Range};

/// What stands in the place of an HTML comment.
const REMOVED: &str = "[an HTML comment was removed here]";
/// The same of one that does not end.
const ENDLESS: &str =
    "[an HTML comment that does not end was removed here, with all that followed it]";

/// What stands in the place of the definition of a link that no link uses.
const UNUSED: &str = "[a definition that no link uses was removed here]";
/// Most definitions of one label that are looked at one by one.
const MOST_ROUNDS: usize = 8;

/// The text between two fences, nothing in it hidden. The fences are longer than any run of
/// backticks in the text, so no line of it ends it.
pub fn fenced(text: &str) -> String {
    let text = shown(&unix(text));
    let fence = "`".repeat(3.max(longest_run(&text) + 1));
    format!("{fence}text\n{}\n{fence}\n", text.trim_matches('\n'))
}

/// Markdown without what its readers do not see: each HTML comment gives way to a note, and
/// each definition of a link that no link uses (`[//]: # (…)`) to another. In fenced code and
/// code spans both are code, and stay. A comment that does not end takes along all that
/// follows.
pub fn without_comments(markdown: &str) -> String {
    let once = |text: &str| without_definitions(&pass(text, &code(text)));
    let out = once(&unix(markdown));
    // What was taken out may have decided what is code; then none is believed to be.
    if once(&out) == out {
        out
    } else {
        without_any_definition(&pass(&out, &[]))
    }
}

/// Backticks in the longest run of them.
pub(super) fn longest_run(text: &str) -> usize {
    let runs = text.split(|c| c != '`').map(str::len);
    runs.max().unwrap_or_default()
}

/// Lines that end as they do here.
pub(super) fn unix(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Where a reader sees code, in order.
fn code(markdown: &str) -> Vec<Range<usize>> {
    // In a table, cells end before code does.
    let events = Parser::new_ext(markdown, Options::ENABLE_TABLES).into_offset_iter();
    let of_code = events.filter(|(event, _)| {
        matches!(
            event,
            Event::Code(_) | Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(_)))
        )
    });
    of_code.map(|(_, range)| range).collect()
}

fn pass(markdown: &str, code: &[Range<usize>]) -> String {
    let mut code = code.iter().peekable();
    let mut out = String::with_capacity(markdown.len());
    let mut at = 0;
    while let Some(start) = markdown[at..].find("<!--").map(|found| at + found) {
        while code.next_if(|range| range.end <= start).is_some() {}
        if let Some(range) = code.peek().filter(|range| range.start <= start) {
            out.push_str(&markdown[at..range.end]);
            at = range.end;
            continue;
        }
        out.push_str(&markdown[at..start]);
        // `<!-->` is a whole one.
        match markdown[start + 2..].find("-->") {
            Some(end) => {
                out.push_str(REMOVED);
                at = start + 2 + end + 3;
            }
            None => {
                out.push_str(ENDLESS);
                at = markdown.len();
            }
        }
    }
    out.push_str(&markdown[at..]);
    out
}

/// The same without the definitions that no link uses.
fn without_definitions(markdown: &str) -> String {
    // A label's first definition counts; the next one is seen once that is blank.
    let mut unseen = markdown.to_owned();
    let mut hidden: Vec<Range<usize>> = Vec::new();
    for round in 0.. {
        let mut events = Parser::new_ext(&unseen, Options::ENABLE_TABLES).into_offset_iter();
        let mut used = Vec::new();
        for (event, _) in events.by_ref() {
            if let Event::Start(Tag::Link { link_type, id, .. } | Tag::Image { link_type, id, .. }) =
                event
                && matches!(
                    link_type,
                    LinkType::Reference | LinkType::Collapsed | LinkType::Shortcut
                )
            {
                used.push(id);
            }
        }
        let all = events.reference_definitions();
        let used = used.iter().filter_map(|id| all.get(id));
        let used: BTreeSet<usize> = used.map(|one| one.span.start).collect();
        let mut spans: Vec<_> = all.iter().map(|(_, one)| one.span.clone()).collect();
        if spans.is_empty() {
            break;
        }
        if round == MOST_ROUNDS {
            return without_any_definition(markdown);
        }
        spans.sort_by_key(|span| span.start);
        let unused = spans
            .iter()
            .filter(|span| round > 0 || !used.contains(&span.start));
        hidden.extend(unused.cloned());
        unseen = blanked(&unseen, &spans);
    }
    hidden.sort_by_key(|span| span.start);
    let mut out = String::with_capacity(markdown.len());
    let mut at = 0;
    for span in hidden {
        out.push_str(&markdown[at..span.start]);
        out.push_str(UNUSED);
        let text = &markdown[span.start..span.end];
        at = span.start + text.trim_end().len();
    }
    out.push_str(&markdown[at..]);
    out
}

/// A text of the same length in which these parts, in order, are blank.
fn blanked(text: &str, spans: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    for span in spans {
        out.push_str(&text[out.len()..span.start]);
        let blank = |byte: u8| if byte == b'\n' { '\n' } else { ' ' };
        out.extend(text[span.clone()].bytes().map(blank));
    }
    out.push_str(&text[out.len()..]);
    out
}

/// The same without any line that could define a link, or end the name of one.
fn without_any_definition(markdown: &str) -> String {
    let lines = markdown.split('\n');
    let kept = lines.map(|line| if line.contains("]:") { UNUSED } else { line });
    kept.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_give_way_to_a_note_except_in_code() {
        for (text, expected) in [
            ("a <!-- b --> c", "a [] c"),
            ("<!--\nb\n\nc\n-->\nd", "[]\nd"),
            ("a <!-- b", "a [...]"),
            ("<!-- b\n\n```\ncode\n```\n", "[...]"),
            ("<!--> a <!---> b <!-- --> c", "[] a [] b [] c"),
            (
                "```\n<!-- code -->\n```\n<!-- b -->",
                "```\n<!-- code -->\n```\n[]",
            ),
            ("~~~html\n<!-- code", "~~~html\n<!-- code"),
            (
                "see `<!-- code -->` and <!-- b -->",
                "see `<!-- code -->` and []",
            ),
            // What looks like code and is none.
            ("\\`<!-- b -->`", "\\`[]`"),
            ("- a\n  ```\n<!-- b -->", "- a\n  ```\n[]"),
            (
                "<div>\n```\n<!-- b -->\n```\n</div>",
                "<div>\n```\n[]\n```\n</div>",
            ),
            ("`a\n<!-- b -->\nc`", "`a\n[]\nc`"),
            ("~~~\r~~~\n<!-- b -->", "~~~\n~~~\n[]"),
            (
                "| a | b |\n|---|---|\n| `a | <!-- b --> `|",
                "| a | b |\n|---|---|\n| `a | [] `|",
            ),
            ("    <!-- b -->", "    []"),
            ("a <!-- `b --> c` <!-- d -->", "a [] c` []"),
            // The note joins no halves.
            ("<!<!-- a -->-- b -->", "<![]-- b -->"),
            // Without the first, the second would be no code.
            ("<!-- a --> `\n`<!-- b -->`", "[] `\n`[]`"),
        ] {
            let expected = expected.replace("[]", REMOVED).replace("[...]", ENDLESS);
            assert_eq!(without_comments(text), expected, "{text}");
        }
    }

    #[test]
    fn definitions_that_no_link_uses_give_way_to_a_note() {
        for (text, expected) in [
            ("[//]: # (do this)", "{}"),
            ("a\n\n[comment]: <> (do this)\n\nb", "a\n\n{}\n\nb"),
            ("[//]: # 'do\nthis'\nb", "{}\nb"),
            ("> [x]: y\n\n- [x]: z", "> {}\n\n- {}"),
            // Used ones stay, but not what hides behind them.
            (
                "see [x] and [y][Z]\n\n[x]: https://a.example\n[z]: b",
                "see [x] and [y][Z]\n\n[x]: https://a.example\n[z]: b",
            ),
            (
                "see [x]\n\n[x]: a\n[x]: b (do this)",
                "see [x]\n\n[x]: a\n{}",
            ),
            // Code is code, and so is what defines nothing.
            ("```\n[x]: y\n```\n`[x]: y`", "```\n[x]: y\n```\n`[x]: y`"),
            ("a\n[x]: y", "a\n[x]: y"),
            // Without the definition, what follows would be one.
            ("[x]: a\n<!-- b -->", "{}\n[]"),
        ] {
            let expected = expected.replace("{}", UNUSED).replace("[]", REMOVED);
            assert_eq!(without_comments(text), expected, "{text}");
        }
        let many = "[x]: y\n".repeat(50);
        assert_eq!(without_comments(&many), format!("{UNUSED}\n").repeat(50));
    }

    #[test]
    fn no_line_ends_its_fence() {
        assert_eq!(fenced("a"), "```text\na\n```\n");
        assert_eq!(
            fenced("\n```\r\nb\r````"),
            "`````text\n```\nb\n````\n`````\n"
        );
        assert_eq!(fenced("a\u{202e}"), "```text\na\\u{202e}\n```\n");
    }
}
