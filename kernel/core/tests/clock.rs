//! A clock that is put back or forward.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use factory_core::{
    event::{Command, Event, GrantFacts, Now},
    exit::LONGEST_BACKOFF,
    ids::{IssueNo, RunId},
    model::Purpose,
    plan::{Action, Observed, plan},
    state::State,
    step::step,
};

const BEGUN: i64 = 1_700_000_000;
const HOUR: i64 = 3600;

fn happens(state: &mut State, event: Event, now: i64) {
    let step = step(state, event, Now(now)).unwrap();
    state.apply(step.delta);
}

/// A job whose first run was lost, so that the next one waits a second.
fn resting() -> State {
    let mut state = State::new("repository".to_owned(), "main".to_owned());
    let by = || "uma".to_owned();
    let new = Command::NewIssue {
        title: "Greet people".to_owned(),
        body: String::new(),
        labels: Vec::new(),
        done: Vec::new(),
    };
    happens(
        &mut state,
        Event::Command {
            by: by(),
            command: new,
        },
        BEGUN,
    );
    let approve = Command::Approve(IssueNo(1));
    happens(
        &mut state,
        Event::Command {
            by: by(),
            command: approve,
        },
        BEGUN,
    );
    let commit = "1".repeat(40);
    let facts = GrantFacts {
        home: "0123abcd".to_owned(),
        fresh_session: false,
        start: commit.parse().unwrap(),
        merge_target: None,
        branch_tip: None,
        intent: commit.parse().unwrap(),
        image: "image".to_owned(),
    };
    let granted = Event::RunGranted {
        job: IssueNo(1),
        purpose: Purpose::Code,
        slot: 0,
        facts,
    };
    happens(&mut state, granted, BEGUN);
    let run = RunId {
        job: IssueNo(1),
        k: 1,
    };
    let failed = Event::SpawnFailed {
        run,
        why: "no room".to_owned(),
    };
    happens(&mut state, failed, BEGUN);
    happens(&mut state, Event::RunCollected { run }, BEGUN);
    state
}

fn is_granted(state: &State, now: i64) -> bool {
    let observed = Observed {
        slots: Some(1),
        ..Observed::default()
    };
    let actions = plan(state, &observed, Now(now));
    actions
        .iter()
        .any(|action| matches!(action, Action::Grant { .. }))
}

#[test]
fn a_wait_ends_at_its_time() {
    let state = resting();
    assert!(!is_granted(&state, BEGUN));
    assert_eq!(state.wakes_at(Now(BEGUN)), Some(BEGUN + 1));
    assert!(is_granted(&state, BEGUN + 1));
    assert_eq!(state.wakes_at(Now(BEGUN + 1)), None);
}

#[test]
fn a_clock_put_forward_ends_it_at_once() {
    assert!(is_granted(&resting(), BEGUN + 5 * HOUR));
}

#[test]
fn a_clock_put_back_by_hours_holds_nobody_up() {
    let state = resting();
    assert!(is_granted(&state, BEGUN - 5 * HOUR));
    assert_eq!(state.wakes_at(Now(BEGUN - 5 * HOUR)), None);
}

#[test]
fn a_clock_put_back_by_a_little_holds_up_no_longer_than_the_longest_wait() {
    let state = resting();
    let back = BEGUN + 1 - LONGEST_BACKOFF;
    assert!(!is_granted(&state, back));
    assert_eq!(state.wakes_at(Now(back)), Some(BEGUN + 1));
    assert!(is_granted(&state, back - 1));
}
