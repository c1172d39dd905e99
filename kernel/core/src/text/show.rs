//! What of a text nobody would see, and a terminal or a model would obey, made visible.
//!
//! Hidden is what Unicode calls a control character or `Default_Ignorable_Code_Point`
//! (zero width, direction, tags, variation selectors, fillers, the soft hyphen), a line or
//! paragraph separator, and what encloses an annotation. Four things in ordinary text are
//! such characters too, and stay where they mean something:
//!
//! - the joiner in an emoji of several (`👩‍🚀`), and one variation selector after an emoji;
//! - the joiner and the non-joiner between letters of a cursive script (Persian) or after a
//!   virama (Devanagari, Sinhala, Malayalam), as RFC 5892, A.1 and A.2, has it, but on both
//!   sides of any cursive letter;
//! - the tags of the three flags that Unicode recommends.
//!
//! Combining accents and ideographs are not hidden. Variation selectors of ideographs are:
//! they carry a byte each that nobody sees.

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{
        CanonicalCombiningClass, DefaultIgnorableCodePoint, Emoji, EmojiModifier,
        ExtendedPictographic, JoiningType,
    },
};

const JOINER: char = '\u{200d}';
const NON_JOINER: char = '\u{200c}';
/// As text, as an emoji.
const SELECTORS: [char; 2] = ['\u{fe0e}', '\u{fe0f}'];
/// What makes a key of a digit before it.
const KEYCAP: char = '\u{20e3}';
/// What tags may follow.
const FLAG: char = '\u{1f3f4}';
/// England, Scotland, Wales: all tagged emoji that Unicode recommends (UTS 51, ED-26).
const FLAGS: [&str; 3] = [
    "\u{1f3f4}\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
    "\u{1f3f4}\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}",
    "\u{1f3f4}\u{e0067}\u{e0062}\u{e0077}\u{e006c}\u{e0073}\u{e007f}",
];

/// True for what nobody sees, whatever stands beside it. Line feed and tab are not hidden.
pub fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' | ' '..='~' => false,
        // Separators of lines and paragraphs; around annotations.
        '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}' => true,
        c => c.is_control() || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c),
    }
}

/// The text with all that is hidden written as `\u{1b}`. A line may end with CR LF.
/// What is shown already stays as it is.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let stops = |(_, c): &(usize, char)| is_hidden(*c) || *c == FLAG;
    while let Some((at, c)) = rest.char_indices().find(stops) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let flag = FLAGS.iter().find(|flag| rest.starts_with(**flag));
        let whole = flag.map_or(c.len_utf8(), |flag| flag.len());
        let (this, after) = rest.split_at(whole);
        rest = after;
        let next = rest.chars().next();
        if c == '\r' && next == Some('\n') {
            continue;
        }
        if flag.is_some() || !is_hidden(c) || is_meant(c, &out, next) {
            out.push_str(this);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out.push_str(rest);
    out
}

/// True for a hidden character that ordinary text needs between `before`, as it is shown,
/// and `next`.
fn is_meant(c: char, before: &str, next: Option<char>) -> bool {
    match c {
        JOINER => joins_emoji(before, next) || joins_letters(before, next),
        NON_JOINER => joins_letters(before, next),
        c if SELECTORS.contains(&c) => before.chars().next_back().is_some_and(|last| {
            // Digits are emoji only as keys.
            CodePointSetData::new::<Emoji>().contains(last)
                && (!last.is_ascii() || next == Some(KEYCAP))
        }),
        _ => false,
    }
}

fn joins_emoji(before: &str, next: Option<char>) -> bool {
    let pictures = CodePointSetData::new::<ExtendedPictographic>();
    let colours = CodePointSetData::new::<EmojiModifier>();
    let mut back = before.chars().rev();
    let last = back.find(|c| !SELECTORS.contains(c) && !colours.contains(*c));
    let is_picture = |c: Option<char>| c.is_some_and(|c| pictures.contains(c));
    is_picture(last) && is_picture(next)
}

fn joins_letters(before: &str, next: Option<char>) -> bool {
    let classes = CodePointMapData::<CanonicalCombiningClass>::new();
    let last = before.chars().next_back();
    if last.is_some_and(|last| classes.get(last) == CanonicalCombiningClass::Virama) {
        return true;
    }
    let types = CodePointMapData::<JoiningType>::new();
    let is_cursive = |c: Option<char>| {
        let cursive = [
            JoiningType::DualJoining,
            JoiningType::LeftJoining,
            JoiningType::RightJoining,
        ];
        c.is_some_and(|c| cursive.contains(&types.get(c)))
    };
    // Vowel signs stand between letters and are transparent.
    let mut back = before.chars().rev();
    let last = back.find(|c| types.get(*c) != JoiningType::Transparent);
    is_cursive(last) && is_cursive(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_shown() {
        for (text, expected) in [
            ("a\u{1b}]0;title\u{7}b", "a\\u{1b}]0;title\\u{7}b"),
            (
                "\u{9b}31m\u{0}\u{7f}\u{85}",
                "\\u{9b}31m\\u{0}\\u{7f}\\u{85}",
            ),
            ("one\rtwo\r\nthree\n\tfour", "one\\u{d}two\nthree\n\tfour"),
            (
                "a\u{202e}b\u{2066}c\u{200f}",
                "a\\u{202e}b\\u{2066}c\\u{200f}",
            ),
            (
                "zero\u{200b}\u{2060}\u{feff}",
                "zero\\u{200b}\\u{2060}\\u{feff}",
            ),
            ("tags\u{e0041}\u{e0001}", "tags\\u{e0041}\\u{e0001}"),
            ("a\u{ad}b\u{2028}c\u{2029}", "a\\u{ad}b\\u{2028}c\\u{2029}"),
            (
                "\u{3164}\u{115f}\u{1160}\u{ffa0}",
                "\\u{3164}\\u{115f}\\u{1160}\\u{ffa0}",
            ),
            (
                "\u{fff9}x\u{fffa}y\u{fffb}",
                "\\u{fff9}x\\u{fffa}y\\u{fffb}",
            ),
            (
                "a\u{fe0f}1\u{fe0f}漢\u{e0100}",
                "a\\u{fe0f}1\\u{fe0f}漢\\u{e0100}",
            ),
            // More than one is a message to somebody else.
            (
                "😀\u{fe0f}\u{fe0f}\u{e0100}",
                "😀\u{fe0f}\\u{fe0f}\\u{e0100}",
            ),
            ("a\u{200d}b\u{200c}c", "a\\u{200d}b\\u{200c}c"),
            ("می\u{200c}\u{200c}خ", "می\\u{200c}\\u{200c}خ"),
            ("🏴\u{e0061}\u{e007f}", "🏴\\u{e0061}\\u{e007f}"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        for text in [
            "plain, with\ttabs\nand lines",
            "Zürich, cafe\u{301}, n\u{303}, Ελλάδα, Việt Nam, ไทย, 日本語, 한국어",
            "👩\u{200d}🚀 👩🏽\u{200d}🚀 🏳\u{fe0f}\u{200d}🌈 ❤\u{fe0f}\u{200d}🔥 👨\u{200d}👩\u{200d}👧",
            "☎\u{fe0e} ©\u{fe0f} 1\u{fe0f}\u{20e3} 🇨🇭",
            "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}",
            "می\u{200c}خواهم خانه\u{200c}ها کار\u{200c}ها",
            "क्\u{200d}ष ශ්\u{200d}ර ന്\u{200d}",
            "שָׁלוֹם مُحَمَّد\u{a0}x",
        ] {
            assert_eq!(shown(text), text);
        }
    }
}
