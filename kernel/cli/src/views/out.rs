//! The one way out: all that this program writes to a terminal passes here, and nothing that
//! a terminal would obey, or nobody would see, gets through (`core::text::shown`). A hygiene
//! test holds everybody else off standard output and standard error.

use super::line;
use crate::failure::{Class, Failure};
use factory_core::text::{is_hidden, shown};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal as _, Write, stderr, stdout};

/// Takes the terminal's line away.
const ERASE: &[u8] = b"\r\x1b[K";

/// Whether anybody still reads our standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It was written.
    There,
    /// The reader went away (`| head`): nothing more needs to be written.
    Gone,
}

/// Writes text for people to standard output.
pub fn print(text: &str) -> Result<Reader, Failure> {
    write(shown(text).as_bytes())
}

/// Writes a value as JSON to standard output.
pub fn print_json<T: Serialize>(value: &T) -> Result<Reader, Failure> {
    let json = serde_json::to_string_pretty(value).map_err(|e| Failure::of(Class::Internal, e))?;
    print_raw_json(&format!("{json}\n"))
}

/// Writes JSON text to standard output. What is hidden can only be inside of strings, where
/// an escape means the same.
pub fn print_raw_json(json: &str) -> Result<Reader, Failure> {
    write(escaped(json).as_bytes())
}

fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) && c != '\r' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Writes a patch to standard output: as it is for `git apply`, to which every byte counts;
/// on a terminal shown, and `coloured` after that.
pub fn print_patch(
    patch: &[u8],
    coloured: impl FnOnce(String) -> String,
) -> Result<Reader, Failure> {
    match stdout().is_terminal() {
        true => write(coloured(shown(&String::from_utf8_lossy(patch))).as_bytes()),
        false => write(patch),
    }
}

fn write(bytes: &[u8]) -> Result<Reader, Failure> {
    let mut out = stdout().lock();
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
    writeln!(stderr(), "{}", line(text))?;
    Ok(())
}

/// A question on standard error, whose answer follows it on the same line.
pub fn ask(question: &str) -> Result<(), Failure> {
    let mut err = stderr();
    write!(err, "{} ", shown(question))?;
    Ok(err.flush()?)
}

/// Lines on standard error that nothing depends on: who cannot be told misses them.
pub fn aside(text: &str) {
    draw_at(&mut stderr().lock(), false, &format!("{text}\n"));
}

/// Where lines are written over again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    /// On standard output.
    Out,
    /// On standard error.
    Err,
}

impl Drawn {
    /// True where a line can be written over again.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Out => stdout().is_terminal(),
            Self::Err => stderr().is_terminal(),
        }
    }

    /// Columns of the terminal, where there is one.
    pub fn columns(self) -> Option<usize> {
        let size = match self {
            Self::Out => rustix::termios::tcgetwinsize(stdout()),
            Self::Err => rustix::termios::tcgetwinsize(stderr()),
        };
        size.ok().map(|size| usize::from(size.ws_col))
    }

    /// Writes, on a fresh line where `erase` says so. A reader that went away ends nothing.
    pub fn draw(self, erase: bool, text: &str) {
        match self {
            Self::Out => draw_at(&mut stdout().lock(), erase, text),
            Self::Err => draw_at(&mut stderr().lock(), erase, text),
        }
    }
}

fn draw_at(to: &mut impl Write, erase: bool, text: &str) {
    let mut bytes = if erase { ERASE.to_vec() } else { Vec::new() };
    bytes.extend_from_slice(shown(text).as_bytes());
    if let Err(error) = to.write_all(&bytes).and_then(|()| to.flush()) {
        tracing::debug!(%error, "nobody reads what is written");
    }
}

/// What is traced, on standard error.
pub struct Traced;

impl Write for Traced {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        stderr().write_all(shown(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_means_the_same_with_all_that_is_hidden_escaped() {
        let hostile = "a\u{1b}]0;\u{7}b\u{9b}31m\rc\u{202e}d\tÄ\u{e0041}\u{200d}👩\n";
        let json = serde_json::to_string(hostile).unwrap();
        let shown = escaped(&json);
        assert!(!shown.chars().any(is_hidden), "{shown}");
        assert!(
            shown.contains("👩") && shown.contains("\\udb40\\udc41"),
            "{shown}"
        );
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), hostile);
    }

    #[test]
    fn only_the_erased_line_is_a_command_to_a_terminal() {
        let mut out = Vec::new();
        draw_at(&mut out, true, "a\u{1b}[2Jb\n");
        assert_eq!(String::from_utf8(out).unwrap(), "\r\u{1b}[Ka\\u{1b}[2Jb\n");
    }
}
