//! What a pack unpacks to, read from the pack before anything of it is unpacked: 512 MiB of
//! a pack may hold a thousand times as much, and millions of objects.

use super::inspect::InspectError;
use super::pkt::PackHeader;
use super::refusal::PushRefusal;
use flate2::{Decompress, FlushDecompress, Status};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};

/// Most objects of a push.
const OBJECTS: u32 = 1_000_000;
/// Most bytes that all of them have, unpacked, with the deltas that some are made by.
const BYTES: u64 = 2 << 30;
/// Most bytes of a commit, as far as it can be told from its pack.
const COMMIT_BYTES: u64 = 1 << 20;
/// Most bytes of a tree or a tag, which git unpacks in memory.
const TREE_BYTES: u64 = 32 << 20;
/// Most bytes of what is made from another object, which git unpacks in memory. A file that
/// is larger than a push may bring is unpacked piece by piece where it stands for itself,
/// and refused by its path.
const MADE_BYTES: u64 = 128 << 20;
/// What one zlib stream is read in.
const PIECE: usize = 32 << 10;

/// A pack that may be unpacked.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// Objects that others in the pack are made from, by their names.
    pub(super) bases: Vec<[u8; 20]>,
}

/// Reads a pack through, and refuses it where it is too much.
pub(super) fn measure(
    mut spool: impl Read + Seek,
    pack: PackHeader,
    stop: &dyn Fn() -> bool,
) -> Result<Unpacked, InspectError> {
    if pack.objects > OBJECTS {
        let rule = format!(
            "a push has at most {OBJECTS} objects, and this one {}",
            pack.objects
        );
        return Err(PushRefusal::Bulk { rule }.into());
    }
    // Behind "PACK", version and count.
    spool
        .seek(SeekFrom::Start(pack.offset + 12))
        .map_err(InspectError::Spool)?;
    let mut reader = Reader {
        input: BufReader::with_capacity(PIECE, spool),
        stream: Decompress::new(true),
        piece: vec![0; PIECE],
        stop,
    };
    let mut unpacked = Unpacked { bases: Vec::new() };
    let mut bytes = 0_u64;
    for _ in 0..pack.objects {
        let size = reader.object(&mut unpacked.bases, BYTES - bytes)?;
        bytes += size;
    }
    unpacked.bases.sort_unstable();
    unpacked.bases.dedup();
    Ok(unpacked)
}

struct Reader<'a, R> {
    input: BufReader<R>,
    stream: Decompress,
    piece: Vec<u8>,
    stop: &'a dyn Fn() -> bool,
}

impl<R: Read> Reader<'_, R> {
    /// Reads one object; its size, unpacked, with that of its delta.
    fn object(&mut self, bases: &mut Vec<[u8; 20]>, room: u64) -> Result<u64, InspectError> {
        if (self.stop)() {
            return Err(InspectError::Stopped);
        }
        let first = self.byte()?;
        let size = self.varint(u64::from(first & 0x0f), 4, first)?;
        let kind = (first >> 4) & 7;
        let limit = match kind {
            1 => COMMIT_BYTES,
            2 | 4 => TREE_BYTES,
            3 => u64::MAX,
            6 => {
                // How far back its base is.
                while self.byte()? & 0x80 != 0 {}
                MADE_BYTES
            }
            7 => {
                let mut base = [0; 20];
                self.input.read_exact(&mut base).map_err(broken)?;
                bases.push(base);
                MADE_BYTES
            }
            _ => return Err(malformed("an object is of no known kind")),
        };
        let is_made = matches!(kind, 6 | 7);
        // Of a delta this is its own size; it is unpacked as well.
        if size > limit || size > room {
            return Err(too_large(size, limit));
        }
        let begin = self.stream(size)?;
        let made = match is_made {
            true => {
                made_size(&begin[..begin.len().min(usize::try_from(size).unwrap_or(usize::MAX))])
                    .ok_or_else(|| malformed("a delta is too short"))?
            }
            false => size,
        };
        let all = if is_made { size + made } else { size };
        if made > limit || all > room {
            return Err(too_large(made, limit));
        }
        Ok(all)
    }

    /// Reads one zlib stream, which unpacks to `size` bytes; gives the first of them.
    fn stream(&mut self, size: u64) -> Result<[u8; 20], InspectError> {
        self.stream.reset(true);
        let mut begin = [0; 20];
        let wrong = || malformed("an object is not what its size says");
        loop {
            let input = self.input.fill_buf().map_err(InspectError::Spool)?;
            let ended = input.is_empty();
            let (read, made) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(input, &mut self.piece, FlushDecompress::None);
            let status = status.map_err(|_| malformed("an object is not packed by zlib"))?;
            let consumed = self.stream.total_in() - read;
            self.input
                .consume(usize::try_from(consumed).unwrap_or(usize::MAX));
            let now = self.stream.total_out();
            for (at, byte) in (made..now).zip(&self.piece) {
                let Some(place) = usize::try_from(at).ok().and_then(|at| begin.get_mut(at)) else {
                    break;
                };
                *place = *byte;
            }
            if now > size {
                return Err(wrong());
            }
            match status {
                Status::StreamEnd if now == size => return Ok(begin),
                Status::StreamEnd => return Err(wrong()),
                Status::Ok | Status::BufError => {
                    if ended && now == made {
                        return Err(malformed("it breaks off"));
                    }
                }
            }
            if (self.stop)() {
                return Err(InspectError::Stopped);
            }
        }
    }

    /// A number that began in the low bits of `byte`: seven bits more in each that follows.
    fn varint(
        &mut self,
        mut number: u64,
        mut shift: u32,
        mut byte: u8,
    ) -> Result<u64, InspectError> {
        while byte & 0x80 != 0 {
            byte = self.byte()?;
            let more = u64::from(byte & 0x7f);
            if shift > 56 {
                return Err(malformed("an object's size has too many digits"));
            }
            number |= more << shift;
            shift += 7;
        }
        Ok(number)
    }

    fn byte(&mut self) -> Result<u8, InspectError> {
        let mut byte = [0];
        self.input.read_exact(&mut byte).map_err(broken)?;
        Ok(byte[0])
    }
}

/// The size that a delta begins with second, after that of its base.
fn made_size(begin: &[u8]) -> Option<u64> {
    let mut bytes = begin.iter();
    let mut number = || {
        let (mut number, mut shift) = (0_u64, 0);
        loop {
            let byte = bytes.next()?;
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(number);
            }
            if shift > 56 {
                return None;
            }
        }
    };
    number()?;
    number()
}

fn too_large(size: u64, limit: u64) -> InspectError {
    let rule = match size > limit {
        true => format!("an object of this kind has at most {limit} bytes, and one has {size}"),
        false => format!("a push unpacks to at most {BYTES} bytes"),
    };
    PushRefusal::Bulk { rule }.into()
}

fn malformed(problem: &str) -> InspectError {
    let problem = format!("its pack cannot be read: {problem}");
    PushRefusal::Unreadable { problem }.into()
}

fn broken(error: io::Error) -> InspectError {
    match error.kind() {
        ErrorKind::UnexpectedEof => malformed("it breaks off"),
        _ => InspectError::Spool(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::ZlibEncoder};
    use proptest::prelude::*;
    use std::io::{Cursor, Write};

    fn zipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn header(kind: u8, mut size: u64) -> Vec<u8> {
        let mut byte = kind << 4 | (size & 0x0f) as u8;
        size >>= 4;
        let mut out = Vec::new();
        while size > 0 {
            out.push(byte | 0x80);
            byte = (size & 0x7f) as u8;
            size >>= 7;
        }
        out.push(byte);
        out
    }

    fn object(kind: u8, size: u64, between: &[u8], bytes: &[u8]) -> Vec<u8> {
        [header(kind, size), between.to_vec(), zipped(bytes)].concat()
    }

    fn delta(made: u64) -> Vec<u8> {
        let mut out = vec![1];
        let mut left = made;
        while left > 0x7f {
            out.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        out.push(left as u8);
        out.push(0x90);
        out
    }

    fn read(objects: u32, bytes: &[u8]) -> Result<Unpacked, String> {
        let pack = PackHeader { offset: 3, objects };
        let spool = [b"...PACK\0\0\0\x02\0\0\0\0", bytes].concat();
        measure(Cursor::new(spool), pack, &|| false).map_err(|error| match error {
            InspectError::Refused(refusal) => refusal.to_string(),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn a_pack_is_read_and_its_bases_are_named() {
        let one = delta(300);
        let pack = [
            object(3, 5, b"", b"hello"),
            object(1, 40_000, b"", &[b'x'; 40_000]),
            object(6, one.len() as u64, &[0x81, 0x02], &one),
            object(7, one.len() as u64, &[9; 20], &one),
            object(7, one.len() as u64, &[7; 20], &one),
            b"the rest is git's to judge".to_vec(),
        ];
        assert_eq!(read(5, &pack.concat()).unwrap().bases, [[7; 20], [9; 20]]);
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused() {
        let gib = delta(1 << 30);
        let rows = [
            (OBJECTS + 1, vec![], "at most 1000000 objects"),
            (
                1,
                object(3, 3 << 30, b"", b""),
                "unpacks to at most 2147483648 bytes",
            ),
            (
                1,
                object(1, 2 << 20, b"", b""),
                "at most 1048576 bytes, and one has 2097152",
            ),
            (1, object(2, 40 << 20, b"", b""), "at most 33554432 bytes"),
            (
                1,
                object(7, gib.len() as u64, &[9; 20], &gib),
                "at most 134217728 bytes, and one has 1073741824",
            ),
        ];
        for (objects, bytes, word) in rows {
            let refused = read(objects, &bytes).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
        // Each within its bounds, and not together.
        let made = delta(100 << 20);
        let one = object(7, made.len() as u64, &[9; 20], &made);
        assert!(read(20, &one.repeat(20)).is_ok());
        let refused = read(21, &one.repeat(21)).unwrap_err();
        assert!(refused.contains("unpacks to at most"), "{refused}");
        // Deltas that make little are unpacked as well.
        let long = [delta(1), vec![0; 30 << 20]].concat();
        let long = object(7, long.len() as u64, &[9; 20], &long);
        let both = |deltas: usize| [one.repeat(20), long.repeat(deltas)].concat();
        assert!(read(21, &both(1)).is_ok());
        let refused = read(22, &both(2)).unwrap_err();
        assert!(refused.contains("unpacks to at most"), "{refused}");
    }

    #[test]
    fn what_is_no_pack_is_told_so() {
        for bytes in [
            vec![],
            vec![0x30],
            vec![0xff; 30],
            object(0, 1, b"", b"x"),
            object(5, 1, b"", b"x"),
            object(3, 1, b"", b"xy"),
            object(3, 3, b"", b"xy"),
            object(3, 2, b"", b"xy")[..6].to_vec(),
            object(7, 1, &[9; 20], b"\x80"),
            object(7, 1, &[9; 4], b""),
        ] {
            let refused = read(1, &bytes).unwrap_err();
            assert!(
                refused.contains("its pack cannot be read"),
                "{bytes:?} {refused}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(objects in 0_u32..9, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            read(objects, &bytes).ok();
        }
    }
}
