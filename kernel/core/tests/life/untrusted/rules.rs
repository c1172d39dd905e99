//! Files that others push, and what prohibitions say of them.

use super::{corpus_text, hostile};
use factory_core::rules::{ChangedFile, Globs, Rules, find_secrets};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;

const ENFORCE: &str = "---\nenforce:\n  - paths: ['a*/**']\n  - pattern: '[a-m `#]'\n  - {pattern: 'x', in: [src]}\n  - max_file_size: 20B\n---\n";

fn rules() -> Rules {
    let files =
        BTreeMap::from([("prohibitions/0001-x.md", ENFORCE)].map(|(k, v)| (k.to_owned(), v)));
    Rules::read(&files, &Globs::default()).unwrap()
}

/// Bytes of which some are text.
fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => vec(any::<u8>(), 0..400),
        3 => hostile().prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn judging_is_bounded_and_the_same_however_a_file_is_cut(
        path in content(),
        after in content(),
        before in content(),
        at in 0.0..1.0_f64,
        new_content in any::<bool>(),
    ) {
        let rules = rules();
        let changed = ChangedFile {
            path: &path,
            size: Some(after.len() as u64),
            size_before: Some(before.len() as u64),
            new_content,
        };
        let whole = rules.judge(&changed, &after, &[&before]);
        prop_assert!(whole.told().len() <= 20 && whole.to_string().len() < 20 * 2000);
        prop_assert!(!whole.to_string().contains(['\u{1b}', '\0']), "{whole}");
        let mut judge = rules.file(&changed);
        let cut = (after.len() as f64 * at) as usize;
        judge.after(&after[..cut]);
        judge.after(&after[cut..]);
        judge.next_before();
        let cut = (before.len() as f64 * at) as usize;
        judge.before(&before[..cut]);
        judge.before(&before[cut..]);
        prop_assert_eq!(judge.finish(), whole);
        let same = rules.judge(&changed, &after, &[&after]);
        prop_assert!(same.told().iter().all(|told| told.line.is_none()), "nothing was added");
    }

    #[test]
    fn prohibitions_are_read_or_named(front in hostile()) {
        prohibitions_hold(&front);
    }

    #[test]
    fn secrets_stand_where_they_are_found(text in hostile()) {
        for found in find_secrets(&text).unwrap() {
            prop_assert!(text.get(found.range).is_some());
        }
    }
}

fn prohibitions_hold(front: &str) {
    for text in [
        front.to_owned(),
        format!("---\n{front}\n---\n"),
        format!("---\nenforce:\n  - {front}\n---\n"),
    ] {
        let files = BTreeMap::from([("prohibitions/x.md".to_owned(), &text)]);
        if let Err(error) = Rules::read(&files, &Globs::default()) {
            let lines = text.lines().count() as u64 + 1;
            assert!(
                error.line <= lines && !error.what.is_empty() && !error.help.is_empty(),
                "{error:?}"
            );
        }
    }
}

#[test]
fn nasty_prohibitions() {
    for (_, text) in corpus_text("config") {
        prohibitions_hold(&text);
    }
}
