//! `factory plan` and `factory job`: every issue of a mixed queue says why it waits.

use crate::lab::{CONFIG, Lab};
use factory_core::{
    config::Amounts,
    event::Event,
    model::KernelId,
    quantity::{Bytes, Milli},
};

/// What a kernel with an engine of this size journals when it starts.
fn seen(lab: &Lab, gib: u64) {
    lab.journal(Event::KernelStarted {
        kernel: KernelId {
            host: "here".to_owned(),
            pid: 1 << 30,
            boot: "boot".to_owned(),
            since: 1_795_226_401,
            start: None,
            slots: None,
            engine: Some(Amounts {
                memory: Bytes(gib << 30),
                cpus: Milli(64_000),
            }),
        },
        adopted: Vec::new(),
    });
}

#[test]
fn each_of_fifty_issues_is_told_what_it_waits_for() {
    let lab = Lab::new(&format!("{CONFIG}requests: {{memory: 3GiB}}\n"));
    // What is told of an issue, by what was done with it.
    let mut expected = Vec::new();
    for n in 1..=50_u64 {
        let label = ["priority/critical", "priority/high", "ui", "priority/low"][(n % 4) as usize];
        let title = format!("Work {n}");
        let kind = (n - 1) / 5;
        let body = match kind {
            3 => "Depends-on: #1, #2\n".to_owned(),
            4 => format!("depends-on: #{}\n", n - 5),
            _ => "Do it.\n".to_owned(),
        };
        let args = ["issue", "new", "-t", &title, "-b", &body, "-l", label];
        lab.factory(&args).ok();
        let number = n.to_string();
        if kind != 9 {
            lab.factory(&["issue", "approve", &number]).ok();
        }
        expected.push(match kind {
            2 => {
                lab.factory(&["job", "hold", &number]).says(&["release"]);
                ("held", "held by Ann".to_owned())
            }
            3 => ("depends", "waits until #1 is done".to_owned()),
            4 => ("depends", format!("waits until #{} is done", n - 5)),
            9 => ("approval", "waits for your approval".to_owned()),
            // In line for room; where, is looked at below.
            _ => ("memory", String::new()),
        });
    }
    lab.factory(&["job", "bump", "50"])
        .fails(5, &["has no job"]);
    lab.factory(&["job", "bump", "44"]).ok();
    // One of those that others wait for is given up.
    lab.factory(&["issue", "close", "2"]).ok();
    expected[1] = ("closed", String::new());
    for n in 16..=20 {
        let told = "depends on #2, which was closed without being done";
        expected[n - 1] = ("given-up", told.to_owned());
    }
    seen(&lab, 9);
    let plan = lab.factory(&["plan", "--json"]).json();
    assert_eq!(plan["running"], false);
    assert_eq!(plan["memory"]["total"], 7_u64 << 30);
    let issues = plan["issues"].as_array().unwrap();
    assert_eq!(issues.len(), 49);
    let mut line = Vec::new();
    for issue in issues {
        let n = issue["issue"].as_u64().unwrap();
        let (reason, text) = &expected[n as usize - 1];
        let is_in_line = *reason == "memory";
        if is_in_line {
            line.push((n, issue));
            continue;
        }
        assert_eq!(
            (&issue["standing"], &issue["reason"]),
            (&"waits".into(), &(*reason).into()),
            "{issue}"
        );
        assert_eq!(issue["text"], *text, "{issue}");
        assert!(issue["place"].is_null());
    }
    // 7 GiB for two; the bumped one first, then by priority, then by number.
    let level = |n: u64| match n % 4 {
        0 => 0,
        1 => 1,
        2 => 2,
        _ => 3,
    };
    let mut order: Vec<u64> = line.iter().map(|(n, _)| *n).collect();
    order.sort_by_key(|n| (*n != 44, level(*n), *n));
    assert_eq!(line.iter().map(|(n, _)| *n).collect::<Vec<_>>(), order);
    for (k, (n, issue)) in line.iter().enumerate() {
        match k {
            0..=1 => assert_eq!(issue["text"], format!("starts now in slot {k}"), "{n}"),
            _ => {
                assert_eq!(issue["place"], k - 1, "{issue}");
                let text = issue["text"].as_str().unwrap();
                assert!(text.starts_with("waits for 2GiB of memory, "), "{text}");
            }
        }
    }
    let said = lab.factory(&["plan"]);
    said.says(&[
        "slots: 0/3  memory: 0.0GiB/7.0GiB",
        "does not run",
        "waits for 2GiB of memory, 1st in line",
        "depends on #2, which was closed",
    ]);
}

#[test]
fn quotas_paths_and_daily_numbers_are_told_as_well() {
    let told = |types: &str| {
        let lab = Lab::new(&format!("{CONFIG}types: {types}\n"));
        for body in ["Touches: src", "Touches: `src/a`, docs/*.md", "", ""] {
            lab.factory(&["issue", "new", "-t", "Work", "-b", body])
                .ok();
        }
        for n in ["1", "2", "3", "4"] {
            lab.factory(&["issue", "approve", n]).ok();
        }
        lab.factory(&["issue", "show", "2"])
            .says(&["touches  docs, src/a"]);
        lab.factory(&["issue", "new", "-t", "Work", "-b", "Touches: ../up"])
            .fails(5, &["`../up` leads out of the repository", "src/auth"]);
        seen(&lab, 99);
        let plan = lab.factory(&["plan", "--json"]).json();
        let issues = plan["issues"].as_array().unwrap().clone();
        let mut told: Vec<(u64, String, String)> = issues
            .iter()
            .filter(|issue| issue["standing"] == "waits")
            .map(|issue| {
                let word = |key: &str| issue[key].as_str().unwrap().to_owned();
                (
                    issue["issue"].as_u64().unwrap(),
                    word("reason"),
                    word("text"),
                )
            })
            .collect();
        told.sort_unstable();
        told
    };
    let said = |n: u64, reason: &str, text: &str| (n, reason.to_owned(), text.to_owned());
    let touches = || said(2, "touches", "waits for #1, which touches src/a too");
    let quota = "waits for a worker slot: 2/2 used, 1st in line";
    let kept = "waits for a slot: 1 free, kept for other types of agents, 1st in line";
    let day =
        "the pull requests of the day (types.worker.per_day.pull_requests) are opened or under way";
    for (types, last) in [
        ("{worker: {max: 2}}", said(4, "quota", quota)),
        ("{sensor: {min: 1}}", said(4, "quota", kept)),
        (
            "{worker: {per_day: {pull_requests: 2}}}",
            said(4, "day-pull-requests", day),
        ),
    ] {
        assert_eq!(told(types), [touches(), last], "{types}");
    }
}

#[test]
fn what_is_ordered_for_a_job_is_said_and_shown() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["plan"]).says(&["no open issue"]);
    lab.factory(&["job", "list"]).ok();
    for title in ["One", "Two"] {
        lab.factory(&["issue", "new", "-t", title]).ok();
    }
    lab.factory(&["issue", "label", "1", "--add", "priority/urgent"])
        .fails(5, &["priority/urgent", "known are priority/critical"]);
    lab.factory(&["issue", "label", "1", "--add", "priority/high"])
        .says(&["issue 1 has the labels priority/high"]);
    lab.factory(&["issue", "depend", "2", "--on", "1"])
        .says(&["issue 2 waits until #1 is done"]);
    lab.factory(&["issue", "depend", "1", "--on", "#2"])
        .fails(5, &["cycle: #1 waits for #2 waits for #1"]);
    lab.factory(&["issue", "depend", "2", "--on", "2"])
        .fails(5, &["cannot depend on itself"]);
    lab.factory(&["issue", "depend", "2", "--on", "77"])
        .fails(5, &["there is no open issue 77"]);
    lab.factory(&["issue", "show", "2"])
        .says(&["depends  on #1"]);
    lab.factory(&["job", "show", "1"])
        .fails(5, &["issue 1 has no job"]);
    lab.factory(&["issue", "approve", "1"]).ok();
    lab.factory(&["job", "hold", "1"]).ok();
    lab.factory(&["job", "hold", "1"])
        .fails(5, &["is held already, by Ann"]);
    lab.factory(&["job", "show", "1"]).says(&[
        "held by Ann",
        "priority  high",
        "branch    factory/1-one",
    ]);
    lab.factory(&["job", "list"]).says(&["held by Ann"]);
    lab.factory(&["status"])
        .says(&["Jobs that you hold back", "factory job release 1"]);
    lab.factory(&["job", "release", "1"]).says(&["released"]);
    lab.factory(&["job", "retry", "1"])
        .fails(5, &["neither rests nor needs a person"]);
    lab.factory(&["job", "cancel", "1"])
        .says(&["waits for your approval"]);
    lab.factory(&["plan"]).says(&["waits for your approval"]);
    lab.factory(&["issue", "depend", "2", "--off", "1"])
        .says(&["issue 2 depends on nothing"]);
}
