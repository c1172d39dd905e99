//! Bytes of others, and the laws that hold for all of them. Every law is played on what
//! chance makes and on the files of `tests/corpus`, which were made by hand to be nasty.
//! `PROPTEST_CASES` says how often (`make fuzz`).

mod brief;
mod engines;
mod kept;
mod needs_human;
mod rules;
mod text;

use proptest::{collection::vec, prelude::*, sample::select};
use std::path::Path;

/// Pieces of Markdown, YAML, JSON and Unicode that mean something to somebody.
const PIECES: &[&str] = &[
    "`",
    "``",
    "```",
    "````",
    "\n```text\n",
    "\n```\n",
    "~~~",
    "<!--",
    "-->",
    "<!-->",
    "--!>",
    "\n",
    "\n\n",
    "\r",
    "\r\n",
    "---\n",
    "\n---\n",
    "\n# ",
    "\n- ",
    "\n> ",
    "\n    ",
    "\t",
    "\\",
    "<div>",
    "</div>",
    "<pre>",
    "</pre>",
    "<?",
    "| a | b |\n|---|---|\n",
    "[a]: <",
    "[a]: b\n",
    "[a]",
    "@a",
    "o/r#1",
    "&#64;",
    "https://f.example/o/r/issues/5",
    "\u{1b}[31m",
    "\u{9b}",
    "\u{7}",
    "\u{0}",
    "\u{85}",
    "\u{2028}",
    "\u{202e}",
    "\u{200b}",
    "\u{200c}",
    "\u{200d}",
    "\u{fe0f}",
    "\u{fe0e}",
    "\u{e0041}",
    "\u{e007f}",
    "\u{feff}",
    "\u{ad}",
    "\u{3164}",
    "\u{20e3}",
    "🏴",
    "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}",
    "👩",
    "🚀",
    "🏽",
    "❤",
    "1",
    "می",
    "خ",
    "ع\u{64e}",
    "क्",
    "e\u{301}",
    "漢",
    "'",
    "\"",
    ": ",
    ":",
    " #",
    "#1",
    "{",
    "}",
    "[",
    "]",
    ",",
    "*a",
    "&a ",
    "!!",
    "!!binary ",
    "|\n",
    ">\n ",
    "? ",
    "%YAML 1.1\n",
    "~",
    "null",
    "true",
    "0x1f",
    "1e999",
    ".inf",
    "-0",
    "Touches: ",
    "Depends-on: #",
    "type",
    " ",
];

/// Some text, mostly of such pieces.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => select(PIECES).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        2 => "[a-z ]{1,6}",
    ];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// What is in a folder of the corpus, by name.
fn corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let files = std::fs::read_dir(&folder).unwrap().map(|file| {
        let path = file.unwrap().path();
        (path.display().to_string(), std::fs::read(path).unwrap())
    });
    let files: Vec<_> = files.collect();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}

/// The same as text, as it is read where text is wanted.
fn corpus_text(folder: &str) -> Vec<(String, String)> {
    let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let all = corpus(folder).into_iter();
    all.map(|(name, bytes)| (name, lossy(bytes))).collect()
}
