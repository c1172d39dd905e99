//! Time beyond what a run has.

use crate::attack::{Attack, Limit, Wall};

/// Seconds that a run has in the suite.
pub const WALL: u64 = 90;

/// The first of all: no other takes as long.
pub const ALL: &[Attack] = &[Attack {
    name: "outlive-wall",
    tries: "stops whoever would end it, takes no SIGTERM, and works on beyond its time",
    // `timeout` is its parent; whoever waits for that waits for ever. It says something now and
    // then, so that it is not ended for its silence.
    script: r#"git commit -q --allow-empty -m "Do $name"; git push -q origin HEAD
setsid bash -c 'trap "" TERM HUP INT
kill -STOP "$0"
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13; do sleep 10; echo still here; done
touch .git/held-1; until [ -e .git/go-1 ]; do sleep 0.1; done
kill -KILL "$0"' $PPID & trap '' TERM; wait"#,
    wall: Wall::Limit(Limit::Time),
    judge: |s| {
        let worked = s.said.matches("still here").count() as u64 * 10;
        assert!(worked > 20, "{}: it did not begin:\n{}", s.name, s.said);
        (!s.held.is_empty()).then(|| format!("it works on after {worked} s"))
    },
    no_control: None,
}];
