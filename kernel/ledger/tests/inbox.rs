//! The inboxes in `state.git`, against real repositories.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use factory_core::ids::{Oid, RunId};
use factory_core::inbox::{EngineExit, InboxEntry, RunEnd, Usage};
use factory_ledger::git::Git;
use factory_ledger::inbox::{Inbox, InboxError};
use factory_ledger::places::Places;
use factory_ledger::state::StateRepo;
use std::collections::BTreeSet;
use tempfile::TempDir;

/// A home of its own, with the inboxes of its `state.git`.
fn home() -> (TempDir, Places, Inbox) {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::below(dir.path());
    places.ensure_dirs().unwrap();
    StateRepo::init(&places).unwrap();
    let inbox = Inbox::open(&places).unwrap();
    (dir, places, inbox)
}

fn fsck(places: &Places) {
    let out = Git::isolated(places.state_git())
        .run(["fsck", "--strict", "--full"])
        .unwrap();
    assert!(
        !out.text().contains("missing") && !out.text().contains("error"),
        "{}",
        out.text()
    );
}

fn run(text: &str) -> RunId {
    text.parse().unwrap()
}

fn usage(output_tokens: u64) -> InboxEntry {
    let call = Usage {
        model: "m".into(),
        status: 200,
        input_tokens: 7,
        ..Usage::default()
    };
    InboxEntry::Usage(Usage {
        output_tokens,
        ..call
    })
}

fn oid(digit: &str) -> Oid {
    digit.repeat(40).parse().unwrap()
}

#[test]
fn an_inbox_is_read_in_order_and_any_number_of_times() {
    let (_dir, places, inbox) = home();
    let (mine, other) = (run("r7-1"), run("r12-3"));
    assert_eq!(inbox.tip(mine).unwrap(), None);
    let end = RunEnd {
        exit: EngineExit::Code(0),
        last_output: "done\n\u{1b}[0m".into(),
        stderr_tail: String::new(),
        report_problem: None,
        push_problem: Some("refused".into()),
    };
    let entries = [
        usage(10),
        InboxEntry::Push {
            old: Oid::zero(),
            new: oid("a"),
        },
        usage(20),
        InboxEntry::Push {
            old: oid("a"),
            new: oid("b"),
        },
        InboxEntry::Report {
            json: "{\"summary\":\"ä\"}".into(),
        },
        InboxEntry::End(end),
    ];
    let mut expected = Vec::new();
    for (seconds, entry) in (100..).zip(&entries) {
        expected.push((inbox.append(mine, entry, seconds).unwrap(), entry.clone()));
        inbox.append(other, &usage(1), seconds).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(inbox.read_after(mine, None).unwrap(), expected);
    }
    for (i, (seen, _)) in expected.iter().enumerate() {
        assert_eq!(
            inbox.read_after(mine, Some(seen)).unwrap(),
            expected[i + 1..]
        );
    }
    assert_eq!(inbox.tip(mine).unwrap(), Some(expected[5].0.clone()));
    assert_eq!(inbox.runs().unwrap(), [mine, other]);
    let foreign = inbox.tip(other).unwrap().unwrap();
    let missing = inbox.read_after(mine, Some(&foreign));
    assert!(
        matches!(missing, Err(InboxError::NotInInbox { run, oid }) if run == mine && oid == foreign)
    );
    let log = Git::isolated(places.state_git())
        .call(["log", "--format=%s", "refs/inbox/r7-1"])
        .text()
        .unwrap();
    assert!(log.contains("\nr7-1: push aaaaaaaaaa\n"), "{log}");
    fsck(&places);
}

#[test]
fn two_gateways_append_without_loss() {
    const EACH: u64 = 20;
    let (_dir, places, inbox) = home();
    let (shared, places_ref) = (&inbox, &places);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                let own = Inbox::open(places_ref).unwrap();
                let inbox = if writer % 2 == 0 { shared } else { &own };
                for i in 0..EACH {
                    inbox
                        .append(run("r1-1"), &usage(writer * EACH + i), 4)
                        .unwrap();
                }
            });
        }
    });
    let counts: Vec<u64> = shared
        .read_after(run("r1-1"), None)
        .unwrap()
        .into_iter()
        .map(|(_, entry)| match entry {
            InboxEntry::Usage(usage) => usage.output_tokens,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(counts.len() as u64, 4 * EACH);
    assert_eq!(
        counts.iter().collect::<BTreeSet<_>>().len() as u64,
        4 * EACH
    );
    for writer in 0..4 {
        let own: Vec<_> = counts.iter().filter(|c| **c / EACH == writer).collect();
        assert!(own.is_sorted(), "each writer's entries keep their order");
    }
    fsck(&places);
}

#[test]
fn append_at_refuses_an_inbox_that_moved() {
    let (_dir, _places, inbox) = home();
    let first = inbox.append_at(run("r1-1"), None, &usage(1), 1).unwrap();
    let late = inbox.append_at(run("r1-1"), None, &usage(2), 1);
    assert!(matches!(late, Err(InboxError::Moved { now, .. }) if now.as_ref() == Some(&first)));
    inbox
        .append_at(run("r1-1"), Some(&first), &usage(2), 1)
        .unwrap();
    assert_eq!(inbox.read_after(run("r1-1"), None).unwrap().len(), 2);
}

#[test]
fn a_corrupt_entry_is_named() {
    let (_dir, places, inbox) = home();
    let it = run("r2-1");
    let good = inbox.append(it, &usage(1), 1).unwrap();
    let git = Git::isolated(places.state_git());
    let commit = |file: &str, content: &str| -> Oid {
        let blob = git
            .call(["hash-object", "-w", "--stdin"])
            .stdin(content)
            .text()
            .unwrap();
        let tree = git
            .call(["mktree"])
            .stdin(format!("100644 blob {blob}\t{file}\n"))
            .text()
            .unwrap();
        let who = ["-c", "user.name=t", "-c", "user.email=t@localhost"];
        let made = git
            .call(who)
            .arg("commit-tree")
            .arg("-mby hand")
            .arg("-p")
            .arg(good.as_str())
            .arg(tree);
        let oid = made.text().unwrap();
        git.run(["update-ref", "refs/inbox/r2-1", &oid]).unwrap();
        oid.parse().unwrap()
    };
    let bad = commit("entry.json", "{\"push\":{\"old\":\"x\"}}");
    let read = inbox.read_after(it, None);
    assert!(
        matches!(&read, Err(InboxError::Corrupt { run, oid, .. }) if *run == it && *oid == bad),
        "{read:?}"
    );
    let bad = commit("else.json", "{}");
    let read = inbox.read_after(it, Some(&good));
    assert!(
        matches!(&read, Err(InboxError::NoEntry { run, oid }) if *run == it && *oid == bad),
        "{read:?}"
    );
}
