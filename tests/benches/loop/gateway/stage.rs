//! The installed gateway with the doors of granted runs: all of a live factory that a call
//! of a model meets. Kernel and containers take no part in one.

use super::client::Way;
use crate::process::Process;
use factory_core::{
    config::Config,
    event::{Command, Event, GrantFacts, Now},
    ids::{IssueNo, Oid, RunId},
    model::Purpose,
    state::State,
    step::step,
};
use factory_gateway::client::wake;
use factory_ledger::{base::BaseRepo, places::Places, state::StateRepo, user::UserRepo};
use factory_tests::Lab;
use std::{
    io::Write,
    net::SocketAddr,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

/// Where the start of a gateway is given up.
const LONGEST: Duration = Duration::from_secs(60);

/// A running gateway. Dropping it ends it.
pub struct Stage {
    // Kept before the lab, which would find it running.
    gateway: Gateway,
    places: Places,
    runs: Vec<RunId>,
    _lab: Lab,
}

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        // Where a measurement broke off it may be gone already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Stage {
    /// A gateway with the doors of so many runs, whose model listens there.
    pub async fn new(model: SocketAddr, runs: u32) -> Self {
        let lab = Lab::new();
        lab.write("file", "one\n");
        lab.commit("Begin");
        let places = Places::discover(lab.repo()).unwrap();
        places.ensure_dirs().unwrap();
        let base = BaseRepo::init(places.base_git()).unwrap();
        let user = UserRepo::open(places.common_dir());
        let start = base.fetch_target(&user, "main").unwrap();
        let runs = grant(&places, model, &start, runs);
        let mut child = lab
            .factory()
            .args(["gateway", "--directory"])
            .arg(lab.repo())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut keys = child.stdin.take().unwrap();
        keys.write_all(br#"{"BENCH_API_KEY":"a-made-up-key"}"#)
            .unwrap();
        drop(keys);
        let stage = Self {
            gateway: Gateway(child),
            places,
            runs,
            _lab: lab,
        };
        let begun = Instant::now();
        // Its own socket answers once all doors are open.
        while let Err(error) = wake(&stage.places).await {
            assert!(begun.elapsed() < LONGEST, "the gateway: {error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stage
    }

    /// The door of the `n`-th run; after the last one comes the first again.
    pub fn door(&self, n: usize) -> Way {
        let run = self.runs[n % self.runs.len()];
        Way::Door(self.places.run_socket(run))
    }

    /// The gateway itself.
    pub fn process(&self) -> Process {
        Process::of(self.gateway.0.id())
    }
}

/// A state in which so many runs are granted, as the kernel writes it.
fn grant(places: &Places, model: SocketAddr, start: &Oid, runs: u32) -> Vec<RunId> {
    let store = StateRepo::init(places).unwrap();
    let mut state = State::new("bench".to_owned(), "main".to_owned());
    let first = store.commit(None, &state.initial_files(), "begin", 0);
    let mut head = first.unwrap().oid().clone();
    let mut journal = |event| {
        let made = step(&state, event, Now(0)).unwrap();
        let files = made.delta.files();
        let landed = store.commit(Some(&head), &files, &made.message(), 0);
        head = landed.unwrap().oid().clone();
        state.apply(made.delta.clone());
    };
    let config = format!(
        "engine: claude\nslots: {runs}\nbudget: {{per_run: {{tokens: 1000000000000}}}}\nmodels: {{anthropic: {{base_url: \"http://{model}\", key_env: BENCH_API_KEY}}}}\n"
    );
    journal(Event::ConfigLoaded {
        commit: None,
        config: Box::new(Config::parse(&config).unwrap()),
    });
    let person = |command| Event::Command {
        by: "Uma User".to_owned(),
        command,
    };
    let granted = (0..runs).map(|slot| {
        let job = IssueNo(u64::from(slot) + 1);
        journal(person(Command::NewIssue {
            title: format!("Issue {job}"),
            body: String::new(),
            labels: Vec::new(),
            done: Vec::new(),
        }));
        journal(person(Command::Approve(job)));
        journal(Event::RunGranted {
            job,
            purpose: Purpose::Code,
            slot,
            facts: GrantFacts {
                home: "0123abcd".to_owned(),
                start: start.clone(),
                merge_target: None,
                branch_tip: None,
                intent: start.clone(),
                image: format!("sha256:{:064x}", 7),
                fresh_session: false,
            },
        });
        RunId { job, k: 1 }
    });
    granted.collect()
}
