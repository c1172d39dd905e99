//! What is read from files and requests: reports, the state, the configuration.

use super::{corpus, corpus_text, hostile};
use crate::{given::config, world::World};
use factory_core::{
    config::Config,
    event::{Command, Event},
    grant::Role,
    ids::{IssueNo, PrNo},
    report::{self, REPORT_LIMIT},
    state::State,
    step::step,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use std::{collections::BTreeMap, sync::LazyLock};

/// Longest message of an error about a short text.
const MESSAGE_LIMIT: usize = 4000;

fn report_holds(text: &[u8]) {
    match report::validate(Role::Code, text) {
        Ok(json) => {
            assert!(
                text.trim_ascii_start().starts_with(b"{"),
                "only objects are reports"
            );
            let again = report::validate(Role::Code, json.as_bytes());
            assert_eq!(again.as_ref(), Ok(&json), "canonical");
            let read = report::parse(&json).unwrap();
            assert!(!read.text().trim().is_empty());
            let out = report::outgoing(&json).unwrap();
            let again = report::outgoing(&serde_json::to_string(&out).unwrap());
            assert_eq!(again, Some(out), "once is enough");
        }
        Err(problem) => assert!(
            problem.to_string().len() < MESSAGE_LIMIT + text.len(),
            "{problem}"
        ),
    }
    assert!(report::validate(Role::Check, text).is_err());
}

fn config_holds(text: &str) {
    match Config::parse(text) {
        Ok(config) => {
            let written = serde_saphyr::to_string(&config).unwrap();
            assert_eq!(Config::parse(&written), Ok(config), "{written}");
        }
        Err(error) => {
            let lines = text.split(['\n', '\r']).count() as u64;
            assert!(error.line <= lines + 1, "{error:?} in {text:?}");
            assert!(
                !error.what.is_empty() && !error.help.is_empty(),
                "{error:?}"
            );
            assert!(
                error.what.len() < MESSAGE_LIMIT + 6 * text.len(),
                "{error:?}"
            );
        }
    }
}

/// Reads a state in which one file is this.
fn state_holds(files: &BTreeMap<String, Vec<u8>>, path: &str, bytes: &[u8]) {
    let mut files = files.clone();
    files.insert(path.to_owned(), bytes.to_vec());
    match State::decode(&files) {
        // What can be read can be planned with.
        Ok(state) => {
            let observed = factory_core::plan::Observed {
                engine: crate::given::engine(),
                ..Default::default()
            };
            drop(factory_core::plan::plan(
                &state,
                &observed,
                factory_core::event::Now(0),
            ));
        }
        Err(error) => {
            assert!(
                error.to_string().len() < MESSAGE_LIMIT + bytes.len(),
                "{error}"
            );
        }
    }
}

/// The live files of a factory in the middle of its work.
fn files() -> &'static BTreeMap<String, Vec<u8>> {
    static FILES: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(begun);
    &FILES
}

fn begun() -> BTreeMap<String, Vec<u8>> {
    let mut world = World::new(7, false, config(false));
    filed(&mut world, "One", "Touches: a\n", "ann");
    filed(&mut world, "Two", "Depends-on: #1\n", "ann");
    let by = || "ann".to_owned();
    for command in [
        Command::Approve(IssueNo(1)),
        Command::Comment {
            issue: IssueNo(1),
            text: "And\n---\nso on".to_owned(),
        },
    ] {
        assert!(world.journal(Event::Command { by: by(), command }));
    }
    world.until_idle();
    let live = world.files.into_iter();
    live.filter(|(path, _)| !path.starts_with("archive/"))
        .collect()
}

fn filed(world: &mut World, title: &str, body: &str, by: &str) -> bool {
    world.journal(Event::Command {
        by: by.to_owned(),
        command: Command::NewIssue {
            title: title.to_owned(),
            body: body.to_owned(),
            labels: Vec::new(),
            done: Vec::new(),
        },
    })
}

#[test]
fn nasty_files() {
    for (name, bytes) in corpus("report") {
        println!("{name}");
        report_holds(&bytes);
    }
    for (name, text) in corpus_text("config") {
        println!("{name}");
        config_holds(&text);
    }
    let files = files();
    for (name, bytes) in corpus("state") {
        println!("{name}");
        for path in files.keys() {
            state_holds(files, path, &bytes);
        }
    }
}

#[test]
fn a_report_is_read_up_to_its_limit() {
    report_holds(&vec![b'['; REPORT_LIMIT]);
    report_holds("{\"summary\":".repeat(REPORT_LIMIT / 12).as_bytes());
}

/// JSON that is nearly a report.
fn nearly_a_report() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![Just("summary"), Just("notes"), Just("other")];
    let value = prop_oneof![
        4 => hostile().prop_map(|text| serde_json::Value::from(text).to_string()),
        1 => hostile(),
        1 => Just("null".to_owned()),
    ];
    (vec((field, value), 0..4), any::<bool>()).prop_map(|(fields, listed)| {
        let join = |fields: Vec<String>| fields.join(",");
        // The values alone, as well, in a list.
        let text = match listed {
            true => format!("[{}]", join(fields.into_iter().map(|(_, v)| v).collect())),
            false => {
                let named = fields.iter().map(|(k, v)| format!("\"{k}\":{v}"));
                format!("{{{}}}", join(named.collect()))
            }
        };
        text.into_bytes()
    })
}

/// YAML that is nearly a configuration.
fn nearly_a_config() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        Just("slots: "),
        Just("engine: "),
        Just("model: "),
        Just("checks: "),
        Just("limits: "),
        Just("budget: "),
        Just("gates: "),
        Just("types: "),
        Just("prices: "),
        Just("image: "),
        Just("models: "),
        Just("branch_prefix: "),
        Just("rounds: "),
        Just("version: "),
    ];
    let value = prop_oneof![
        2 => hostile(),
        1 => "[0-9]{1,22}",
        1 => "[0-9]{1,20}(GiB|MiB|m|s|h)?",
        1 => "\\{[a-z]{1,6}: [a-z0-9{}\\[\\]:, ]{0,12}\\}?",
        1 => Just("{wall: 45m, memory: 4GiB, cpus: 0.5}".to_owned()),
        1 => Just("{per_run: {usd: 5}, per_job: {tokens: 7}}".to_owned()),
        1 => Just("auto".to_owned()),
    ];
    vec((key, value), 0..5).prop_map(|lines| {
        let lines = lines.iter().map(|(key, value)| format!("{key}{value}\n"));
        lines.collect()
    })
}

proptest! {
    #[test]
    fn reports_are_refused_or_canonical(report in nearly_a_report(), noise in vec(any::<u8>(), 0..40)) {
        report_holds(&report);
        report_holds(&noise);
        let mut cut = report;
        cut.truncate(cut.len() / 2);
        report_holds(&cut);
    }

    #[test]
    fn configurations_are_wrong_at_a_place_or_read_the_same_again(text in nearly_a_config(), any in hostile()) {
        config_holds(&text);
        config_holds(&any);
    }

    #[test]
    fn damaged_states_are_named(which in any::<Index>(), at in any::<Index>(), put in hostile(), noise in any::<bool>()) {
        let files = files();
        let (path, bytes) = files.iter().nth(which.index(files.len())).unwrap();
        let at = at.index(bytes.len() + 1);
        let mut damaged = bytes[..at].to_vec();
        damaged.extend_from_slice(put.as_bytes());
        if noise {
            damaged.extend_from_slice(&bytes[at..]);
        }
        state_holds(files, path, &damaged);
        state_holds(files, &put, bytes);
    }

}

proptest! {
    // Whole lives take their time.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

    /// `World::journal` reads all that it writes and holds it against what is meant.
    #[test]
    fn whatever_is_filed_is_read_again(title in hostile(), body in hostile(), by in hostile(), more in hostile()) {
        let mut world = World::new(7, false, config(false));
        filed(&mut world, &title, &body, &by);
        filed(&mut world, "Plain", "", "ann");
        let number = IssueNo(world.state.meta.last_issue);
        let order = |command| Event::Command { by: by.clone(), command };
        world.journal(order(Command::Comment { issue: number, text: more.clone() }));
        world.journal(order(Command::Approve(number)));
        world.until_idle();
        world.journal(order(Command::RejectPr { pr: PrNo(1), reason: more.clone() }));
        let mut state = State::new("repo".into(), "main".into());
        for (event, now) in &world.log {
            let made = step(&state, event.clone(), *now).unwrap();
            let hidden = made.note.chars().find(|c| *c == '\n' || *c == '\u{1b}' || *c == '\u{202e}');
            prop_assert_eq!(hidden, None, "{}", made.note);
            state.apply(made.delta);
        }
        world.assert_replay();
    }
}
