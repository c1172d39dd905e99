//! The same scenario on real Docker with the installed program: one death per
//! kind of effect, and deaths at random.

use crate::{
    Sum,
    random::{Random, seed},
    scene, turn,
};
use factory_core::{
    container::ContainerSpec,
    ids::{IssueNo, RunId},
};
use factory_tests::{End, Lab, docker, kill, live_state, processes, reap};
use std::{
    collections::BTreeMap,
    fs::File,
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The engine: see there.
const AGENT: &str = include_str!("agent.sh");
const CONFIG: &str =
    "slots: 3\nchecks: [\"! grep -q draft topic.txt\"]\ngates: {issues: auto, merge: auto}\n";
/// How often something is looked at that tells nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// No round takes longer; not a pause, only the point where it gives up.
const LONGEST: Duration = Duration::from_secs(400);
/// After so many deaths a factory is left alone, so that it comes to its end.
const KILLS_PER_ROUND: usize = 20;

/// One death per kind of effect, right after it: it is done, and nothing says so yet.
const KINDS: [&str; 23] = [
    "after-fetch-target",
    "after-files",
    "after-workspace",
    "after-open-door",
    "after-create",
    "after-start",
    "after-conclude",
    "after-remove",
    "after-close-door",
    "after-remove-workspace",
    "after-remove-files",
    "after-close-run",
    "after-move-branch",
    "after-make-merge",
    "after-keep-merge",
    "after-merge",
    "gateway-after-open-run",
    "gateway-after-bind",
    "gateway-push-unrecorded",
    SAVING,
    "gateway-after-report",
    "gateway-after-transcript",
    "gateway-after-close",
];

/// The one that only a run comes to that lives long enough.
const SAVING: &str = "gateway-checkpoint-unrecorded";

fn made() -> Lab {
    let lab = Lab::new();
    lab.scripted(AGENT, CONFIG);
    for title in ["First", "Second"] {
        lab.ok(&["issue", "new", "--title", title, "--body", "Do it."]);
    }
    lab.ok(&["image", "build"]);
    lab
}

/// Does `work` while the user of the scenario does their part: see `agent.sh` for the marks.
/// Until it is `saved` the second agent has something new to save.
fn directed<T>(lab: &Lab, saved: &AtomicBool, work: impl FnOnce() -> T) -> T {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                direct(lab, saved);
                std::thread::park_timeout(LOOK_AGAIN);
            }
        });
        let _over = Over(&over);
        work()
    })
}

fn direct(lab: &Lab, saved: &AtomicBool) {
    let base = lab.below("base.git");
    if !base.join("HEAD").exists() {
        return;
    }
    let marks = base.join("marks");
    std::fs::create_dir_all(&marks).unwrap();
    let mark = |name: &str| File::create(marks.join(name)).map(drop).unwrap();
    let state = live_state(&lab.below("state.git"));
    // The second issue's work begins before the first is merged.
    let second = state.issues.get(&IssueNo(2));
    if second.is_none_or(|issue| issue.runs > 0) {
        mark("second");
    }
    if lab.repo().join(".git/refs/heads/factory/1-first").exists() {
        scene::user_commits(lab.repo());
        mark("moved");
    }
    if saved.load(Ordering::Acquire) && scene::first_is_merged(lab.repo()) {
        mark("merged");
    }
}

/// The end when nobody is killed.
fn undisturbed() -> &'static End {
    static END: OnceLock<End> = OnceLock::new();
    END.get_or_init(|| {
        let lab = made();
        directed(&lab, &AtomicBool::new(true), || lab.until_idle_ok());
        let end = ended(&lab);
        assert_eq!(end.subjects, scene::SUBJECTS);
        assert!(end.open.is_empty() && end.dirty.is_empty(), "{end:#?}");
        end
    })
}

fn ended(lab: &Lab) -> End {
    lab.assert_at_rest();
    End::of(lab.repo())
}

#[test]
fn killed_after_each_kind_of_effect_it_comes_to_the_same_end() {
    let _turn = turn();
    let undisturbed = undisturbed();
    let began = Instant::now();
    let lab = made();
    let mut left = KINDS.to_vec();
    let saved = AtomicBool::new(false);
    directed(&lab, &saved, || {
        loop {
            let failpoints: Vec<String> = left.iter().map(|k| format!("{k}=return")).collect();
            let failpoints = [("FAILPOINTS", failpoints.join(";"))];
            let env: Vec<_> = failpoints.iter().map(|(k, v)| (*k, v.as_str())).collect();
            let mut start = lab.begin(&["--until-idle"], &env);
            if start.failpoint().is_none() {
                let ended = start.ended();
                assert_eq!(ended.code, 0, "{}", ended.text());
                break;
            }
            // Kernel and gateway may have been stopped at one each; neither may come again.
            let said = start.kill_all();
            left.retain(|kind| !said.contains(&format!("failpoint {kind} reached")));
            saved.store(!left.contains(&SAVING), Ordering::Release);
        }
    });
    assert!(left.is_empty(), "nobody was killed at {left:?}");
    let mut sum = Sum::default();
    sum.add(&ended(&lab), undisturbed, || lab.ok(&["log"]));
    println!(
        "kinds: kills={} lost={} doubled={} seconds={}",
        KINDS.len(),
        sum.lost,
        sum.doubled,
        began.elapsed().as_secs()
    );
    assert!(sum.stories.is_empty(), "{}", sum.stories.join("\n"));
}

#[test]
fn killed_at_random_it_comes_to_the_same_end() {
    let _turn = turn();
    let line = rounds(40, seed());
    println!("random: {line}");
}

#[test]
#[ignore = "`make soak` runs it, for an hour"]
fn soak() {
    let _turn = turn();
    let kills = std::env::var("FACTORY_KILLS").unwrap_or_default();
    let line = rounds(kills.parse().unwrap(), seed());
    println!("{line}");
    if let Some(result) = std::env::var_os("FACTORY_SOAK_RESULT") {
        std::fs::write(result, format!("{line}\n")).unwrap();
    }
}

/// Factories one after the other, until `wanted` processes and containers were killed.
fn rounds(wanted: usize, seed: u64) -> String {
    let undisturbed = undisturbed();
    let began = Instant::now();
    let mut random = Random::new(seed);
    let mut sum = Sum::default();
    while sum.kills < wanted {
        let lab = made();
        let budget = KILLS_PER_ROUND.min(wanted - sum.kills);
        let mut round = Round {
            lab: &lab,
            logs: tempfile::tempdir().unwrap(),
            starts: 0,
            kills: Vec::new(),
            last: BTreeMap::new(),
            began: Instant::now(),
        };
        directed(&lab, &AtomicBool::new(true), || {
            round.play(&mut random, budget)
        });
        sum.kills += round.kills.len();
        sum.add(&ended(&lab), undisturbed, || round.story());
        println!(
            "round {}: {} kills, {} s: {}",
            sum.passes,
            round.kills.len(),
            round.began.elapsed().as_secs(),
            round.kills.join(", ")
        );
        let told = sum.stories.join("\n");
        assert!(told.is_empty(), "FACTORY_SEED={seed}\n{told}");
    }
    println!("seconds={}", began.elapsed().as_secs());
    format!(
        "rounds={} kills={} lost={} doubled={}",
        sum.passes, sum.kills, sum.lost, sum.doubled
    )
}

/// One factory whose processes and containers die at random.
struct Round<'a> {
    lab: &'a Lab,
    logs: TempDir,
    starts: usize,
    kills: Vec<String>,
    /// The run of each job whose container was killed last.
    last: BTreeMap<IssueNo, RunId>,
    began: Instant,
}

impl Round<'_> {
    /// `factory start` again and again, until it ends by itself.
    fn play(&mut self, random: &mut Random, budget: usize) {
        loop {
            let mut launcher = self.start();
            loop {
                if let Some(status) = self.pause(random, Some(&mut launcher)) {
                    assert!(status.success(), "it ended with {status}\n{}", self.story());
                    return;
                }
                if self.kills.len() < budget && self.strike(random, &mut launcher) {
                    break;
                }
            }
        }
    }

    fn log(&self, start: usize) -> PathBuf {
        self.logs.path().join(start.to_string())
    }

    fn start(&mut self) -> Child {
        let log = File::create(self.log(self.starts)).unwrap();
        self.starts += 1;
        self.lab
            .factory()
            .args(["start", "--until-idle"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn story(&self) -> String {
        let mut story = format!("killed: {}\n", self.kills.join(", "));
        for start in 0..self.starts {
            let text = std::fs::read(self.log(start)).unwrap();
            story.push_str(&format!(
                "== start {start}\n{}",
                String::from_utf8_lossy(&text)
            ));
        }
        story
    }

    /// Lets a random time pass, or the time until the launcher ends.
    fn pause(&self, random: &mut Random, launcher: Option<&mut Child>) -> Option<ExitStatus> {
        let until = Instant::now() + Duration::from_millis(random.below(2000));
        let mut launcher = launcher;
        while Instant::now() < until {
            if let Some(launcher) = &mut launcher
                && let Some(status) = launcher.try_wait().unwrap()
            {
                return Some(status);
            }
            assert!(
                self.began.elapsed() < LONGEST,
                "no end after {LONGEST:?}\n{}",
                self.story()
            );
            std::thread::park_timeout(LOOK_AGAIN);
        }
        None
    }

    /// Kills something. Tells whether the factory has to be started again.
    fn strike(&mut self, random: &mut Random, launcher: &mut Child) -> bool {
        let victim = match random.below(100) {
            0..35 => "kernel",
            35..55 => "gateway",
            55..85 => {
                self.kill_container(random);
                return false;
            }
            85..93 => "launcher",
            _ => "all",
        };
        // A launcher waits the longer the more often its children die: then it dies itself.
        if self.kill(victim) {
            return false;
        }
        launcher.kill().unwrap();
        launcher.wait().unwrap();
        self.kills.push("launcher".to_owned());
        if victim == "launcher" {
            // The others go on without it for a while.
            self.pause(random, None);
        }
        for role in ["kernel", "gateway"] {
            self.kill(role);
        }
        true
    }

    /// SIGKILL to a process of this factory, if it is there.
    fn kill(&mut self, role: &str) -> bool {
        let found = processes(self.lab.repo());
        let Some(process) = found.iter().find(|process| process.is(role)) else {
            return false;
        };
        kill(process.pid);
        // Without a launcher it is a child of this test by now.
        reap(process.pid);
        self.kills.push(role.to_owned());
        true
    }

    /// Kills a container by the engine. Three losses in a row ask a person: so
    /// a job's next run may come to its end first.
    fn kill_container(&mut self, random: &mut Random) {
        let state = live_state(&self.lab.below("state.git"));
        let home = self.lab.home().unwrap();
        let mut runs: Vec<RunId> = state.runs.values().map(|run| run.id).collect();
        runs.retain(|run| {
            let unharmed = state.jobs.get(&run.job).is_some_and(|job| job.losses == 0);
            let last = self.last.get(&run.job);
            unharmed && last.is_none_or(|last| !state.runs.contains_key(last))
        });
        let label = format!("label=factory.home={home}");
        let running = docker(&["ps", "--filter", &label, "--format", "{{.Names}}"]);
        let name_of = |run: RunId| ContainerSpec::name_for(&home, run);
        runs.retain(|run| running.lines().any(|name| name == name_of(*run)));
        if runs.is_empty() {
            return;
        }
        let count = u64::try_from(runs.len()).unwrap();
        let run = runs[usize::try_from(random.below(count)).unwrap()];
        let mut command = std::process::Command::new("docker");
        // It may have ended just now.
        let killed = command.args(["kill", &name_of(run)]).output().unwrap();
        if killed.status.success() {
            self.last.insert(run.job, run);
            self.kills.push(format!("container {run}"));
        }
    }
}
