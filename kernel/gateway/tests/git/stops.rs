//! The gateway killed at each place around an inbox entry: what the next one
//! finds, and what it writes.

use crate::checkpoints::checkpoint;
use crate::lab::{Lab, Served};
use crate::{BRANCH, RUN};
use factory_core::budget::{Limit, Prices};
use factory_core::grant::{ModelGrant, WireApi};
use factory_core::inbox::InboxEntry;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// What the process that is stopped does at its door.
const ACT: &str = "FACTORY_TEST_ACT";

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        // Gone already where it never reached its failpoint.
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

/// The kinds of entries in the inbox after a gateway that does `act` is killed
/// at `failpoint`, and after the next one opened the run's door.
fn killed(failpoint: &str, act: &str) -> (Vec<&'static str>, Vec<&'static str>) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut stopped = Stopped(
        command
            .args([
                "--ignored",
                "--exact",
                "stops::a_gateway_that_is_stopped",
                "--nocapture",
            ])
            .env("TMPDIR", folder.path())
            .env("FAILPOINTS", format!("{failpoint}=return"))
            .env(ACT, act)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let reached = format!("failpoint {failpoint} reached");
    let mut said = Vec::new();
    for line in BufReader::new(stopped.0.stderr.take().unwrap()).lines() {
        said.push(line.unwrap());
        if said.last() == Some(&reached) {
            break;
        }
    }
    assert_eq!(said.last(), Some(&reached), "{}", said.join("\n"));
    drop(stopped);
    let lab = Lab::left_in(folder);
    let before = kinds(&lab);
    drop(lab.open(RUN, Some(BRANCH)));
    (before, kinds(&lab))
}

fn kinds(lab: &Lab) -> Vec<&'static str> {
    let kind = |entry| match entry {
        InboxEntry::Push { .. } => "push",
        InboxEntry::Usage(_) => "usage",
        InboxEntry::OverBudget => "over-budget",
        InboxEntry::Checkpoint { .. } => "checkpoint",
        InboxEntry::Report { .. } => "report",
        InboxEntry::End(_) => "end",
    };
    lab.entries(RUN).into_iter().map(kind).collect()
}

#[test]
#[ignore = "the tests below run it, each in a process of its own"]
fn a_gateway_that_is_stopped() {
    factory_ledger::failpoint::Process::read_environment();
    let lab = Lab::new();
    let mut grant = lab.grant(RUN, Some(BRANCH));
    grant.models = Some(ModelGrant {
        api: WireApi::Messages,
        base_url: "http://127.0.0.1:1".to_owned(),
        key_env: "NO_SUCH_API_KEY".to_owned(),
        fallbacks: Vec::new(),
        budget: Limit::default(),
        model: String::new(),
        prices: Prices::new(),
    });
    let served = Served::start(lab.open_as(grant));
    let workspace = lab.workspace(&served, BRANCH);
    let post = |path: &str, body: &str| {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        served.raw(request.as_bytes())
    };
    let answer = match std::env::var(ACT).unwrap().as_str() {
        "push" => {
            workspace.commit("pushed", b"pushed");
            workspace.ok(&["push"])
        }
        "checkpoint" => {
            let commit = checkpoint(&workspace, &["HEAD"], b"half");
            let refspec = format!("+{commit}:refs/factory/checkpoint");
            workspace.ok(&["push", "origin", &refspec])
        }
        // Refused for want of a key, and counted like every call.
        "usage" => post("/v1/messages", r#"{"model":"m"}"#),
        "report" => post("/factory/v1/report", r#"{"summary":"done"}"#),
        "end" => served.end(),
        other => panic!("no `{other}` is known"),
    };
    panic!("nothing stopped this; the answer was {answer}");
}

#[test]
fn a_push_or_checkpoint_is_recorded_wherever_the_gateway_dies() {
    for act in ["push", "checkpoint"] {
        for (place, before) in [
            (format!("gateway-{act}-unrecorded"), vec![]),
            (format!("gateway-before-{act}"), vec![]),
            (format!("gateway-after-{act}"), vec![act]),
        ] {
            assert_eq!(killed(&place, act), (before, vec![act]), "{place}");
        }
    }
}

#[test]
fn what_the_agent_says_again_is_there_or_not_at_all() {
    for act in ["usage", "report", "end"] {
        let place = format!("gateway-before-{act}");
        assert_eq!(killed(&place, act), (vec![], vec![]), "{place}");
        let place = format!("gateway-after-{act}");
        assert_eq!(killed(&place, act), (vec![act], vec![act]), "{place}");
    }
}
