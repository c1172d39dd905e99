//! What reaches a person or a program: shown text, tables, times, JSON.
//!
//! Titles, bodies and the output of agents come from outside. All of it goes out through
//! [`out`], which shows what is hidden in it.

pub mod archive;
pub mod draft;
pub mod issue;
mod out;
pub mod pr;
pub mod run;
pub mod standing;
pub mod transcript;

pub use out::{
    Drawn, Reader, Traced, aside, ask, hint, print, print_json, print_patch, print_raw_json, told,
};

use factory_core::text;
use jiff::Timestamp;

/// A text on one line, with all that is hidden shown.
pub fn line(text: &str) -> String {
    text::one_line(text)
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

pub use factory_core::text::span;

/// A time of the state as programs read it: RFC 3339, UTC.
pub fn stamp(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |t| t.to_string())
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
