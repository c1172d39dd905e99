//! `state.git`: the state and the locks, against real repositories.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use factory_core::change::FileChange;
use factory_core::ids::Oid;
use factory_core::inbox::InboxEntry;
use factory_ledger::git::Git;
use factory_ledger::inbox::Inbox;
use factory_ledger::lock::{Holder, KernelLock, LockError};
use factory_ledger::places::{Places, home_id};
use factory_ledger::state::{CommitError, StateRepo};
use factory_ledger::store::StoreError;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A home of its own, with `state.git` in it.
fn home() -> (TempDir, Places, StateRepo) {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::below(dir.path());
    places.ensure_dirs().unwrap();
    let state = StateRepo::init(&places).unwrap();
    (dir, places, state)
}

fn put(path: &str, content: &str) -> FileChange {
    FileChange {
        path: path.to_owned(),
        content: Some(content.as_bytes().to_vec()),
    }
}

fn gone(path: &str) -> FileChange {
    FileChange {
        path: path.to_owned(),
        content: None,
    }
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

/// One of the ignored tests below as a process of its own.
fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("FACTORY_TEST_DIR", dir);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

fn child_dir() -> Option<PathBuf> {
    std::env::var_os("FACTORY_TEST_DIR").map(Into::into)
}

/// Ends the child also when the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn first_step_and_log() {
    let (_dir, places, state) = home();
    assert_eq!(state.head().unwrap(), None);
    assert!(state.log(10).unwrap().is_empty());
    let message = "first\n\nFactory-Step: 1.1\n";
    let first = state
        .commit(None, &[put("meta.yaml", "format: 1\n")], message, 100)
        .unwrap();
    let second = state.commit(Some(first.oid()), &[], "second", 101).unwrap();
    assert_eq!(state.head().unwrap().as_ref(), Some(second.oid()));
    let log = state.log(10).unwrap();
    let messages: Vec<_> = log.iter().map(|e| e.message.as_str()).collect();
    assert_eq!(messages, ["second", message]);
    assert_eq!((&log[1].oid, log[1].seconds), (first.oid(), 100));
    assert_eq!(state.log(1).unwrap().len(), 1);
    let again = StateRepo::init(&places).unwrap();
    assert_eq!(
        again.head().unwrap().as_ref(),
        Some(second.oid()),
        "init keeps what is there"
    );
    let left: Vec<_> = std::fs::read_dir(places.root())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        !left.iter().any(|n| n.to_string_lossy().starts_with('.')),
        "{left:?}"
    );
    fsck(&places);
}

#[test]
fn a_moved_state_is_refused() {
    let (_dir, places, state) = home();
    let first = state.commit(None, &[put("a", "1")], "first", 1).unwrap();
    let second = state
        .commit(Some(first.oid()), &[put("a", "2")], "second", 2)
        .unwrap();
    for parent in [None, Some(first.oid())] {
        match state.commit(parent, &[put("a", "3")], "late", 3) {
            Err(CommitError::Moved { now }) => assert_eq!(now.as_ref(), Some(second.oid())),
            other => panic!("{parent:?}: {other:?}"),
        }
    }
    Git::isolated(places.state_git())
        .run(["update-ref", "-d", "refs/state"])
        .unwrap();
    let late = state.commit(Some(second.oid()), &[put("a", "3")], "late", 3);
    assert!(
        matches!(late, Err(CommitError::Moved { now: None })),
        "{late:?}"
    );
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    const WRITERS: usize = 8;
    const EACH: usize = 12;
    let (_dir, places, state) = home();
    let (shared, places_ref) = (&state, &places);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                // Half of them as another process would: with handles of their own.
                let own = StateRepo::open(places_ref).unwrap();
                let state = if writer % 2 == 0 { shared } else { &own };
                for i in 0..EACH {
                    let name = format!("{writer}.{i}");
                    let changes = [
                        put(&format!("jobs/w{writer}/{i}"), "x"),
                        put("counter", &name),
                    ];
                    loop {
                        let head = state.head().unwrap();
                        match state.commit(head.as_ref(), &changes, &name, 5) {
                            Ok(_) => break,
                            Err(CommitError::Moved { .. }) => {}
                            Err(e) => panic!("{e:?}"),
                        }
                    }
                }
            });
        }
    });
    let log = state.log(1000).unwrap();
    assert_eq!(log.len(), WRITERS * EACH);
    let messages: BTreeSet<_> = log.iter().map(|e| e.message.clone()).collect();
    assert_eq!(messages.len(), WRITERS * EACH, "no step landed twice");
    let files = state.read_live(&state.head().unwrap().unwrap()).unwrap();
    assert_eq!(files.len(), WRITERS * EACH + 1);
    fsck(&places);
}

#[test]
fn the_tree_equals_a_model_after_random_changes() {
    let (_dir, places, state) = home();
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut head: Option<Oid> = None;
    let mut seed = 0x5eed_u64;
    let mut random = move |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for step in 0..120 {
        let mut changes = Vec::new();
        for _ in 0..random(5) {
            // Files are named f…, directories d…: only `bad_paths` mixes them.
            let mut path = String::new();
            for _ in 0..random(4) {
                path += &format!("d{}/", random(3));
            }
            path += &format!("f{}", random(4));
            if random(3) == 0 {
                changes.push(gone(&path));
                model.remove(&path);
            } else {
                let content = format!("{step} {}", random(3));
                changes.push(put(&path, &content));
                model.insert(path, content.into_bytes());
            }
        }
        head = Some(
            state
                .commit(head.as_ref(), &changes, "step", step)
                .unwrap()
                .oid()
                .clone(),
        );
        let files = state.read_live(head.as_ref().unwrap()).unwrap();
        assert_eq!(files, model, "after step {step}: {changes:?}");
    }
    let all: Vec<_> = model.keys().map(|path| gone(path)).collect();
    let last = state.commit(head.as_ref(), &all, "all gone", 999).unwrap();
    let tree =
        Git::isolated(places.state_git()).call(["rev-parse", &format!("{}^{{tree}}", last.oid())]);
    let empty_tree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
    assert_eq!(tree.text().unwrap(), empty_tree, "empty directories vanish");
    fsck(&places);
}

#[test]
fn archive_is_read_by_path_only() {
    let (_dir, _places, state) = home();
    let files = [
        put("issues/open/7.md", "live"),
        put("archive/issues/0/3.md", "old"),
        put("jobs/archive/x", "live too"),
    ];
    let landed = state.commit(None, &files, "first", 1).unwrap();
    let live = state.read_live(landed.oid()).unwrap();
    assert_eq!(
        live.keys().collect::<Vec<_>>(),
        ["issues/open/7.md", "jobs/archive/x"]
    );
    let read = |path| state.read_file(landed.oid(), path).unwrap();
    assert_eq!(read("archive/issues/0/3.md").as_deref(), Some(&b"old"[..]));
    for missing in ["archive/issues/0/4.md", "archive", "issues/open/7.md/x", ""] {
        assert_eq!(read(missing), None, "{missing}");
    }
    let names = |dir| -> Vec<_> {
        state
            .list(landed.oid(), dir)
            .unwrap()
            .into_iter()
            .map(|e| (e.name, e.is_dir))
            .collect()
    };
    let dir = |name: &str| (name.to_owned(), true);
    assert_eq!(names(""), [dir("archive"), dir("issues"), dir("jobs")]);
    assert_eq!(names("archive/issues/0"), [("3.md".to_owned(), false)]);
    assert!(names("nothing").is_empty());
}

#[test]
fn bad_paths_change_nothing() {
    let (_dir, _places, state) = home();
    let first = state
        .commit(None, &[put("dir/file", "x")], "first", 1)
        .unwrap();
    let bad: &[&[FileChange]] = &[
        &[put("", "x")],
        &[put("/a", "x")],
        &[put("a//b", "x")],
        &[put("a/", "x")],
        &[put("../a", "x")],
        &[put("a/./b", "x")],
        &[put(".git/config", "x")],
        &[put("a/.GIT", "x")],
        &[put("a\0b", "x")],
        &[put("dir", "x")],
        &[gone("dir")],
        &[put("dir/file/below", "x")],
        &[put("new", "x"), put("new/below", "x")],
        &[put("new/below", "x"), put("new", "x")],
    ];
    for changes in bad {
        let result = state.commit(Some(first.oid()), changes, "bad", 2);
        assert!(
            matches!(result, Err(CommitError::BadPath { .. })),
            "{changes:?}: {result:?}"
        );
    }
    assert_eq!(state.head().unwrap().as_ref(), Some(first.oid()));
    let nothing = [gone("nothing"), gone("no/thing"), gone("dir/nothing")];
    let landed = state.commit(Some(first.oid()), &nothing, "x", 3).unwrap();
    assert_eq!(state.read_live(landed.oid()).unwrap().len(), 1);
}

#[test]
fn a_lock_file_of_a_killed_process_does_not_stop_the_next() {
    let (_dir, places, state) = home();
    let first = state.commit(None, &[put("a", "1")], "first", 1).unwrap();
    let refs = places.state_git().join("refs");
    std::fs::write(refs.join("state.lock"), "half an o").unwrap();
    let second = state
        .commit(Some(first.oid()), &[put("a", "2")], "second", 2)
        .unwrap();
    assert_eq!(state.head().unwrap().as_ref(), Some(second.oid()));
    std::fs::create_dir_all(refs.join("inbox")).unwrap();
    std::fs::write(refs.join("inbox/r1-1.lock"), "").unwrap();
    let inbox = Inbox::open(&places).unwrap();
    let run = "r1-1".parse().unwrap();
    inbox
        .append(run, &InboxEntry::Report { json: "{}".into() }, 3)
        .unwrap();
    assert_eq!(inbox.runs().unwrap(), [run]);
    fsck(&places);
}

#[test]
fn a_writer_killed_at_any_moment_loses_nothing_it_confirmed() {
    let (dir, places, state) = home();
    for round in 1..=6 {
        let mut writer = Killed(child("child_commits_for_ever", dir.path()).spawn().unwrap());
        let out = BufReader::new(writer.0.stdout.take().unwrap());
        let mut landed = out
            .lines()
            .filter_map(|l| l.unwrap().strip_prefix("landed ").map(str::to_owned));
        let seen = landed.nth(round * 7).unwrap();
        drop(writer);
        // What it said before it died is still in the pipe; the last line may be cut.
        let confirmed = landed.filter(|l| l.len() == 40).last().unwrap_or(seen);
        let head = state.head().unwrap().unwrap();
        let log = state.log(2).unwrap();
        assert!(
            log.iter().any(|e| e.oid.as_str() == confirmed),
            "{confirmed} is not in {log:?}"
        );
        state
            .commit(
                Some(&head),
                &[put("survivor", &round.to_string())],
                "after",
                9,
            )
            .unwrap();
        fsck(&places);
    }
}

#[test]
#[ignore = "a child of a_writer_killed_at_any_moment_loses_nothing_it_confirmed"]
fn child_commits_for_ever() {
    let Some(dir) = child_dir() else { return };
    let state = StateRepo::open(&Places::below(dir)).unwrap();
    let mut head = state.head().unwrap();
    for i in 0_u64.. {
        let change = put(&format!("jobs/{}", i % 5), &i.to_string());
        let landed = state.commit(head.as_ref(), &[change], "step", 7).unwrap();
        writeln!(std::io::stdout(), "\nlanded {}", landed.oid()).unwrap();
        head = Some(landed.oid().clone());
    }
}

#[test]
fn a_full_disk_is_named() {
    let dir = tempfile::tempdir().unwrap();
    // A namespace of its own: the small file system ends with its processes.
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]);
        command
    };
    let possible = unshare()
        .args(["mount", "-t", "tmpfs", "none"])
        .arg(dir.path())
        .output();
    if !possible.is_ok_and(|o| o.status.success()) {
        println!("skipped: a_full_disk_is_named: no right to mount in a namespace");
        return;
    }
    let test = child("child_fills_the_disk", dir.path());
    let script = r#"mount -t tmpfs -o size=600k none "$1" && shift && exec "$@""#;
    let mut command = unshare();
    command
        .args(["sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(test.get_program());
    let out = command
        .args(test.get_args())
        .env("FACTORY_TEST_DIR", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success() && text.contains("1 passed"),
        "{text}{errors}"
    );
}

#[test]
#[ignore = "a child of a_full_disk_is_named"]
fn child_fills_the_disk() {
    let Some(dir) = child_dir() else { return };
    let places = Places::below(&dir);
    places.ensure_dirs().unwrap();
    let state = StateRepo::init(&places).unwrap();
    let mut head = Some(
        state
            .commit(None, &[put("a", "1")], "first", 1)
            .unwrap()
            .oid()
            .clone(),
    );
    let error = loop {
        let changes: Vec<_> = (0..5)
            .map(|i| put(&format!("{i}"), &format!("{head:?}{i}")))
            .collect();
        match state.commit(head.as_ref(), &changes, "more", 2) {
            Ok(landed) => head = Some(landed.oid().clone()),
            Err(e) => break e,
        }
    };
    match &error {
        CommitError::Store(StoreError::Unwritable { path, source }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
            assert!(path.starts_with(places.state_git()), "{}", path.display());
        }
        other => panic!("{other:?}"),
    }
    // Nothing landed half, and with room again the work goes on.
    assert_eq!(state.head().unwrap(), head);
    let remounted = Command::new("mount")
        .args(["-o", "remount,size=4m"])
        .arg(&dir)
        .status()
        .unwrap();
    assert!(remounted.success());
    state
        .commit(head.as_ref(), &[put("a", "2")], "after", 3)
        .unwrap();
    fsck(&places);
}

#[test]
fn missing_repositories_and_commits_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::below(dir.path());
    let missing = StateRepo::open(&places).err();
    assert!(
        matches!(&missing, Some(StoreError::Missing { path }) if *path == places.state_git()),
        "{missing:?}"
    );
    let (_dir, _places, state) = home();
    let unknown = state.read_live(&"a".repeat(40).parse().unwrap());
    assert!(
        matches!(unknown, Err(StoreError::Git { .. })),
        "{unknown:?}"
    );
}

#[test]
fn the_kernel_lock_names_its_holder_and_ends_with_it() {
    let (dir, places, _state) = home();
    let path = places.kernel_lock();
    // A process id that Linux gives nobody.
    const NOBODY: u32 = 1 << 30;
    let held = KernelLock::acquire(&path, NOBODY, 1_700_000_000).unwrap();
    match KernelLock::acquire(&path, 4712, 1_700_000_001) {
        Err(LockError::Busy { holder, .. }) => {
            assert_eq!(
                holder,
                Some(Holder {
                    pid: NOBODY,
                    since: 1_700_000_000
                })
            );
            assert!(holder.unwrap().is_gone());
        }
        other => panic!("{other:?}"),
    }
    KernelLock::acquire(&places.gateway_lock(), 4712, 1).unwrap();
    drop(held);
    drop(KernelLock::acquire(&path, 5, 1).unwrap());

    let mut holder = Killed(child("child_holds_the_lock", dir.path()).spawn().unwrap());
    let mut lines = BufReader::new(holder.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap() == "held"));
    match KernelLock::acquire(&path, 1, 1) {
        Err(LockError::Busy {
            holder: Some(who), ..
        }) => {
            assert_eq!(who.pid, holder.0.id());
            assert!(!who.is_gone());
        }
        other => panic!("{other:?}"),
    }
    // Keeps the input of the holder's own child open: it outlives the holder.
    let input = holder.0.stdin.take();
    drop(holder);
    KernelLock::acquire(&path, 1, 1).unwrap();
    drop(input);
}

#[test]
#[ignore = "a child of the_kernel_lock_names_its_holder_and_ends_with_it"]
fn child_holds_the_lock() {
    let Some(dir) = child_dir() else { return };
    let lock =
        KernelLock::acquire(&Places::below(dir).kernel_lock(), std::process::id(), 1).unwrap();
    // A process that the holder starts must not keep the lock.
    let mut reader = Command::new("cat").stdout(Stdio::null()).spawn().unwrap();
    writeln!(std::io::stdout(), "\nheld").unwrap();
    reader.wait().unwrap();
    drop(lock);
}

#[test]
fn a_home_survives_a_move_and_differs_for_a_copy() {
    let (dir, places, _state) = home();
    let before = home_id("repo-1", &places.state_git()).unwrap();
    assert!(
        before.len() == 8 && before.bytes().all(|b| b.is_ascii_hexdigit()),
        "{before}"
    );
    assert_ne!(home_id("repo-2", &places.state_git()).unwrap(), before);
    let moved = dir.path().join("moved.git");
    std::fs::rename(places.state_git(), &moved).unwrap();
    assert_eq!(home_id("repo-1", &moved).unwrap(), before);
    let copied = Command::new("cp")
        .arg("-a")
        .arg(&moved)
        .arg(places.state_git())
        .status()
        .unwrap();
    assert!(copied.success());
    assert_ne!(home_id("repo-1", &places.state_git()).unwrap(), before);
}
