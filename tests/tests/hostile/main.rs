//! The hostile agent suite: what an agent tries that may not be, in real containers of a
//! real factory, looked at from outside; and each of it with its wall taken away, where it
//! gets through.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at what it did not expect, its helpers too"
)]

mod attack;
mod control;
mod list;
mod stage;
mod table;
mod witness;

use attack::{Attack, Scene};
use list::{limits, time};
use stage::Stage;
use std::{collections::BTreeSet, io::Write, sync::Mutex};

/// Most attacks whose wall cannot be taken away safely.
const NO_CONTROL: usize = 8;

/// Controls that are played at the same time.
const AT_ONCE: usize = 3;

/// The attacks to play; `FACTORY_ATTACKS` names some of them.
fn chosen() -> Vec<&'static Attack> {
    let named = std::env::var("FACTORY_ATTACKS").unwrap_or_default();
    let named: Vec<&str> = named.split_whitespace().collect();
    let all = list::all().into_iter();
    all.filter(|attack| named.is_empty() || named.contains(&attack.name))
        .collect()
}

/// What one scene showed, or nothing.
fn judged(attack: &Attack, scene: &Scene) -> Option<String> {
    let through = (attack.judge)(scene);
    println!(
        "== {}: {}\n{}",
        attack.name,
        through.as_deref().unwrap_or("held"),
        shown(&scene.said)
    );
    through
}

/// The beginning of what an attack printed.
fn shown(said: &str) -> String {
    let lines: Vec<&str> = said.lines().take(12).collect();
    lines
        .iter()
        .map(|line| format!("   {}\n", line.chars().take(160).collect::<String>()))
        .collect()
}

#[test]
fn no_attack_gets_through_and_without_its_wall_each_does() {
    if std::env::var_os("FACTORY_NO_DOCKER").is_some() {
        println!("skipped: FACTORY_NO_DOCKER is set");
        return;
    }
    // Past the capture of the harness, which would put hundreds of lines before it.
    std::panic::set_hook(Box::new(|what| {
        writeln!(std::io::stderr(), "{what}").ok();
    }));
    let attacks = chosen();
    let stage = Stage::new(&attacks);
    let scenes = stage.play(&attacks);
    let mut wrong = Vec::new();
    let mut through = 0;
    for (attack, scene) in attacks.iter().zip(&scenes) {
        if let Some(how) = judged(attack, scene) {
            through += 1;
            let said = shown(&scene.said);
            wrong.push(format!("{} got through: {how}\n{said}", attack.name));
        }
    }
    let controlled = attacks.iter().filter(|attack| attack.no_control.is_none());
    let left = Mutex::new(controlled);
    let held: Vec<String> = std::thread::scope(|scope| {
        let one_after_the_other = || {
            let next = || left.lock().unwrap().next();
            let held = std::iter::from_fn(next).filter_map(|attack| {
                let scene = control::play(&stage, attack);
                let through = judged(attack, &scene);
                through.is_none().then(|| {
                    let said = shown(&scene.said);
                    format!("without its wall {} was held as well:\n{said}", attack.name)
                })
            });
            held.collect::<Vec<_>>()
        };
        let all: Vec<_> = (0..AT_ONCE)
            .map(|_| scope.spawn(one_after_the_other))
            .collect();
        all.into_iter()
            .flat_map(|one| one.join().unwrap())
            .collect()
    });
    wrong.extend(held);
    let sum = format!("{} attacks, {through} through\n", attacks.len());
    print!("{sum}");
    if let Some(path) = std::env::var_os("FACTORY_SOAK_RESULT") {
        std::fs::write(path, sum).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if let Some(path) = std::env::var_os("FACTORY_RECORD")
        && attacks.len() == list::all().len()
    {
        std::fs::write(path, table::page(&attacks)).unwrap();
    }
}

#[test]
fn the_list_is_whole_and_the_page_says_what_is_in_it() {
    let all = list::all();
    let names: BTreeSet<_> = all.iter().map(|attack| attack.name).collect();
    assert_eq!(names.len(), all.len(), "each has a name of its own");
    let none = all
        .iter()
        .filter(|attack| attack.no_control.is_some())
        .count();
    assert!(
        all.len() >= 60 && none <= NO_CONTROL,
        "{} attacks, {none} without control",
        all.len()
    );
    let page = std::fs::read_to_string(table::path()).unwrap();
    assert!(
        page == table::page(&all),
        "docs/hostile.md is another: `make hostile` writes it"
    );
}

#[test]
fn every_attack_stands_for_a_promise_of_the_threat_model() {
    let page = table::path().with_file_name("threat-model.md");
    let page = std::fs::read_to_string(page).unwrap();
    let all = list::all();
    // `reach-*` stands for all that begin so.
    let named = |words: &str, name: &str| match words.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => words == name,
    };
    let mut seen = BTreeSet::new();
    for promise in page
        .lines()
        .filter_map(|line| line.split_once("| hostile: "))
    {
        // What comes after a semicolon is no attack.
        let attacks = promise.1.split(';').next().unwrap();
        for words in attacks.split('`').skip(1).step_by(2) {
            let of_it = all.iter().map(|attack| attack.name);
            let of_it: Vec<_> = of_it.filter(|name| named(words, name)).collect();
            assert!(!of_it.is_empty(), "there is no attack {words}");
            seen.extend(of_it);
        }
    }
    let forgotten: Vec<_> = all
        .iter()
        .map(|attack| attack.name)
        .filter(|name| !seen.contains(name))
        .collect();
    assert!(forgotten.is_empty(), "no promise names {forgotten:?}");
}
