//! Lines of a content that comes in pieces.

/// A longer line is judged in parts of this many bytes.
const LONGEST: usize = 1 << 20;
/// Bytes that two parts of a line have in common, so that what stands at a cut is in one of them.
const OVERLAP: usize = 4 << 10;

/// Puts pieces of a content together to lines, without their ends.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The begin of a line whose end was not seen.
    open: Vec<u8>,
    /// Lines that ended.
    ended: u64,
}

impl Lines {
    /// Takes the next piece, and calls for each line or part of one, with its number from 1.
    pub(super) fn push(&mut self, mut piece: &[u8], line: &mut dyn FnMut(u64, &[u8])) {
        while !piece.is_empty() {
            let end = piece.iter().position(|byte| *byte == b'\n');
            let upto = end.unwrap_or(piece.len());
            let room = LONGEST - self.open.len();
            if upto >= room {
                self.open.extend_from_slice(&piece[..room]);
                piece = &piece[room..];
                line(self.ended + 1, &self.open);
                self.open.drain(..LONGEST - OVERLAP);
                continue;
            }
            if end.is_none() {
                self.open.extend_from_slice(piece);
                return;
            }
            match self.open.is_empty() {
                true => line(self.ended + 1, bare(&piece[..upto])),
                false => {
                    self.open.extend_from_slice(&piece[..upto]);
                    line(self.ended + 1, bare(&self.open));
                    self.open.clear();
                }
            }
            self.ended += 1;
            piece = &piece[upto + 1..];
        }
    }

    /// Calls for a last line that does not end.
    pub(super) fn finish(&mut self, line: &mut dyn FnMut(u64, &[u8])) {
        if !self.open.is_empty() {
            line(self.ended + 1, bare(&self.open));
            self.open.clear();
        }
    }
}

/// A line as it is compared: where it ends in CR LF, as if it ended in LF.
fn bare(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        let mut lines = Lines::default();
        for piece in pieces {
            lines.push(piece, &mut |number, line| all.push((number, line.to_vec())));
        }
        lines.finish(&mut |number, line| all.push((number, line.to_vec())));
        all
    }

    #[test]
    fn lines_are_the_same_however_a_content_is_cut() {
        let content = b"a\r\n\nbc\nd";
        let whole = lines(&[content]);
        let told: Vec<(u64, &[u8])> = whole.iter().map(|(n, line)| (*n, &line[..])).collect();
        assert_eq!(told, [(1, &b"a"[..]), (2, b""), (3, b"bc"), (4, b"d")]);
        for at in 0..content.len() {
            assert_eq!(lines(&[&content[..at], &content[at..]]), whole);
        }
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn a_long_line_comes_in_parts_that_overlap() {
        let mut content = vec![b'x'; 2 * LONGEST];
        content.extend_from_slice(b"\nend\n");
        let whole = lines(&[&content]);
        let sizes: Vec<(u64, usize)> = whole.iter().map(|(n, line)| (*n, line.len())).collect();
        assert_eq!(
            sizes,
            [(1, LONGEST), (1, LONGEST), (1, 2 * OVERLAP), (2, 3)]
        );
        let cut: Vec<&[u8]> = content.chunks(4097).collect();
        assert_eq!(lines(&cut), whole);
    }
}
