//! Bytes of others, and the laws that hold for all of them: streams of providers, answers,
//! requests, output of engines. Played on what chance makes, and on `tests/corpus`.

use crate::{
    api,
    keys::{Keys, Redactor},
    sse::{Event, Splitter},
    transcript::Transcripts,
};
use bytes::Bytes;
use factory_core::inbox::Usage;
use factory_ledger::{git::Git, places::Places};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// More than any count of one event that is believed.
const MOST_TOKENS: u64 = 1 << 42;

/// What is in a folder of the corpus, by name.
pub(crate) fn corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
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

/// Cuts `bytes` at some places.
pub(crate) fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|at| at % (bytes.len() + 1)).collect();
    cuts.push(0);
    cuts.push(bytes.len());
    cuts.sort();
    cuts.windows(2)
        .map(|ends| &bytes[ends[0]..ends[1]])
        .collect()
}

const WORDS: &[&str] = &[
    "data: ",
    "data:",
    "data",
    "event: ",
    "event:message_start",
    ": ",
    "id: 7",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\r\r",
    "\u{feff}",
    "[DONE]",
    "{",
    "}",
    "\"",
    ":",
    ",",
    "[",
    "]",
    "null",
    "true",
    "1e400",
    "-1",
    "18446744073709551615",
    "3.9",
    "\"type\":",
    "\"usage\":",
    "\"message\":",
    "\"model\":",
    "\"input_tokens\":",
    "\"output_tokens\":",
    "\"prompt_tokens\":",
    "\"completion_tokens\":",
    "\"cached_tokens\":",
    "\"message_start\"",
    "\"message_delta\"",
    "\"message_stop\"",
    "\"response.completed\"",
    "\"response.failed\"",
    "\"response\":",
    "\"choices\":",
    "\"delta\":",
    "\"error\":",
    "\"code\":",
    "\"insufficient_quota\"",
    "\"stream\":true",
    "\"stream_options\":",
    "data: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":5}}}\n\n",
    "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":1e30}}\n\n",
    "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":7,\"input_tokens_details\":{\"cached_tokens\":9}}}}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"prompt_tokens_details\":{\"cached_tokens\":9}}}\n\n",
    "data: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"\\ud83d\"}}\n\n",
];

/// Bytes that are nearly a stream of events.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..6),
    ];
    vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// The events of a stream that comes in these pieces.
pub(crate) fn split(pieces: &[&[u8]]) -> Vec<Event> {
    let mut splitter = Splitter::default();
    let mut events = Vec::new();
    for piece in pieces {
        splitter.feed(piece);
        while let Some(event) = splitter.next().unwrap() {
            events.push(event);
        }
    }
    events.extend(splitter.finish());
    events
}

/// What the events of a stream say. One that says nothing may come alone or not.
fn said(events: &[Event]) -> Vec<(&[u8], &[u8])> {
    let all = events
        .iter()
        .map(|event| (&event.name[..], &event.data[..]));
    all.filter(|(name, data)| !name.is_empty() || !data.is_empty())
        .collect()
}

fn stream_holds(bytes: &[u8], cuts: &[usize]) {
    let whole = split(&[bytes]);
    let cut = split(&pieces(bytes, cuts));
    for events in [&whole, &cut] {
        let raw: Vec<u8> = events.iter().flat_map(|event| event.raw.to_vec()).collect();
        assert_eq!(raw, bytes, "no byte is lost or moved");
    }
    assert_eq!(said(&whole), said(&cut), "however it is cut");
    for api in api::ALL {
        let mut meter = api::meter(api, "model".to_owned());
        let mut was_told = false;
        for event in &whole {
            meter.event(event);
            meter.keep_alive();
            let usage = meter.usage();
            let counts = [
                usage.input_tokens,
                usage.output_tokens,
                usage.cache_read_tokens,
                usage.cache_write_tokens,
            ];
            let most = MOST_TOKENS + bytes.len() as u64;
            assert!(counts.iter().all(|count| *count <= most), "{usage:?}");
            let told = meter.is_told();
            assert!(told || !was_told, "what is told stays told");
            was_told = told;
        }
    }
}

fn body_holds(bytes: &[u8]) {
    for api in api::ALL {
        let mut meter = api::meter(api, "model".to_owned());
        meter.body(bytes);
        assert!(
            meter.usage().input_tokens <= MOST_TOKENS,
            "{:?}",
            meter.usage()
        );
        let sent = api::request(api, Bytes::copy_from_slice(bytes));
        match serde_json::from_slice::<Value>(bytes) {
            Err(_) => assert_eq!(sent, bytes, "what is no request is sent as it is"),
            Ok(_) => drop(serde_json::from_slice::<Value>(&sent).unwrap()),
        }
    }
    assert!(api::tokens_of(bytes) <= bytes.len() as u64);
    assert!(api::error_message(bytes).len() <= 3 * bytes.len());
    assert!(api::requested_model(bytes).len() <= bytes.len());
    assert!(api::no_credit(bytes).is_none_or(|words| words.len() <= bytes.len()));
}

/// Places of a repository that lives as long as the folder.
fn places(folder: &tempfile::TempDir) -> Places {
    let git = Git::new(folder.path());
    git.run(["init", "-q"]).unwrap();
    let who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"];
    let commit = ["commit", "-q", "--allow-empty", "-m", "one"];
    git.run([&who[..], &commit[..]].concat()).unwrap();
    let places = Places::discover(folder.path()).unwrap();
    places.ensure_dirs().unwrap();
    places
}

/// The transcript of an engine that writes these pieces.
fn written(places: &Places, pieces: &[&[u8]]) -> Vec<u8> {
    let keys = Keys::new(BTreeMap::new(), None, Redactor::default());
    let run = "r1-1".parse().unwrap();
    let path = places.transcript(run);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
    let transcripts = Transcripts::new(places);
    let mut lines = transcripts.lines(run);
    for piece in pieces {
        lines.feed(piece, 7, &keys);
    }
    lines.finish(7, &keys);
    transcripts.call(run, 7, &Usage::default());
    std::fs::read(path).unwrap()
}

#[test]
fn nasty_streams() {
    for (name, bytes) in corpus("stream") {
        let held = std::panic::catch_unwind(|| {
            for cuts in [&[1][..], &[3, 5, 8, 13, 21, 34, 55, 89, 144]] {
                stream_holds(&bytes, cuts);
            }
            body_holds(&bytes);
        });
        assert!(held.is_ok(), "{name}");
    }
}

proptest! {
    #[test]
    fn a_stream_says_what_was_put_in(
        events in vec(("[a-z]{1,8}", vec("[^\\r\\n]{0,12}", 1..4)), 0..5), end in select(vec!["\n", "\r", "\r\n"]), cuts in vec(any::<usize>(), 0..6),
    ) {
        let mut stream = String::new();
        for (name, data) in &events {
            stream.push_str(&format!(": a comment{end}event: {name}{end}"));
            for line in data {
                stream.push_str(&format!("data: {line}{end}"));
            }
            stream.push_str(end);
        }
        let seen = split(&pieces(stream.as_bytes(), &cuts));
        let meant: Vec<_> = events.iter().map(|(name, data)| (name.clone(), data.join("\n"))).collect();
        let meant: Vec<_> = meant.iter().map(|(name, data)| (name.as_bytes(), data.as_bytes())).collect();
        prop_assert_eq!(said(&seen), meant);
    }

    #[test]
    fn streams_say_the_same_however_they_are_cut(bytes in stream(), cuts in vec(any::<usize>(), 0..6)) {
        stream_holds(&bytes, &cuts);
    }

    #[test]
    fn bodies_are_counted_within_bounds(bytes in stream()) {
        body_holds(&bytes);
    }
}

proptest! {
    // Each opens files.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

    #[test]
    fn transcripts_are_the_same_however_the_output_is_cut(bytes in stream(), cuts in vec(any::<usize>(), 0..6)) {
        let folder = tempfile::tempdir().unwrap();
        let places = places(&folder);
        let whole = written(&places, &[&bytes]);
        prop_assert_eq!(&written(&places, &pieces(&bytes, &cuts)), &whole);
        let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
        let rest = usize::from(bytes.last().is_some_and(|byte| *byte != b'\n'));
        prop_assert_eq!(lines.len(), ends + rest + 1, "one entry for each line and one for the call");
    }
}
