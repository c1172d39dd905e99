//! `state.git` damaged on purpose, looked at, restored and packed, for real.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use factory_core::event::{Command, Event, Now};
use factory_core::ids::{IssueNo, Oid, RunId};
use factory_core::inbox::InboxEntry;
use factory_core::state::State;
use factory_core::step::step;
use factory_ledger::base::BaseRepo;
use factory_ledger::door::DoorRepo;
use factory_ledger::git::Git;
use factory_ledger::history::{self, Problem, Report, StepNo, verify};
use factory_ledger::inbox::Inbox;
use factory_ledger::pack::{self, Depth, Packing, Which};
use factory_ledger::places::Places;
use factory_ledger::restore::{RestoreError, Restored, restore};
use factory_ledger::state::{CommitError, StateRepo};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

const NOW: i64 = 1_795_226_401;

struct Lab {
    _dir: TempDir,
    places: Places,
    repo: StateRepo,
    state: State,
    head: Option<Oid>,
}

impl Lab {
    /// A state with one issue and then `steps` steps more.
    fn new(steps: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        places.ensure_dirs().unwrap();
        let mut lab = Self {
            repo: StateRepo::init(&places).unwrap(),
            _dir: dir,
            places,
            state: State::new("r".to_owned(), "main".to_owned()),
            head: None,
        };
        let files = lab.state.initial_files();
        let landed = lab
            .repo
            .commit(None, &files, "begun\n\nFactory-Step: 0.0\n", NOW)
            .unwrap();
        lab.head = Some(landed.oid().clone());
        lab.file_issue("first");
        for n in 0..steps {
            lab.target(&format!("branch-{n}"));
        }
        lab
    }

    fn journal(&mut self, event: Event) {
        let made = step(&self.state, event, Now(NOW)).unwrap();
        let files = made.delta.files();
        let landed = self
            .repo
            .commit(self.head.as_ref(), &files, &made.message(), NOW)
            .unwrap();
        self.head = Some(landed.oid().clone());
        self.state.apply(made.delta);
    }

    fn target(&mut self, branch: &str) {
        let branch = branch.to_owned();
        self.journal(Event::TargetChanged { branch });
    }

    fn order(&mut self, command: Command) {
        let by = "Ann".to_owned();
        self.journal(Event::Command { by, command });
    }

    fn file_issue(&mut self, title: &str) {
        self.order(Command::NewIssue {
            title: title.to_owned(),
            body: String::new(),
            labels: Vec::new(),
            done: Vec::new(),
        });
    }

    fn git(&self, args: &[&str]) -> String {
        let git = Git::isolated(self.places.state_git());
        git.call(args).text().unwrap()
    }

    fn oid(&self, rev: &str) -> Oid {
        self.git(&["rev-parse", rev]).parse().unwrap()
    }

    fn object(&self, rev: &str) -> PathBuf {
        let oid = self.git(&["rev-parse", rev]);
        let objects = self.places.state_git().join("objects");
        objects.join(&oid[..2]).join(&oid[2..])
    }

    /// Writes over a file that git made read-only.
    fn spoil(&self, file: &PathBuf, content: &[u8]) {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(file, content).unwrap();
    }

    fn verify(&self) -> Report {
        verify(&self.places).unwrap()
    }

    /// Restores, and looks whether all is well afterwards and work goes on.
    #[track_caller]
    fn restore(&mut self) -> Restored {
        let done = restore(&self.places, NOW + 60).unwrap();
        let report = self.verify();
        assert_eq!(report.problems, []);
        assert_eq!(report.tip.unwrap().oid, done.commit);
        assert_eq!(report.anchor.unwrap().step, done.step);
        self.repo = StateRepo::open(&self.places).unwrap();
        self.head = Some(done.commit.clone());
        self.state = State::decode(&self.repo.read_live(&done.commit).unwrap()).unwrap();
        self.file_issue("afterwards");
        self.target("afterwards");
        assert_eq!(self.verify().problems, []);
        self.git(&["repack", "-a", "-d", "-q"]);
        assert_eq!(self.verify().problems, []);
        done
    }
}

/// Packs. A git that another test is just starting can hold the turn for a
/// moment: between fork and exec it has all files of this process open.
fn packed(places: &Places, which: Which, depth: Depth, now: i64) -> Result<(), pack::PackError> {
    while !pack::pack(places, which, depth, now)? {
        std::thread::yield_now();
    }
    Ok(())
}

fn at(n: u64) -> StepNo {
    StepNo { epoch: 0, n }
}

#[test]
fn a_whole_state_is_found_whole_and_the_anchor_follows() {
    let mut lab = Lab::new(0);
    assert_eq!(lab.verify().anchor.unwrap().step, at(0));
    for n in 0..203 {
        lab.target(&format!("branch-{n}"));
    }
    let report = lab.verify();
    assert_eq!(report.problems, []);
    assert_eq!((report.steps, report.tip.unwrap().step), (205, at(204)));
    assert_eq!(report.anchor.unwrap().step, at(200));
    assert_eq!(history::glance(&lab.repo, lab.head.as_ref()).unwrap(), None);
}

#[test]
fn a_step_that_did_not_land_is_no_problem() {
    let lab = Lab::new(3);
    // What a writer leaves that dies before its swap.
    let tree = lab.oid("refs/state^{tree}");
    let (parent, message) = (lab.oid("refs/state"), "died\n\nFactory-Step: 0.5\n");
    lab.git(&[
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@y",
        "commit-tree",
        "-m",
        message,
        "-p",
        parent.as_str(),
        tree.as_str(),
    ]);
    let report = lab.verify();
    assert_eq!(report.problems, []);
    assert_eq!(report.unlanded.len(), 1);
    assert_eq!(report.unlanded[0].subject, "died");
}

#[test]
fn a_deleted_ref_is_noticed_and_restored_with_raised_counters() {
    for all in [false, true] {
        let mut lab = Lab::new(5);
        lab.order(Command::Approve(IssueNo(1)));
        lab.git(&["update-ref", "-d", "refs/state"]);
        if all {
            lab.git(&["update-ref", "-d", "refs/anchor"]);
        }
        let problems = lab.verify().problems;
        assert!(problems.contains(&Problem::Gone), "{problems:?}");
        assert_eq!(
            history::glance(&lab.repo, None).unwrap(),
            Some(Problem::Gone)
        );
        let before = lab.state.clone();
        let done = lab.restore();
        assert_eq!((done.from.step, &done.lost[..]), (at(7), &[][..]));
        assert_eq!(
            Some(done.step),
            Some(StepNo {
                epoch: 1000,
                n: 1007
            })
        );
        let meta = &lab.state.meta;
        assert_eq!((meta.epoch.0, meta.step), (1000, 1009));
        assert_eq!(meta.last_pr, before.meta.last_pr + 1000);
        assert_eq!(lab.state.issues[&IssueNo(1)].runs, 1000);
        // The one filed afterwards got a number that nobody can have had.
        assert!(lab.state.issues.contains_key(&IssueNo(1002)));
        assert_eq!(lab.state.jobs, before.jobs);
        assert!(!done.cut && done.old.is_none());
    }
}

#[test]
fn a_garbled_ref_is_restored() {
    for garbage in [
        "",
        "garbage\n",
        "0123456789012345678901234567890123456789\n",
    ] {
        let mut lab = Lab::new(2);
        std::fs::write(lab.places.state_git().join("refs/state"), garbage).unwrap();
        assert_ne!(lab.verify().problems, [], "{garbage:?}");
        assert_eq!(lab.restore().from.step, at(3), "{garbage:?}");
    }
}

#[test]
fn a_state_that_was_set_back_is_noticed_and_kept_aside() {
    let mut lab = Lab::new(120);
    let old = lab.oid("refs/state~60");
    lab.git(&["update-ref", "refs/state", old.as_str()]);
    let problems = lab.verify().problems;
    assert!(
        matches!(&problems[..], [Problem::Astray { .. }, Problem::SetBack { newest, others: 59 }]
            if newest.step == at(121)),
        "{problems:?}"
    );
    let glance = history::glance(&lab.repo, Some(&old)).unwrap();
    assert_eq!(glance, Some(Problem::Astray { step: at(100) }));
    let done = lab.restore();
    assert_eq!((done.from.step, done.old), (at(121), Some(old.clone())));
    assert_eq!(lab.oid(&done.kept.unwrap()), old);
}

#[test]
fn damaged_objects_cost_no_more_than_they_held() {
    // (what is damaged, the step it goes on from, whether the history is cut)
    let table = [
        ("refs/state", at(10), false),
        ("refs/state^{tree}", at(10), false),
        ("refs/state:meta.yaml", at(10), false),
        ("refs/state~1", at(11), true),
        ("refs/state~5:meta.yaml", at(11), true),
    ];
    for (what, step, cut) in table {
        for content in [&b""[..], b"x\x01garbage"] {
            let mut lab = Lab::new(10);
            let file = lab.object(what);
            lab.spoil(&file, content);
            let problems = lab.verify().problems;
            let damaged = |p: &Problem| matches!(p, Problem::Damaged { .. });
            assert!(problems.iter().any(damaged), "{what}: {problems:?}");
            let done = lab.restore();
            assert_eq!((done.from.step, done.cut), (step, cut), "{what}");
            assert_eq!(done.damaged.len(), 1, "{what}");
            assert!(done.damaged_dir.read_dir().unwrap().next().is_some());
        }
    }
    // Truncated in the middle, and gone.
    for cut in [true, false] {
        let mut lab = Lab::new(10);
        let file = lab.object("refs/state:meta.yaml");
        if cut {
            let whole = std::fs::read(&file).unwrap();
            lab.spoil(&file, &whole[..whole.len() / 2]);
            let glance = history::glance(&lab.repo, lab.head.as_ref()).unwrap();
            assert!(
                matches!(glance, Some(Problem::Damaged { .. })),
                "{glance:?}"
            );
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        assert_ne!(lab.verify().problems, []);
        let done = lab.restore();
        assert_eq!(done.from.step, at(10));
        let lost: Vec<_> = done.lost.iter().map(|mark| mark.subject.as_str()).collect();
        assert_eq!(lost, ["target: branch-9"]);
    }
}

#[test]
fn a_damaged_archive_does_not_take_the_live_state_with_it() {
    let mut lab = Lab::new(0);
    lab.file_issue("second");
    for issue in [1, 2] {
        let issue = IssueNo(issue);
        lab.order(Command::Approve(issue));
        lab.order(Command::CloseIssue(issue));
    }
    let file = lab.object("refs/state:archive/issues/0/1.md");
    lab.spoil(&file, b"");
    let done = lab.restore();
    assert_eq!(done.lost_files, ["archive/issues/0/1.md"]);
    assert_eq!(done.lost, []);
    let kept = lab
        .repo
        .read_file(lab.head.as_ref().unwrap(), "archive/issues/0/2.md");
    assert!(kept.unwrap().is_some());
}

#[test]
fn more_than_a_thousand_lost_steps_raise_by_more() {
    let mut lab = Lab::new(0);
    let base = lab.head.clone().unwrap();
    // A later step whose tree is lost: only its number is known.
    let empty = Git::isolated(lab.places.state_git())
        .call(["mktree"])
        .stdin("")
        .text()
        .unwrap();
    let far = lab.git(&[
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@y",
        "commit-tree",
        "-m",
        "far\n\nFactory-Step: 0.2500\n",
        "-p",
        base.as_str(),
        &empty,
    ]);
    lab.git(&["update-ref", "refs/state", &far]);
    let done = lab.restore();
    assert_eq!(
        (done.from.step, done.raised, done.step.n),
        (at(1), 3000, 3001)
    );
}

#[test]
fn nothing_intact_is_said_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::below(dir.path());
    places.ensure_dirs().unwrap();
    let repo = StateRepo::init(&places).unwrap();
    assert_eq!(history::glance(&repo, None).unwrap(), None);
    let refused = restore(&places, NOW);
    assert!(
        matches!(refused, Err(RestoreError::NothingIntact { .. })),
        "{refused:?}"
    );
    assert_eq!(repo.head().unwrap(), None);
}

#[test]
fn writers_go_on_while_a_repository_is_packed_and_lose_nothing() {
    let lab = Lab::new(60);
    let inbox = Inbox::open(&lab.places).unwrap();
    let run = |k| RunId { job: IssueNo(1), k };
    let entry = |n: u64| InboxEntry::Report {
        json: n.to_string(),
    };
    for k in 1..=20 {
        inbox.append(run(k), &entry(0), NOW).unwrap();
    }
    let stop = AtomicBool::new(false);
    let (steps, entries) = std::thread::scope(|scope| {
        let (lab, inbox, stop) = (&lab, &inbox, &stop);
        let steps = scope.spawn(move || {
            let (mut state, mut head, mut n) = (lab.state.clone(), lab.head.clone().unwrap(), 0);
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let branch = format!("while-{n}");
                let made = step(&state, Event::TargetChanged { branch }, Now(NOW)).unwrap();
                let files = made.delta.files();
                // Nobody else writes the state: a lost swap would be a lost ref.
                head = match lab.repo.commit(Some(&head), &files, &made.message(), NOW) {
                    Ok(landed) => landed.oid().clone(),
                    Err(CommitError::Moved { now }) => panic!("{head} is gone: {now:?}"),
                    Err(error) => panic!("{error:?}"),
                };
                state.apply(made.delta);
                let read = State::decode(&lab.repo.read_live(&head).unwrap()).unwrap();
                assert_eq!(read, state);
            }
            n
        });
        let entries = scope.spawn(move || {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                inbox
                    .append(run(1 + (n % 20) as u32), &entry(n), NOW)
                    .unwrap();
            }
            n
        });
        let packed: Vec<_> = (0..6)
            .map(|_| packed(&lab.places, Which::State, Depth::Quick, NOW))
            .collect();
        // Before anything is asserted: the writers would go on for ever.
        stop.store(true, Ordering::Relaxed);
        for packed in packed {
            packed.unwrap();
        }
        (steps.join().unwrap(), entries.join().unwrap())
    });
    assert!(steps > 10 && entries > 10, "{steps} {entries}");
    let report = lab.verify();
    assert_eq!(report.problems, []);
    assert_eq!(report.tip.unwrap().step, at(61 + steps));
    let mut kept = 0;
    for k in 1..=20 {
        kept += inbox.read_after(run(k), None).unwrap().len() as u64;
    }
    assert_eq!(kept, entries + 20);
    let count = lab.git(&["count-objects", "-v"]);
    let field = |name: &str| -> u64 {
        let line = count.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    assert!((1..6).contains(&field("packs:")), "{count}");
    assert!(field("in-pack:") > 200, "{count}");
    let packed = std::fs::read_to_string(lab.places.state_git().join("packed-refs"));
    if let Ok(packed) = packed {
        assert!(packed.contains("refs/inbox/r1-1"), "{packed}");
        assert!(
            !packed.contains("refs/state") && !packed.contains("refs/anchor"),
            "{packed}"
        );
    }
}

#[test]
fn one_packs_at_a_time_and_the_child_keeps_the_turn() {
    let lab = Lab::new(1);
    let first = Packing::begin(&lab.places, Which::State, NOW)
        .unwrap()
        .unwrap();
    assert!(
        Packing::begin(&lab.places, Which::State, NOW)
            .unwrap()
            .is_none()
    );
    let command = first.command(Depth::Quick).unwrap();
    drop(first);
    // What the child is given as its standard output still holds it.
    assert!(!pack::pack(&lab.places, Which::State, Depth::Quick, NOW).unwrap());
    drop(command);
    packed(&lab.places, Which::State, Depth::Quick, NOW).unwrap();
}

#[test]
fn packing_throws_nothing_young_away_and_clears_what_was_killed() {
    let lab = Lab::new(3);
    let state = lab.places.state_git();
    let lost = lab.oid("refs/state");
    lab.git(&["update-ref", "refs/state", "refs/state~1"]);
    let (old, young) = (
        state.join("objects/pack/tmp_pack_old"),
        state.join("objects/pack/.tmp-1-x"),
    );
    for file in [&old, &young] {
        std::fs::write(file, "x").unwrap();
    }
    let day = std::time::Duration::from_secs(2 * 86_400);
    let now = std::fs::metadata(&young).unwrap().modified().unwrap();
    std::fs::File::open(&old)
        .unwrap()
        .set_modified(now - day)
        .unwrap();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    // A power cut left this; it keeps nobody from packing.
    std::fs::write(state.join("packed-refs.lock"), "").unwrap();
    for depth in [Depth::Quick, Depth::Whole] {
        packed(&lab.places, Which::State, depth, now).unwrap();
        lab.git(&["cat-file", "-e", lost.as_str()]);
    }
    assert!(!old.exists() && young.exists());
    assert!(!state.join("packed-refs.lock").exists());
}

#[test]
fn the_door_keeps_what_it_borrows_and_drops_what_is_told() {
    let lab = Lab::new(0);
    let base = BaseRepo::init(lab.places.base_git()).unwrap();
    let door = DoorRepo::init(lab.places.door_git(), &base).unwrap();
    let who = ["-c", "user.name=x", "-c", "user.email=x@y"];
    let commit = |dir: &std::path::Path, message: &str, parent: Option<&str>, date: &str| {
        let git = Git::isolated(dir);
        let tree = git.call(["mktree"]).stdin("").text().unwrap();
        let mut call = git.call(who).args(["commit-tree", "-m", message]);
        if let Some(parent) = parent {
            call = call.args(["-p", parent]);
        }
        call.arg(tree)
            .env("GIT_COMMITTER_DATE", date)
            .text()
            .unwrap()
    };
    let old = commit(base.dir(), "old target", None, "@1700000000 +0000");
    let new = commit(base.dir(), "rewritten", None, "@1700000000 +0000");
    let in_base = Git::isolated(base.dir());
    in_base
        .run(["update-ref", "refs/heads/main", &new])
        .unwrap();
    // Work on a target commit that was rewritten since: only base.git has it.
    let work = commit(door.dir(), "work", Some(&old), "@1790000000 +0000");
    door.keep("job-1", &work.parse().unwrap()).unwrap();
    door.keep("job-2", &work.parse().unwrap()).unwrap();
    std::fs::write(door.dir().join("packed-refs.lock"), "").unwrap();
    for which in [Which::Base, Which::Door] {
        for depth in [Depth::Quick, Depth::Whole] {
            packed(&lab.places, which, depth, NOW).unwrap();
        }
    }
    Git::isolated(door.dir()).run(["fsck", "--full"]).unwrap();
    let packs = std::fs::read_dir(base.dir().join("objects/pack")).unwrap();
    let mut modes = packs.map(|f| f.unwrap().metadata().unwrap().permissions().mode() & 0o044);
    assert!(modes.all(|mode| mode == 0o044), "containers read base.git");

    let refs = pack::dated_refs(&lab.places, Which::Door, "refs/keep/").unwrap();
    let names: Vec<_> = refs.iter().map(|r| (r.name.as_str(), r.seconds)).collect();
    assert_eq!(
        names,
        [
            ("refs/keep/job-1", 1_790_000_000),
            ("refs/keep/job-2", 1_790_000_000)
        ]
    );
    pack::drop_refs(&lab.places, Which::Door, &refs[..1]).unwrap();
    // One that moved since is not dropped.
    door.keep("job-2", &new.parse().unwrap()).unwrap();
    assert!(pack::drop_refs(&lab.places, Which::Door, &refs[1..]).is_err());
    let left = pack::dated_refs(&lab.places, Which::Door, "refs/keep/").unwrap();
    assert_eq!(left.len(), 1);
}
