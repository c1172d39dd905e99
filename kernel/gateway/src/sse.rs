//! Server-sent events: where one ends and what it holds, whatever pieces they come in.

use bytes::{Bytes, BytesMut};

/// Most bytes of one event. More is no event stream.
const EVENT_LIMIT: usize = 16 << 20;

/// One event as it came: all its bytes, its end included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The bytes; those of all events together are those of the stream.
    pub raw: Bytes,
    /// The joined `data` lines.
    pub data: Vec<u8>,
    /// Its name; empty where it has none.
    pub name: Vec<u8>,
}

/// An event that does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the provider's stream has more than {EVENT_LIMIT} bytes")]
pub struct EndlessEvent;

/// Cuts a byte stream into server-sent events, whatever pieces it comes in.
#[derive(Debug, Default)]
pub struct Splitter {
    buffer: BytesMut,
    /// Bytes of `buffer` that were looked at.
    seen: usize,
    /// Where the line that `seen` is in starts.
    line: usize,
    after_cr: bool,
    name: Vec<u8>,
    data: Option<Vec<u8>>,
}

impl Splitter {
    /// Takes the next piece of the stream.
    pub fn feed(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// Bytes that were fed and are in no event yet.
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole event, if it is there.
    pub fn next(&mut self) -> Result<Option<Event>, EndlessEvent> {
        while self.seen < self.buffer.len() {
            let byte = self.buffer[self.seen];
            let start = self.line;
            self.seen += 1;
            match byte {
                b'\n' if self.after_cr => {
                    // The second half of a CR LF: its line ended with the CR.
                    self.after_cr = false;
                    self.line = self.seen;
                    if self.seen == 1 {
                        // Left over from an event that ended with the CR.
                        return Ok(Some(self.cut()));
                    }
                }
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    let end = self.seen - 1;
                    self.line = self.seen;
                    if end > start {
                        self.field(start, end);
                    } else {
                        if self.after_cr && self.buffer.get(self.seen) == Some(&b'\n') {
                            self.after_cr = false;
                            self.seen += 1;
                        }
                        return Ok(Some(self.cut()));
                    }
                }
                _ => self.after_cr = false,
            }
        }
        if self.buffer.len() > EVENT_LIMIT {
            Err(EndlessEvent)
        } else {
            Ok(None)
        }
    }

    /// What is left at the end of the stream: an event without its blank line.
    pub fn finish(&mut self) -> Option<Event> {
        if self.buffer.is_empty() {
            return None;
        }
        if self.line < self.buffer.len() {
            self.field(self.line, self.buffer.len());
        }
        self.seen = self.buffer.len();
        Some(self.cut())
    }

    fn field(&mut self, start: usize, end: usize) {
        let line = &self.buffer[start..end];
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"event" => self.name = value.to_vec(),
            b"data" => match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                none => *none = Some(value.to_vec()),
            },
            _ => {}
        }
    }

    fn cut(&mut self) -> Event {
        let raw = self.buffer.split_to(self.seen).freeze();
        self.seen = 0;
        self.line = 0;
        Event {
            raw,
            data: self.data.take().unwrap_or_default(),
            name: std::mem::take(&mut self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::untrusted::split;

    fn data(events: &[Event]) -> Vec<String> {
        events
            .iter()
            .filter(|e| !e.data.is_empty())
            .map(|e| String::from_utf8_lossy(&e.data).into_owned())
            .collect()
    }

    #[test]
    fn every_line_ending_and_every_cut_gives_the_same_events() {
        let unix = "\u{feff}event: a\ndata: 1\ndata:2\n: comment\nid: 7\n\n\ndata: 3\n\ndata\n\nevent:b\ndata: 4";
        for text in [
            unix.to_owned(),
            unix.replace('\n', "\r\n"),
            unix.replace('\n', "\r"),
        ] {
            for at in 0..=text.len() {
                let (left, right) = text.as_bytes().split_at(at);
                let events = split(&[left, right]);
                assert_eq!(data(&events), ["1\n2", "3", "4"], "cut at {at} of {text:?}");
                let raw: Vec<u8> = events.iter().flat_map(|event| event.raw.to_vec()).collect();
                assert_eq!(raw, text.as_bytes(), "cut at {at} of {text:?}");
                assert_eq!(events[0].name, b"a");
            }
            let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(data(&split(&single)), ["1\n2", "3", "4"]);
        }
    }

    #[test]
    fn an_event_is_given_out_as_soon_as_it_ends() {
        let mut splitter = Splitter::default();
        splitter.feed(b"data: 1\r\n\r");
        assert!(
            splitter.next().unwrap().is_some(),
            "its line feed is not waited for"
        );
        splitter.feed(b"\ndata: 2\n");
        let leftover = splitter.next().unwrap().unwrap();
        assert_eq!((&leftover.raw[..], leftover.data.len()), (&b"\n"[..], 0));
        assert_eq!(splitter.next().unwrap(), None);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut splitter = Splitter::default();
        let piece = vec![b'x'; 1 << 20];
        let outcome = (0..=16).try_for_each(|_| {
            splitter.feed(&piece);
            splitter.next().map(|event| assert!(event.is_none()))
        });
        assert_eq!(outcome, Err(EndlessEvent));
    }
}
