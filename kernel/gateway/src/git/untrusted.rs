//! Bytes of others where git is spoken: the beginning of a push, and its packing.

use super::{
    body::{SpoolError, spool},
    pkt::{self, PushRequest, read_request},
};
use crate::untrusted::{corpus, pieces};
use bytes::Bytes;
use factory_core::ids::Oid;
use flate2::{Compression, write::GzEncoder};
use http_body_util::StreamBody;
use hyper::body::Frame;
use proptest::{collection::vec, prelude::*, sample::Index};
use std::io::{Cursor, Read as _, Seek as _, Write as _};

fn oid() -> impl Strategy<Value = Oid> {
    "[0-9a-f]{40}".prop_map(|text| text.parse().unwrap())
}

fn reference() -> impl Strategy<Value = String> {
    prop_oneof![
        "refs/heads/[a-z0-9/.-]{1,30}",
        "[^\\x00-\\x1f\\x7f-\\x9f]{1,30}",
    ]
}

/// The lines of a packet stream up to each flush; none where it is none.
fn unpacked(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let length = std::str::from_utf8(bytes.get(..4)?).ok()?;
        let length = usize::from_str_radix(length, 16).ok()?.max(4);
        out.push(bytes.get(4..length)?.to_vec());
        bytes = &bytes[length..];
    }
    Some(out)
}

fn read(bytes: &[u8]) -> PushRequest {
    read_request(&mut Cursor::new(bytes.to_vec())).unwrap()
}

fn push_holds(bytes: &[u8]) {
    let request = read(bytes);
    let names: usize = request
        .commands
        .iter()
        .map(|update| update.name.len())
        .sum();
    assert!(names <= bytes.len());
    for update in &request.commands {
        assert!(!update.name.chars().any(char::is_control), "{update:?}");
    }
    if let Some(pack) = request.pack {
        assert_eq!(&bytes[pack.offset as usize..][..4], b"PACK");
    }
    // Whatever was read is refused in a form that git reads.
    if let Some(answer) = pkt::refusal(&request, "no", &"why ".repeat(40_000)) {
        let packets = unpacked(&answer).unwrap();
        assert!(packets.len() > 1 && answer.ends_with(b"0000"));
        let bands: Vec<u8> = match request.side_band {
            true => packets
                .iter()
                .filter(|p| p.first() == Some(&1))
                .flat_map(|p| p[1..].to_vec())
                .collect(),
            false => answer.clone(),
        };
        let report = unpacked(&bands).unwrap();
        let refused = report
            .iter()
            .filter(|line| line.starts_with(b"ng "))
            .count();
        assert_eq!(refused, request.commands.len());
    }
}

#[test]
fn nasty_pushes() {
    for (name, bytes) in corpus("push") {
        let held = std::panic::catch_unwind(|| push_holds(&bytes));
        assert!(held.is_ok(), "{name}");
    }
}

proptest! {
    #[test]
    fn a_push_is_read_as_it_was_written(
        updates in vec((oid(), oid(), reference()), 1..5), side_band: bool, objects: u32, at in any::<Index>(), put in vec(any::<u8>(), 0..6),
    ) {
        let mut bytes = Vec::new();
        for (k, (old, new, name)) in updates.iter().enumerate() {
            let mut line = format!("{old} {new} {name}");
            if k == 0 {
                line.push_str("\0report-status");
                line.push_str(if side_band { " side-band-64k" } else { "" });
            }
            pkt::packet(line.as_bytes(), &mut bytes);
        }
        bytes.extend_from_slice(b"0000");
        let offset = bytes.len() as u64;
        bytes.extend_from_slice(b"PACK\0\0\0\x02");
        bytes.extend_from_slice(&objects.to_be_bytes());
        let request = read(&bytes);
        prop_assert_eq!(&request.problem, &None);
        prop_assert_eq!(request.side_band, side_band);
        prop_assert_eq!(request.pack.map(|pack| (pack.offset, pack.objects)), Some((offset, objects)));
        let seen: Vec<_> = request.commands.iter().map(|u| (u.old.clone(), u.new.clone(), u.name.clone())).collect();
        prop_assert_eq!(seen, updates);
        push_holds(&bytes);
        // And damaged.
        let at = at.index(bytes.len());
        bytes.splice(at..(at + put.len()).min(bytes.len()), put);
        push_holds(&bytes);
        bytes.truncate(at);
        push_holds(&bytes);
    }

    #[test]
    fn no_bytes_are_more_than_a_wrong_push(bytes in vec(any::<u8>(), 0..200)) {
        push_holds(&bytes);
    }
}

/// What is kept of a body that comes in pieces.
fn kept(bytes: &[u8], cuts: &[usize], gzip: bool) -> Result<(Vec<u8>, bool), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let frames = pieces(bytes, cuts)
            .into_iter()
            .map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::copy_from_slice(piece))));
        let frames: Vec<_> = frames.collect();
        let body = StreamBody::new(futures_util::stream::iter(frames));
        match spool(body, gzip, 300, folder.path()).await {
            Ok(mut spool) => {
                let mut text = Vec::new();
                spool.file.rewind().unwrap();
                spool.file.read_to_end(&mut text).unwrap();
                Ok((text, spool.over))
            }
            // Which of the two is seen first depends on where it is cut.
            Err(SpoolError::NotGzip(_) | SpoolError::Endless) => Err("refused".to_owned()),
            Err(other) => Err(format!("{other:?}")),
        }
    })
}

proptest! {
    // Each opens files.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn a_body_is_the_same_however_it_is_cut(
        text in vec(0u8..4, 0..600), at in any::<Index>(), put in vec(any::<u8>(), 0..3), cuts in vec(any::<usize>(), 0..5),
    ) {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&text).unwrap();
        let mut zipped = encoder.finish().unwrap();
        let (whole, over) = kept(&zipped, &cuts, true).unwrap();
        prop_assert_eq!((&whole[..], over), (&text[..text.len().min(300)], text.len() > 300));
        let at = at.index(zipped.len());
        zipped.splice(at..(at + put.len()).min(zipped.len()), put);
        let damaged = kept(&zipped, &[], true);
        prop_assert_eq!(&kept(&zipped, &cuts, true), &damaged);
        prop_assert!(damaged.is_err() || damaged == Ok((whole, over)) || zipped.len() < 30, "{damaged:?}");
        prop_assert_eq!(kept(&zipped, &cuts, false).unwrap().0, &zipped[..zipped.len().min(300)]);
    }
}
