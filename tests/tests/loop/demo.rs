//! `factory demo`.

use factory_tests::{Lab, processes};
use std::time::{Duration, Instant};

#[test]
fn the_demo_merges_and_leaves_nothing() {
    let mut lab = Lab::new();
    let tmp = lab.home_dir();
    lab.env("TMPDIR", tmp.to_str().unwrap());
    // Keys of the user's are not used.
    lab.env("ANTHROPIC_API_KEY", "the-users-own-key");
    let first = lab.say(&["demo"]);
    assert_eq!(first.code, 0, "{}", first.err);
    assert!(first.out.contains("MODEL IS SCRIPTED"));
    assert!(
        first.out.contains("Merge pull request 1 from factory/1-"),
        "{}",
        first.out
    );
    assert!(first.out.contains("-ge 3600"), "the diff is shown");
    assert!(first.out.contains("ANTHROPIC_API_KEY"), "how to go on");
    let began = Instant::now();
    let second = lab.say(&["demo"]);
    assert_eq!(second.code, 0);
    println!("the second demo took {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(30));
    let left: Vec<_> = std::fs::read_dir(&tmp)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(processes(&tmp), []);
}
