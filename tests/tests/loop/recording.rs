//! The terminal session in `docs/demo.cast` (asciicast, version 2): made from a
//! real `factory demo`, and held against one, so that it shows what is printed today.

use factory_tests::Lab;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::Read,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

/// Names the file that a new recording is written to: `make record`.
const RECORD: &str = "FACTORY_RECORD";
/// What a terminal does before a status line: it goes to the beginning of the line and clears it.
const REDRAW: &str = "\r\u{1b}[K";
/// What a run says as often as time allows. Where one is reworded, it is reworded here.
const OPTIONAL: [&str; 4] = [
    "saved its work in progress",
    "running in slot N",
    " model call",
    " model calls",
];

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/demo.cast")
}

/// Output on a terminal, each piece with the second at which it came.
struct Recording(Vec<(f64, String)>);

impl Recording {
    /// `factory demo`, with an image that is there.
    fn make(lab: &Lab) -> Self {
        lab.git(&["commit", "--quiet", "--allow-empty", "--message", "Begin"]);
        lab.ok(&["image", "build"]);
        let mut child = lab
            .on_a_terminal(&["demo"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let (began, mut piece) = (Instant::now(), vec![0; 64 << 10]);
        let (mut events, mut held) = (Vec::new(), Vec::new());
        loop {
            let n = out.read(&mut piece).unwrap();
            held.extend(&piece[..n]);
            // A character may come in two pieces.
            let whole = match std::str::from_utf8(&held) {
                Ok(text) => text.len(),
                Err(error) => error.valid_up_to(),
            };
            if whole > 0 {
                let text = String::from_utf8(held.drain(..whole).collect()).unwrap();
                let millis = u32::try_from(began.elapsed().as_millis()).unwrap();
                events.push((f64::from(millis) / 1000.0, text));
            }
            if n == 0 {
                break;
            }
        }
        assert!(held.is_empty(), "no UTF-8: {held:?}");
        let recording = Self(events);
        assert!(child.wait().unwrap().success(), "{}", recording.text());
        recording
    }

    fn write(&self) -> String {
        let header = json!({"version": 2, "width": 100, "height": 40, "title": "factory demo", "command": "factory demo"});
        let events = self.0.iter().map(|(time, text)| json!([time, "o", text]));
        let lines: Vec<String> = [header]
            .into_iter()
            .chain(events)
            .map(|line| format!("{line}\n"))
            .collect();
        lines.concat()
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.lines().map(|line| {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        });
        let header = lines.next().unwrap();
        assert_eq!(header["version"], 2);
        assert!(header["width"].is_u64() && header["height"].is_u64());
        let events: Vec<(f64, String)> = lines
            .map(|event| {
                let [time, kind, text] = event.as_array().unwrap().as_slice() else {
                    panic!("no event: {event}");
                };
                assert_eq!(kind, "o");
                (time.as_f64().unwrap(), text.as_str().unwrap().to_owned())
            })
            .collect();
        assert!(events.is_sorted_by(|a, b| a.0 <= b.0), "time goes on");
        Self(events)
    }

    fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// What stays on the screen, without what differs from run to run.
    fn stays(&self) -> String {
        let text = self.text();
        let lines: Vec<String> = text
            .lines()
            .map(|line| masked(line.rsplit(REDRAW).next().unwrap_or_default()))
            .collect();
        let mut all = Vec::new();
        for block in lines.chunk_by(|a, b| is_step(a) == is_step(b)) {
            match block.first().is_some_and(|line| is_step(line)) {
                false => all.extend(block.iter().cloned()),
                true => all.extend(steps(block)),
            }
        }
        all.join("\n")
    }

    /// The shapes of the status lines that were drawn over.
    fn status_lines(&self) -> BTreeSet<String> {
        let text = self.text();
        let drawn = text
            .lines()
            .flat_map(|line| line.split(REDRAW))
            .filter(|piece| piece.starts_with("slots: "))
            .map(|piece| numbers(piece, |_| true));
        drawn.collect()
    }
}

/// A step of the factory, with its time masked.
fn is_step(line: &str) -> bool {
    line.starts_with("TIME  ")
}

/// Steps by whom they are about: only their order for one job or run is certain.
fn steps(block: &[String]) -> Vec<String> {
    let mut kept: Vec<(&str, String)> = Vec::new();
    for line in block {
        let (about, what) = line.split_once(": ").unwrap();
        for fact in what.split(", ") {
            let any_number = fact.trim_start_matches(|c: char| c.is_ascii_digit());
            if !OPTIONAL.contains(&any_number) {
                kept.push((about, format!("{about}: {fact}")));
            }
        }
    }
    kept.sort_by_key(|(about, _)| *about);
    kept.into_iter().map(|(_, line)| line).collect()
}

/// A line without times, object ids, numbers of processes and slots, and the temporary folder.
fn masked(line: &str) -> String {
    const FOLDER: &str = "/factory-demo-";
    let mut out = String::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let word = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_alphanumeric())
                .len();
        let is_id = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() && b <= b'f')
        };
        rest = if let Some(after) = after_time(rest) {
            out.push_str("TIME");
            after
        } else if word >= 7 && is_id(&rest[..word]) {
            out.push_str("ID");
            &rest[word..]
        } else if word > 0 {
            out.push_str(&rest[..word]);
            &rest[word..]
        } else {
            out.push(c);
            &rest[c.len_utf8()..]
        };
    }
    // The whole path up to it is this machine's.
    if let Some((before, after)) = out.split_once(FOLDER) {
        let before = before.rsplit_once(' ').map_or("", |(before, _)| before);
        let after = after.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        out = format!("{before} FOLDER{after}");
    }
    numbers(&out, |before| {
        before.ends_with("(pid ") || before.ends_with("slot ")
    })
}

/// What follows a time like `2026-11-26 07:46:17Z`.
fn after_time(text: &str) -> Option<&str> {
    const SHAPE: &[u8] = b"0000-00-00 00:00:00Z";
    let is_one = |(shape, b): (&u8, &u8)| match shape {
        b'0' => b.is_ascii_digit(),
        other => other == b,
    };
    let bytes = text.as_bytes().get(..SHAPE.len())?;
    SHAPE
        .iter()
        .zip(bytes)
        .all(is_one)
        .then(|| &text[SHAPE.len()..])
}

/// Numbers as `N`, where what stands before one says that it may be any.
fn numbers(text: &str, is_any: impl Fn(&str) -> bool) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let taken = digits.max(c.len_utf8());
        match digits > 0 && is_any(&out) {
            true => out.push('N'),
            false => out.push_str(&rest[..taken]),
        }
        rest = &rest[taken..];
    }
    out
}

#[test]
fn the_recording_shows_what_the_demo_prints() {
    let fresh = Recording::make(&Lab::new());
    if let Some(file) = std::env::var_os(RECORD) {
        std::fs::write(file, fresh.write()).unwrap();
    }
    let text = std::fs::read_to_string(committed()).unwrap();
    let recorded = Recording::parse(&text);
    let (expected, found) = (recorded.stays(), fresh.stays());
    let mut both = expected.lines().zip(found.lines());
    let first = both.find(|(a, b)| a != b);
    assert!(
        expected == found,
        "docs/demo.cast is not what `factory demo` prints any more; make it anew by `make record`.\n\
         The first line that differs: {first:#?}\n--- printed now\n{found}"
    );
    // Which ones are drawn is a matter of time, but not how they look.
    let both = [recorded.status_lines(), fresh.status_lines()];
    for drawn in &both {
        let quiet = "slots: N/N  workers:N  kernel:running";
        assert!(drawn.contains(quiet), "no `{quiet}` in {both:?}");
    }
}

#[test]
fn only_what_differs_from_run_to_run_is_left_out_of_the_comparison() {
    let stays = |text: &str| Recording(vec![(0.0, text.replace('\n', "\r\n"))]).stays();
    let one = "in /tmp/factory-demo-I9cSO6/duration.\n\
               2026-11-26 07:46:16Z  kernel: started, epoch 1 (pid 25387)\n\
               2026-11-26 07:46:21Z  run r1-1: saved its work in progress, 7 model calls\n\
               slots: 1/8  workers:1\r\u{1b}[K2026-11-26 07:46:21Z  run r1-1: pushed b58aa0327b\n\
               2026-11-26 07:46:22Z  job 1: check due -> checking (r1-2)\n\
               2026-11-26 07:46:22Z  run r1-1: collected, slot 0 is free\n\
               index 4723e08..c1810be 100644\nexpect 3600 \"1h 0m 0s\"\n";
    let other = "in /var/tmp/a/factory-demo-000000/duration.\n\
                 2027-01-01 00:00:00Z  kernel: started, epoch 1 (pid 7)\n\
                 2027-01-01 00:00:00Z  run r1-1: pushed 0123456789, 7 model calls\n\
                 2027-01-01 00:00:00Z  run r1-1: collected, slot 12 is free\n\
                 2027-01-01 00:00:00Z  job 1: check due -> checking (r1-2)\n\
                 index 0000000..c1810be 100644\nexpect 3600 \"1h 0m 0s\"\n";
    assert_eq!(stays(one), stays(other));
    assert!(stays(one).contains("in FOLDER/duration."));
    for (said, instead) in [
        ("pushed", "brought"),
        ("epoch 1", "epoch 2"),
        ("7 model calls", "7 calls"),
        ("3600", "360"),
        ("free", "empty"),
        ("job 1", "job 2"),
    ] {
        assert_ne!(stays(other), stays(&other.replace(said, instead)), "{said}");
    }
}
