//! Bounded views of what a process writes: lines, last line, head and tail.

use bytes::Bytes;

/// A longer line is cut in the transcript.
pub const MAX_LINE: usize = 1024 * 1024;
/// A longer last line is cut in the run's end.
pub const MAX_LAST: usize = 64 * 1024;
/// What of standard error is in the run's end.
pub const MAX_STDERR: usize = 4 * 1024;
/// Beginning of a check's output that is kept.
const HEAD: usize = 4 * 1024;
/// End of a check's output that is kept; the rest of 16 KiB is for our words.
const TAIL: usize = 11 * 1024;

/// Turns pieces of output into whole lines, at most [`MAX_LINE`] each.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    cut: bool,
    last: Vec<u8>,
}

impl Lines {
    /// Takes a piece and gives back the lines it completes, each with its newline.
    pub fn take(&mut self, mut piece: &[u8]) -> Bytes {
        let mut whole = Vec::new();
        while let Some(at) = piece.iter().position(|b| *b == b'\n') {
            self.add(&piece[..at]);
            piece = &piece[at + 1..];
            self.finish(&mut whole);
        }
        self.add(piece);
        whole.into()
    }

    /// Gives back what is left without a newline at the end of the output.
    pub fn end(&mut self) -> Bytes {
        let mut whole = Vec::new();
        if !self.partial.is_empty() {
            self.finish(&mut whole);
        }
        whole.into()
    }

    fn add(&mut self, piece: &[u8]) {
        let room = MAX_LINE - self.partial.len();
        self.cut |= piece.len() > room;
        self.partial
            .extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn finish(&mut self, whole: &mut Vec<u8>) {
        if self.partial.iter().any(|b| !b.is_ascii_whitespace()) {
            self.last.clear();
            self.last
                .extend_from_slice(&self.partial[..self.partial.len().min(MAX_LAST)]);
        }
        whole.append(&mut self.partial);
        if std::mem::take(&mut self.cut) {
            whole.extend_from_slice(" [line cut by factory-agent]".as_bytes());
        }
        whole.push(b'\n');
    }

    /// The last line that is not blank, at most [`MAX_LAST`] bytes.
    pub fn last(&self) -> String {
        text(&self.last, MAX_LAST)
    }
}

/// The last bytes of an output.
#[derive(Debug)]
pub struct Tail {
    limit: usize,
    kept: Vec<u8>,
    dropped: u64,
}

impl Tail {
    /// Keeps the last `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            kept: Vec::new(),
            dropped: 0,
        }
    }

    /// Takes a piece.
    pub fn take(&mut self, piece: &[u8]) {
        self.kept.extend_from_slice(piece);
        // Twice the limit before it moves anything: bounded, and linear in time.
        if self.kept.len() > 2 * self.limit {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let excess = self.kept.len().saturating_sub(self.limit);
        self.dropped += excess as u64;
        self.kept.drain(..excess);
    }

    /// The text, at most the limit in bytes.
    pub fn text(&mut self) -> String {
        self.trim();
        let text = String::from_utf8_lossy(&self.kept);
        let excess = text.len().saturating_sub(self.limit);
        let from = (excess..=text.len())
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(text.len());
        text[from..].to_owned()
    }
}

/// Beginning and end of an output of any length.
#[derive(Debug)]
pub struct Trimmed {
    head: Vec<u8>,
    tail: Tail,
}

impl Trimmed {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            head: Vec::new(),
            tail: Tail::new(TAIL),
        }
    }

    /// Takes a piece.
    pub fn take(&mut self, piece: &[u8]) {
        let (head, tail) = piece.split_at(piece.len().min(HEAD - self.head.len()));
        self.head.extend_from_slice(head);
        self.tail.take(tail);
    }

    /// The text, with a line where something was left out.
    pub fn text(&mut self) -> String {
        let tail = self.tail.text();
        let head = text(&self.head, HEAD);
        match self.tail.dropped {
            0 => head + &tail,
            dropped => format!("{head}\n[{dropped} bytes left out]\n{tail}"),
        }
    }
}

/// Readable text of at most `limit` bytes, from the beginning.
pub fn text(bytes: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let to = (0..=limit.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    text[..to].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_wherever_the_pieces_are_cut() {
        let input = b"one\ntwo\n\n  \nthree".as_slice();
        for size in 1..input.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for piece in input.chunks(size) {
                let whole = lines.take(piece);
                assert!(whole.is_empty() || whole.ends_with(b"\n"), "{whole:?}");
                seen.extend_from_slice(&whole);
            }
            assert_eq!(lines.last(), "two");
            seen.extend_from_slice(&lines.end());
            assert_eq!(seen, b"one\ntwo\n\n  \nthree\n");
            assert_eq!(lines.last(), "three");
        }
    }

    #[test]
    fn an_endless_line_is_cut_and_the_next_one_is_whole() {
        let mut lines = Lines::default();
        let mut seen = 0;
        for _ in 0..5 {
            seen += lines.take(&vec![b'x'; MAX_LINE / 2]).len();
        }
        assert_eq!(seen, 0);
        let whole = lines.take(b"\nnext\n");
        assert!(whole.len() < MAX_LINE + 100, "{}", whole.len());
        assert!(whole.ends_with(b"xx [line cut by factory-agent]\nnext\n"));
        assert_eq!(lines.last(), "next");
    }

    #[test]
    fn the_tail_is_bounded_in_bytes_even_for_broken_utf8() {
        let mut tail = Tail::new(100);
        for _ in 0..1000 {
            tail.take(&[0xff; 7]);
        }
        tail.take("ende ü".as_bytes());
        let text = tail.text();
        assert!(text.len() <= 100 && text.ends_with("ende ü"), "{text}");
    }

    #[test]
    fn trimming_keeps_both_ends_and_says_what_is_missing() {
        let mut short = Trimmed::new();
        short.take(b"all of it");
        assert_eq!(short.text(), "all of it");

        let mut long = Trimmed::new();
        long.take(b"BEGIN");
        for _ in 0..1000 {
            long.take(&[b'.'; 1000]);
        }
        long.take(b"END");
        let text = long.text();
        assert!(text.starts_with("BEGIN.") && text.ends_with(".END"));
        assert!(
            text.contains(&format!("[{} bytes left out]", 1_000_008 - HEAD - TAIL)),
            "{}",
            &text[HEAD..HEAD + 60]
        );
        assert!(text.len() < 16 * 1024);
    }
}
