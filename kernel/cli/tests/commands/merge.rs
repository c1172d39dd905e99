//! `factory pr merge` beside kernels and without one.

use crate::lab::{CONFIG, Lab, Out};
use factory_core::{
    event::{EffectResult, Event, MergeResult},
    ids::PrNo,
    rules::ToldPaths,
};
use factory_ledger::{lock::KernelLock, sockets::SocketDir};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
};

/// Ends a stand-in whose command ended early.
const END: &str = "end\n";

/// Stands in for a kernel: holds its lock, answers on its socket, and when woken
/// journals what a kernel would.
struct Kernel<'a> {
    lab: &'a Lab,
    listener: UnixListener,
    _lock: KernelLock,
}

impl<'a> Kernel<'a> {
    fn new(lab: &'a Lab) -> Self {
        let (places, ..) = lab.ledger();
        let lock = KernelLock::acquire(&places.kernel_lock(), std::process::id(), 1_795_226_401);
        let path = places.kernel_sock();
        let dir = SocketDir::open(path.parent().unwrap()).unwrap();
        Self {
            lab,
            listener: UnixListener::bind(dir.address("kernel.sock")).unwrap(),
            _lock: lock.unwrap(),
        }
    }

    /// Answers wakes, and journals these events one by one, whenever it is asked for changes.
    fn serve(self, events: Vec<Event>) {
        let mut events = events.into_iter();
        loop {
            let (stream, _) = self.listener.accept().unwrap();
            let mut reader = BufReader::new(&stream);
            let mut request = String::new();
            reader.read_line(&mut request).unwrap();
            if request == END {
                return;
            }
            let asked = request.starts_with("GET /factory/v1/changes?after=");
            let others = ["POST /factory/v1/wake ", "GET /factory/v1/held-up "];
            assert!(
                asked || others.iter().any(|other| request.starts_with(other)),
                "{request}"
            );
            let mut left = events.len();
            if asked && let Some(event) = events.next() {
                self.lab.journal(event);
                left -= 1;
            }
            let answered = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            // `status` waits for no kernel that does not answer at once.
            if !request.starts_with(others[1]) {
                answered.unwrap();
            }
            if asked && left == 0 {
                return;
            }
        }
    }
}

/// `factory pr merge 1` beside a kernel that journals these events.
fn merge_beside(lab: &Lab, kernel: Kernel<'_>, events: Vec<Event>) -> Out {
    let (places, ..) = lab.ledger();
    let path = places.kernel_sock();
    let out = std::thread::scope(|scope| {
        scope.spawn(move || kernel.serve(events));
        let out = lab.factory(&["pr", "merge", "1"]);
        let dir = SocketDir::open(path.parent().unwrap()).unwrap();
        if let Ok(mut stream) = UnixStream::connect(dir.address("kernel.sock")) {
            stream.write_all(END.as_bytes()).unwrap();
        }
        out
    });
    std::fs::remove_file(&path).unwrap();
    out
}

#[test]
fn merge_waits_for_what_a_running_kernel_makes_of_it() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["issue", "new", "-t", "One"]).ok();
    lab.factory(&["issue", "approve", "1"]).ok();
    let head = lab.work("factory/1-one", "a.txt");
    lab.propose(1, &head);
    let pr = PrNo(1);
    let target = lab.tip("main");
    let made = |result| Event::MergeMade {
        pr,
        target: target.clone(),
        result,
    };
    let why = "a.txt is in the way\u{1b}[2J".to_owned();
    let blocked = merge_beside(
        &lab,
        Kernel::new(&lab),
        vec![made(MergeResult::Blocked { why })],
    );
    blocked.fails(
        5,
        &[
            "nothing was checked",
            "a.txt is in the way\\u{1b}[2J",
            "factory pr merge 1",
        ],
    );
    lab.factory(&["status"])
        .says(&["not merged: a.txt is in the way", "not running"]);

    let done = merge_beside(
        &lab,
        Kernel::new(&lab),
        vec![
            made(MergeResult::Clean {
                merge: head.clone(),
                tree_is_heads: true,
                worktree: None,
                protected: ToldPaths::default(),
                change: Default::default(),
            }),
            Event::EffectDone {
                key: format!("merge-1-{}", head.short()),
                result: EffectResult::Done,
            },
        ],
    );
    done.says(&[&format!("pull request 1 merged into main as {head}")]);
    assert!(done.stderr.contains("moving main to"), "{}", done.stderr);
    lab.factory(&["pr", "merge", "1"])
        .fails(5, &["was merged as"]);
    lab.factory(&["issue", "show", "1"])
        .says(&["done by pull request 1, merged by Ann"]);
}

#[test]
fn a_conflict_goes_back_to_a_worker_and_says_so() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["issue", "new", "-t", "One"]).ok();
    lab.factory(&["issue", "approve", "1"]).ok();
    lab.propose(1, &lab.work("factory/1-one", "a.txt"));
    let kernel = Kernel::new(&lab);
    let conflict = Event::MergeMade {
        pr: PrNo(1),
        target: lab.tip("main"),
        result: MergeResult::Conflict {
            paths: vec!["a.txt".to_owned()],
        },
    };
    let status = lab.factory(&["status", "--json"]).json();
    assert_eq!(status["kernel"]["pid"], std::process::id());
    merge_beside(&lab, kernel, vec![conflict])
        .fails(5, &["conflicts with", "a.txt", "a worker mends it"]);
    lab.factory(&["pr", "list"]).says(&["reworking"]);
    lab.factory(&["pr", "merge", "1"])
        .fails(5, &["is being worked on again"]);
}

#[test]
fn without_an_engine_a_merge_stays_queued_and_says_how_to_go_on() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["issue", "new", "-t", "One"]).ok();
    lab.factory(&["issue", "approve", "1"]).ok();
    lab.propose(1, &lab.work("factory/1-one", "a.txt"));
    // It needs no key, so a file of keys that is wrong keeps nobody from merging.
    let keys = lab.dir.path().join("home/.config/factory");
    std::fs::create_dir_all(&keys).unwrap();
    std::fs::write(keys.join("keys.env"), "pasted").unwrap();
    // The gate is opened once; the second call goes on from there.
    for _ in 0..2 {
        lab.factory(&["pr", "merge", "1"])
            .fails(6, &["is not merged yet", "the next `factory start`"]);
        lab.factory(&["pr", "list"]).says(&["queued"]);
    }
    let log = lab.factory(&["log"]);
    assert_eq!(log.ok().matches("approved for merging").count(), 1);
}
