//! What becomes of text before somebody gets it.

use super::{corpus_text, hostile};
use factory_core::{
    ids::{IssueNo, Oid, PrNo, RunId},
    schedule::{written_dependencies, written_touches},
    text,
};
use proptest::prelude::*;
use pulldown_cmark::{Event, Options, Parser, Tag};

/// Hidden characters that ordinary text needs.
const NEEDED: [char; 4] = ['\u{200c}', '\u{200d}', '\u{fe0e}', '\u{fe0f}'];

/// Some that no text needs; the list is not the code's own.
const NEVER: [char; 14] = [
    '\u{0}',
    '\u{7}',
    '\u{1b}',
    '\r',
    '\u{85}',
    '\u{9b}',
    '\u{ad}',
    '\u{200b}',
    '\u{2028}',
    '\u{202e}',
    '\u{3164}',
    '\u{e0041}',
    '\u{e0100}',
    '\u{feff}',
];

/// Undoes `\u{1b}`.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\u{") {
        let (digits, after) = after.split_once('}').unwrap();
        let c = u32::from_str_radix(digits, 16)
            .ok()
            .and_then(char::from_u32);
        out.push_str(before);
        out.push(c.unwrap());
        rest = after;
    }
    out + rest
}

fn shown_holds(given: &str) {
    let shown = text::shown(given);
    assert_eq!(text::shown(&shown), shown, "once is enough");
    assert!(shown.len() <= given.len() * 6 + 6, "bounded");
    assert_eq!(shown.find(NEVER), None, "{shown:?}");
    let mut before = ' ';
    let mut chars = shown.chars().peekable();
    while let Some(c) = chars.next() {
        let key = chars.peek() == Some(&'\u{20e3}');
        assert!(
            !NEEDED.contains(&c) || !before.is_ascii() || key,
            "{shown:?}"
        );
        let tag = ('\u{e0020}'..='\u{e007f}').contains(&c);
        assert!(!text::is_hidden(c) || NEEDED.contains(&c) || tag, "{c:?}");
        // Nothing is written in what nobody sees, but the names of three flags.
        assert!(
            !text::is_hidden(c) || !text::is_hidden(before) || tag || c == '\u{200d}',
            "{before:?}{c:?}"
        );
        before = c;
    }
    if !given.contains('\\') {
        assert_eq!(
            unescaped(&shown),
            given.replace("\r\n", "\n"),
            "nothing is lost"
        );
    }
    let line = text::one_line(given);
    assert!(!line.contains(['\n', '\t']), "{line:?}");
    assert_eq!(text::one_line(&line), line);
}

fn markup_holds(given: &str) {
    let clean = text::without_comments(given);
    assert_eq!(text::without_comments(&clean), clean, "once is enough");
    let mut links = 0;
    let mut events = Parser::new_ext(&clean, Options::ENABLE_TABLES).into_offset_iter();
    for (event, _) in events.by_ref() {
        match event {
            Event::Html(html) | Event::InlineHtml(html) => {
                assert!(!html.contains("<!--"), "{html:?} in {clean:?}");
            }
            Event::Start(Tag::Link { .. } | Tag::Image { .. }) => links += 1,
            _ => {}
        }
    }
    let defined = events.reference_definitions().iter().count();
    assert!(defined <= links, "{clean:?} defines what nothing uses");
    if !given.contains("<!--") && !given.contains("]:") {
        let unix = given.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(clean, unix, "nothing else is taken out");
    }
}

fn defused_holds(given: &str) {
    let clean = text::defused(given);
    assert_eq!(text::defused(&clean), clean, "once is enough");
    assert!(clean.len() <= 10 * given.len(), "bounded");
    if !given.contains(['@', '#', '!', '&', '-', '/']) {
        let unix = given.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(clean, unix, "nothing else is changed");
    }
}

fn names_hold(given: &str) {
    let branch = text::branch_name("factory", IssueNo(7), given);
    let slug = branch.strip_prefix("factory/7").unwrap();
    let plain = |b: u8| b == b'-' || b.is_ascii_lowercase() || b.is_ascii_digit();
    assert!(slug.bytes().all(plain) && slug.len() <= 41, "{branch}");
    assert!(!slug.ends_with('-') && !slug.contains("--"), "{branch}");
    fn same<T: std::str::FromStr + std::fmt::Display + PartialEq>(text: &str) {
        if let Ok(id) = text.parse::<T>() {
            assert!(id.to_string().parse::<T>().is_ok_and(|again| again == id));
        }
    }
    same::<IssueNo>(given);
    same::<PrNo>(given);
    same::<RunId>(given);
    same::<Oid>(given);
    if let Ok(paths) = written_touches(given) {
        let leads_out = |path: &String| path.split('/').any(|part| part == "..");
        assert!(!paths.iter().any(leads_out), "{paths:?}");
    }
    // It says which line is wrong, or gives numbers.
    drop(written_dependencies(given));
}

#[test]
fn nasty_texts() {
    for (name, given) in corpus_text("text") {
        println!("{name}");
        shown_holds(&given);
        markup_holds(&given);
        defused_holds(&given);
        names_hold(&given);
    }
}

proptest! {
    #[test]
    fn what_is_shown_hides_nothing_and_loses_nothing(given in hostile()) {
        shown_holds(&given);
    }

    #[test]
    fn markup_keeps_no_comment_that_its_readers_do_not_see(given in hostile()) {
        markup_holds(&given);
    }

    #[test]
    fn what_goes_out_is_defused_once(given in hostile()) {
        defused_holds(&given);
    }

    #[test]
    fn names_are_plain(given in hostile()) {
        names_hold(&given);
    }

    #[test]
    fn trimming_is_bounded_and_keeps_both_ends(given in hostile(), limit in 0usize..200) {
        let short = text::trimmed(&given, limit);
        prop_assert!(short.len() <= limit + 60, "{}", short.len());
        if given.len() <= limit {
            prop_assert_eq!(short, given);
        }
    }
}
