//! The steps of a job from its issue to its merge, as the kernel journals them.

use factory_core::{
    config::{Config, EngineKind},
    event::{Command, EffectResult, Event, GrantFacts, MergeResult},
    ids::{IssueNo, Oid, PrNo, RunId},
    inbox::{EngineExit, InboxEntry, RunEnd, Usage},
    model::{Change, ContainerExit, Purpose},
};

/// Steps of one life.
pub const STEPS: u64 = 17;
/// Steps of a life that move something to the archive.
pub const ARCHIVING: [u64; 3] = [7, 13, 16];

/// The configuration that such a life needs.
pub fn config() -> Config {
    Config {
        engine: EngineKind::Command(vec!["sh".to_owned(), "./agent.sh".to_owned()]),
        checks: vec!["sh ./test.sh".to_owned()],
        ..Config::default()
    }
}

fn oid(number: u64, kind: u64) -> Oid {
    format!("{kind:08x}{number:032x}").parse().unwrap()
}

/// Step `k` of the life of issue `number`, whose pull request will be `pr`.
pub fn event(k: u64, number: u64, pr: u64) -> Event {
    let (issue, pr) = (IssueNo(number), PrNo(pr));
    let run = |k| RunId { job: issue, k };
    let (target, pushed, merge) = (oid(number, 1), oid(number, 2), oid(number, 3));
    let granted = |purpose, start: &Oid| Event::RunGranted {
        job: issue,
        purpose,
        slot: 0,
        facts: GrantFacts {
            home: "0123abcd".to_owned(),
            start: start.clone(),
            merge_target: None,
            branch_tip: None,
            intent: target.clone(),
            image: format!("sha256:{:064x}", 7),
            fresh_session: false,
        },
    };
    let ended = |run| Event::ContainerEnded {
        run,
        exit: Some(ContainerExit {
            code: 0,
            oom: false,
        }),
    };
    let person = |command| Event::Command {
        by: "Uma User".to_owned(),
        command,
    };
    let end = InboxEntry::End(RunEnd {
        exit: EngineExit::Code(0),
        last_output: "All of it is done.".to_owned(),
        stderr_tail: String::new(),
        report_problem: None,
        push_problem: None,
    });
    let change = Change {
        files: 2,
        lines: 40,
        places: vec!["src".to_owned(), "tests".to_owned()],
        too_large: false,
        with_base_tests: None,
    };
    match k {
        0 => person(Command::NewIssue {
            title: format!("Issue {number}"),
            body: "What is asked for.\n".repeat(20),
            labels: Vec::new(),
            done: Vec::new(),
        }),
        1 => person(Command::Approve(issue)),
        2 => granted(Purpose::Code, &target),
        3 => Event::RunRunning { run: run(1) },
        4 => {
            let said = [
                InboxEntry::Usage(Usage {
                    model: "some-model".to_owned(),
                    status: 200,
                    ..Usage::default()
                }),
                InboxEntry::Push {
                    old: target.clone(),
                    new: pushed.clone(),
                },
                InboxEntry::Report {
                    json: "{\"summary\": \"It is done.\"}".to_owned(),
                },
                end,
            ];
            let entries = (4..)
                .zip(said)
                .map(|(kind, said)| (oid(number, kind), said));
            Event::Inbox {
                run: run(1),
                entries: entries.collect(),
            }
        }
        5 => ended(run(1)),
        6 => Event::EffectDone {
            key: format!("branch-{}", run(1)),
            result: EffectResult::Moved { change },
        },
        7 => Event::RunCollected { run: run(1) },
        8 => granted(Purpose::Check, &pushed),
        9 => Event::RunRunning { run: run(2) },
        10 => Event::Inbox {
            run: run(2),
            entries: vec![(oid(number, 9), end)],
        },
        11 => ended(run(2)),
        12 => Event::Compared {
            job: issue,
            commit: pushed,
            conflicts: Vec::new(),
        },
        13 => Event::RunCollected { run: run(2) },
        14 => person(Command::MergePr(pr)),
        15 => Event::MergeMade {
            pr,
            target,
            result: MergeResult::Clean {
                merge,
                tree_is_heads: true,
                worktree: None,
                protected: factory_core::rules::ToldPaths::default(),
                change,
            },
        },
        16 => Event::EffectDone {
            key: format!("merge-{pr}-{}", merge.short()),
            result: EffectResult::Done,
        },
        _ => panic!("a life has {STEPS} steps"),
    }
}
