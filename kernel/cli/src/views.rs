//! What reaches a person or a program: cleaned text, tables, times, JSON.
//!
//! Titles, bodies and the output of agents come from outside. Nothing of them
//! that a terminal would act on is ever written: text goes through [`print`],
//! JSON through [`print_json`] and [`print_raw_json`].

pub mod archive;
pub mod draft;
pub mod issue;
pub mod pr;
pub mod run;
pub mod standing;
pub mod transcript;

use crate::failure::{Class, Failure};
use factory_core::text;
use jiff::Timestamp;
use serde::Serialize;
use std::io::{ErrorKind, Write as _};

/// Whether anybody still reads our standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It was written.
    There,
    /// The reader went away (`| head`): nothing more needs to be written.
    Gone,
}

/// True for what a terminal acts on instead of showing it: control characters,
/// and those that turn the direction of text around.
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text without anything that a terminal would act on, except line feeds and tabs.
pub fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| matches!(c, '\n' | '\t') || !acts(*c))
        .collect()
}

/// The same, on one line.
pub fn line(text: &str) -> String {
    clean(&text::one_line(text))
}

/// Writes text for people to standard output, cleaned.
pub fn print(text: &str) -> Result<Reader, Failure> {
    write(clean(text).as_bytes())
}

/// Writes a value as JSON to standard output.
pub fn print_json<T: Serialize>(value: &T) -> Result<Reader, Failure> {
    let json = serde_json::to_string_pretty(value).map_err(|e| Failure::of(Class::Internal, e))?;
    print_raw_json(&format!("{json}\n"))
}

/// Writes JSON text to standard output. Characters that a terminal acts on can
/// only be inside of strings, where an escape means the same.
pub fn print_raw_json(json: &str) -> Result<Reader, Failure> {
    write(escaped(json).as_bytes())
}

fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if acts(c) && !matches!(c, '\n' | '\r' | '\t') {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// Writes bytes to standard output as they are: only where no terminal reads them.
pub fn write(bytes: &[u8]) -> Result<Reader, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::new(
            Class::Output,
            format!("standard output cannot be written: {error}"),
        )
        .help("give it room, or another place to go")),
    }
}

/// Says what a command did. Whoever cannot be told must not take it for undone.
pub fn told(done: &str) -> Result<(), Failure> {
    let first = done.lines().next().unwrap_or_default();
    match print(done) {
        Ok(_) => Ok(()),
        Err(failure) => Err(failure.help(format!("do not repeat it, it is done: {}", line(first)))),
    }
}

/// A line beside the data, on standard error: progress, or why there is no data.
pub fn hint(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stderr(), "{}", line(text))?;
    Ok(())
}

/// Rows under a heading, in columns as wide as they need to be; each cell on one line.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut lines = vec![heading.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| row.clone().map(|cell| line(&cell))));
    let mut widths = [0; N];
    for row in &lines {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &lines {
        let mut shown = String::new();
        for (cell, width) in row.iter().zip(widths) {
            shown.push_str(&format!("{cell:width$}  "));
        }
        out.push_str(shown.trim_end());
        out.push('\n');
    }
    out
}

/// Each line of a text, set off from the rest.
pub fn indented(text: &str) -> String {
    let mut out = String::new();
    for line in text.trim_end().lines() {
        out.push_str(format!("    {line}").trim_end());
        out.push('\n');
    }
    out
}

/// A heading with a text below it; nothing for a blank text.
pub fn section(out: &mut String, heading: &str, text: &str) {
    if !text.trim().is_empty() {
        out.push_str(&format!("\n{heading}\n{}", indented(text)));
    }
}

/// A time of the state as programs read it: RFC 3339, UTC.
pub fn stamp(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |t| t.to_string())
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

/// `1 call`, `2 calls`.
pub fn count(n: u64, what: &str) -> String {
    let mut out = format!("{n} {what}");
    if n != 1 {
        out.push('s');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_is_left() {
        let hostile = "a\u{1b}]0;title\u{7}b\u{9b}31m\rc\u{202e}d\tÄ\n";
        assert_eq!(clean(hostile), "a]0;titleb31mcd\tÄ\n");
        let json = serde_json::to_string(hostile).unwrap();
        let shown = escaped(&json);
        assert!(!shown.chars().any(acts), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), hostile);
    }

    #[test]
    fn tables_line_up_and_have_no_trailing_space() {
        let rows = [
            ["1".to_owned(), "ä".to_owned(), String::new()],
            ["20".to_owned(), "long\nword".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            table(["#", "STATE", "TITLE"], &rows),
            "#   STATE      TITLE\n1   ä\n20  long word  x\n"
        );
    }

    #[test]
    fn spans_are_short() {
        let shown = [-5, 0, 119, 120, 7199, 7200, 172_800].map(span);
        assert_eq!(
            shown,
            ["0 s", "0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]
        );
    }
}
