//! The full sweep on the Runtime double.

use crate::{
    Sum,
    agent::Scenario,
    pass::{self, Deaths, ENGINE, IMAGE, Pass, Template, play},
    scene, turn,
};
use factory::kernel::{self, ImageOf, Options};
use factory_testkit::served::ServedRuntime;
use factory_tests::End;
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

#[test]
#[ignore = "the sweep runs it, each in a process of its own"]
fn the_kernel() {
    let Some(engine) = std::env::var_os(ENGINE) else {
        return;
    };
    let runtime = ServedRuntime::at(PathBuf::from(engine));
    let images: ImageOf = Arc::new(|_, _| Box::pin(async { Ok(IMAGE.to_owned()) }));
    let options = Options {
        until_idle: true,
        follow_target: true,
        ..Options::default()
    };
    let cwd = std::env::current_dir().unwrap();
    let threads = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ended = kernel::open(&cwd, None, None).and_then(|(factory, lock)| {
        threads.block_on(kernel::run(factory, lock, runtime, images, options))
    });
    match ended {
        Ok(code) => std::process::exit(code.into()),
        Err(failure) => {
            failure.report();
            std::process::exit(1);
        }
    }
}

/// Every kernel after the first of a pass dies at its this-many-th failpoint.
const KERNEL_STRIDE: usize = 40;
/// The same for the gateway, which has fewer of them.
const GATEWAY_STRIDE: usize = 20;
/// Passes at a time: a factory that starts again waits more than it works.
const AT_ONCE: usize = 4;
/// The repositories of every so many passes are checked object by object.
const FSCK_EVERY: usize = 8;
/// Names that the strides stepped over and that one more pass dies at.
const MISSED_AT_ONCE: usize = 12;
/// What falls together depends on who is quicker: a name may not be passed in every pass.
const TRIES: usize = 10;
/// So many failures are told.
const STORIES: usize = 3;

impl Pass {
    /// Nobody dies.
    fn undisturbed(scenario: Scenario) -> Self {
        Self {
            name: "undisturbed".to_owned(),
            scenario,
            deaths: Deaths::Never,
            fsck: true,
        }
    }

    /// The kernel dies first at its `first`-th failpoint, the gateway at the same within its stride.
    fn strided(first: usize) -> Self {
        Self {
            name: format!("pass {first}"),
            scenario: Scenario::Merged,
            deaths: Deaths::Strided {
                first: [first, (first - 1) % GATEWAY_STRIDE + 1],
                stride: [KERNEL_STRIDE, GATEWAY_STRIDE],
            },
            fsck: first.is_multiple_of(FSCK_EVERY),
        }
    }

    /// Somebody dies at each of these names.
    fn named(scenario: Scenario, names: &[String]) -> Self {
        Self {
            name: format!("pass of {names:?}"),
            scenario,
            deaths: Deaths::Named(names.to_vec()),
            fsck: true,
        }
    }
}

/// Plays passes, several at a time; gives what they came to and where somebody was killed.
fn play_all(template: &Template, undisturbed: &End, passes: &[Pass]) -> (Sum, Vec<String>) {
    let next = AtomicUsize::new(0);
    let all = Mutex::new((Sum::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(pass) = passes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = play(template, pass);
                    let mut all = all.lock().unwrap();
                    let (sum, killed) = &mut *all;
                    sum.kills += outcome.killed.len();
                    let story = || format!("{}\n{}", pass.name, outcome.story);
                    sum.add(&outcome.end, undisturbed, story);
                    if !outcome.wrong.is_empty() {
                        let (name, wrong, story) = (&pass.name, &outcome.wrong, &outcome.story);
                        sum.stories.push(format!("{name}: {wrong:#?}\n{story}"));
                    }
                    killed.extend(outcome.killed);
                    if sum.stories.len() >= STORIES {
                        next.store(passes.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    all.into_inner().unwrap()
}

/// Points that only a kernel passes which finds a merge half done: each is the next kernel's.
const RECOVERING: &[&str] = &[
    "before-merge",
    "before-recover-merge",
    "after-recover-merge",
];
/// Points that only a kernel passes which ends runs by order, for one pass each.
const BY_ORDER: [&[&str]; 3] = [
    &["before-kill", "after-kill", "before-stop", "after-stop"],
    &["before-end-ordered", "before-end-reached"],
    &["after-end-ordered", "after-end-reached"],
];

/// Each name once.
fn set<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut set = Vec::new();
    for name in names {
        if !set.contains(name) {
            set.push(name.clone());
        }
    }
    set
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn killed_at_every_point_it_comes_to_the_same_end() {
    let _turn = turn();
    let began = Instant::now();
    let template = Template::new(&pass::model());
    let undisturbed = |scenario| {
        let outcome = play(&template, &Pass::undisturbed(scenario));
        assert_eq!(outcome.wrong, [""; 0], "{}", outcome.story);
        outcome
    };
    let (mut sum, mut killed) = (Sum::default(), Vec::new());
    let mut sweep = |undisturbed: &End, passes: &[Pass]| {
        let (more, also) = play_all(&template, undisturbed, passes);
        sum.passes += more.passes;
        sum.kills += more.kills;
        sum.lost += more.lost;
        sum.doubled += more.doubled;
        sum.stories.extend(more.stories);
        killed.extend(also);
        set(&killed)
    };

    let merged = undisturbed(Scenario::Merged);
    assert_eq!(merged.end.subjects, scene::SUBJECTS);
    let mut passes: Vec<_> = (1..=KERNEL_STRIDE).map(Pass::strided).collect();
    passes.push(Pass::named(Scenario::Merged, &owned(RECOVERING)));
    sweep(&merged.end, &passes);
    let by_order = undisturbed(Scenario::ByOrder);
    let named = BY_ORDER.map(|names| Pass::named(Scenario::ByOrder, &owned(names)));
    let mut killed = sweep(&by_order.end, &named);

    // Whichever the strides stepped over.
    let mut points = owned(RECOVERING);
    for outcome in [&merged, &by_order] {
        let told = set(&outcome.told);
        for _ in 0..TRIES {
            let missed = told.iter().filter(|point| !killed.contains(point));
            let missed: Vec<_> = missed.cloned().collect();
            let passes = missed.chunks(MISSED_AT_ONCE);
            let passes = passes.map(|names| Pass::named(outcome.scenario, names));
            killed = sweep(&outcome.end, &passes.collect::<Vec<_>>());
        }
        points.extend(told);
    }
    points = set(&points);
    println!(
        "sweep: points={} hits={} passes={} kills={} lost={} doubled={} seconds={}",
        points.len(),
        merged.told.len() + by_order.told.len(),
        sum.passes,
        sum.kills,
        sum.lost,
        sum.doubled,
        began.elapsed().as_secs()
    );
    assert!(sum.stories.is_empty(), "{}", sum.stories.join("\n\n"));
    points.retain(|point| !killed.contains(point));
    assert_eq!(points, [""; 0], "nobody was killed there");
}
