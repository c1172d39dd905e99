//! Text of other people in a prompt: nothing in it is hidden, and it cannot end where it
//! stands.

use super::shown;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag};
use std::ops::Range;

/// What stands in the place of an HTML comment.
const REMOVED: &str = "[an HTML comment was removed here]";
/// The same of one that does not end.
const ENDLESS: &str =
    "[an HTML comment that does not end was removed here, with all that followed it]";

/// The text between two fences, nothing in it hidden. The fences are longer than any run of
/// backticks in the text, so no line of it ends it.
pub fn fenced(text: &str) -> String {
    let text = shown(&unix(text));
    let mut longest = 0;
    let mut run = 0;
    for c in text.chars() {
        run = if c == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}text\n{}\n{fence}\n", text.trim_matches('\n'))
}

/// Markdown without what its readers do not see: each HTML comment gives way to a note.
/// In fenced code and code spans comments are code, and stay. One that does not end takes
/// along all that follows.
pub fn without_comments(markdown: &str) -> String {
    let markdown = unix(markdown);
    let out = pass(&markdown, &code(&markdown));
    // What was taken out may have decided what is code; then none is believed to be.
    if pass(&out, &code(&out)) == out {
        out
    } else {
        pass(&out, &[])
    }
}

/// Lines that end as they do here.
fn unix(text: &str) -> String {
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
    fn no_line_ends_its_fence() {
        assert_eq!(fenced("a"), "```text\na\n```\n");
        assert_eq!(
            fenced("\n```\r\nb\r````"),
            "`````text\n```\nb\n````\n`````\n"
        );
        assert_eq!(fenced("a\u{202e}"), "```text\na\\u{202e}\n```\n");
    }
}
