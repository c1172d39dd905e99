//! What a commit changes: how much, where, which tests, with what it conflicts.

use crate::fixture::{Lab, commit, git, put};
use factory_core::{
    ids::{Oid, PrNo},
    model::Change,
    rules::Globs,
};
use factory_ledger::change::{PATCH_LIMIT, conflicts, measure, patch};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
};

const KEPT: &str = "test/with-base-tests";

fn tests() -> Globs {
    Globs::new(["**/tests/**", "Makefile"]).unwrap()
}

fn measured(lab: &Lab, commit: &Oid) -> Change {
    measure(&lab.door, &lab.first, commit, &tests(), KEPT).unwrap()
}

/// Mode, object and path of all that a commit holds.
fn listed(lab: &Lab, commit: &Oid) -> BTreeSet<String> {
    let out = git(
        lab.door.dir(),
        &["ls-tree", "-r", "-z", "--full-tree", commit.as_str()],
    );
    out.split_terminator('\0').map(str::to_owned).collect()
}

/// The same without what does not match, and the matching ones of another commit.
fn expected(lab: &Lab, code: &Oid, tests_of: &Oid) -> BTreeSet<String> {
    let of_tests = |entry: &String| {
        let (_, path) = entry.split_once('\t').unwrap();
        tests().is_match(path.as_bytes())
    };
    let code = listed(lab, code).into_iter().filter(|e| !of_tests(e));
    code.chain(listed(lab, tests_of).into_iter().filter(of_tests))
        .collect()
}

fn with_base_tests(lab: &Lab, commit: &Oid) -> Oid {
    let made = measured(lab, commit).with_base_tests.unwrap();
    assert_eq!(listed(lab, &made), expected(lab, commit, &lab.first));
    lab.fsck();
    made
}

#[test]
fn lines_files_and_places_are_counted_from_where_it_left_the_target() {
    let lab = Lab::new(&[
        ("a.txt", "one\ntwo\n"),
        ("moved.txt", "1\n2\n3\n"),
        ("src/deep/er/c.txt", "c\n"),
        ("src/d.txt", "d\n"),
    ]);
    let change = lab.in_door("change", &lab.first, |top| {
        put(top, "a.txt", "one\n2\nthree\n");
        fs::create_dir(top.join("new")).unwrap();
        fs::rename(top.join("moved.txt"), top.join("new/moved.txt")).unwrap();
        fs::write(top.join("image.bin"), b"\0\x01\n\n\n\n").unwrap();
        put(top, "src/deep/er/c.txt", "C\n");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(top.join("src/d.txt"), mode).unwrap();
    });
    // What the target did meanwhile is not of it.
    let target = lab.in_door("target", &lab.first, |top| {
        put(top, "a.txt", "other\n");
        put(top, "tests/new.txt", "new\n");
    });
    let found = measure(&lab.door, &target, &change, &tests(), KEPT).unwrap();
    assert_eq!(
        found,
        Change {
            files: 6,
            // Two and one of a.txt, six of a file that moved, a binary one, two, and none.
            lines: 3 + 6 + 1 + 2,
            places: ["a.txt", "image.bin", "moved.txt", "new", "src", "src/deep"]
                .map(str::to_owned)
                .to_vec(),
            too_large: false,
            with_base_tests: None,
        }
    );
    let nothing = measure(&lab.door, &target, &lab.first, &tests(), KEPT).unwrap();
    assert_eq!(nothing, Change::default());
}

#[test]
fn long_lines_and_binary_files_count_by_their_bytes() {
    let long = "x".repeat(100_000);
    let lab = Lab::new(&[
        ("edited.txt", &"line\n".repeat(5000)),
        ("long.txt", &format!("{long}\n")),
        ("source.txt", &"line\n".repeat(1000)),
    ]);
    let count = |name: &str, path: &str, content: &str| {
        let change = lab.in_door(name, &lab.first, |top| put(top, path, content));
        let found = measured(&lab, &change);
        (found.lines, found.too_large)
    };
    // In a large file only what changes counts.
    let edited = format!("new\n{}", "line\n".repeat(5000));
    assert_eq!(count("edited", "edited.txt", &edited), (1, false));
    let kept = format!("{long}\nline\n");
    assert_eq!(count("kept", "long.txt", &kept), (1, false));
    // One line each, of which 200 bytes are one.
    assert_eq!(count("added", "new.txt", &long), (501, false));
    let other = format!("{}\n", "y".repeat(100_000));
    assert_eq!(count("other", "long.txt", &other), (1002, false));
    // One byte hides no text.
    let hidden = format!("\0{}", "more\n".repeat(1000));
    assert_eq!(count("hidden", "source.txt", &hidden), (51, false));
    let bytes = format!("\0{long}");
    assert_eq!(count("bytes", "new.bin", &bytes), (501, false));
    let gone = lab.in_door("gone", &lab.first, |top| put(top, "a.bin", &bytes));
    let target = gone.clone();
    let gone = lab.in_door("gone-again", &gone, |top| {
        fs::remove_file(top.join("a.bin")).unwrap();
    });
    let found = measure(&lab.door, &target, &gone, &tests(), KEPT).unwrap();
    assert_eq!(found.lines, 501);
    // Beyond what a patch shows, it says so.
    let many = "line\n".repeat(PATCH_LIMIT / 5);
    let (lines, too_large) = count("many", "new.txt", &many);
    assert!(lines > 200_000 && too_large, "{lines}");
    let huge = format!("\0{}", "huge\n".repeat(4 << 20));
    let (lines, too_large) = count("huge", "new.bin", &huge);
    assert!(lines > 100_000 && too_large, "{lines}");
    let largest = "1234567890123\n".repeat(6 << 20);
    let (lines, too_large) = count("largest", "new.txt", &largest);
    assert!(lines > 400_000 && too_large, "{lines}");
}

#[test]
fn a_change_in_very_many_places_names_some_of_them() {
    let lab = Lab::new(&[("a.txt", "a\n")]);
    let many = lab.in_door("many", &lab.first, |top| {
        for n in 0..50 {
            put(top, &format!("dir{n}/file.txt"), "x\n");
        }
    });
    let found = measured(&lab, &many);
    assert_eq!((found.files, found.lines), (50, 50));
    assert_eq!(found.places.len(), 32);
}

#[test]
fn hostile_paths_are_counted_and_not_told() {
    let lab = Lab::new(&[("a.txt", "a\n")]);
    let odd = lab.in_door("odd", &lab.first, |top| {
        put(top, "li\nne/x.txt", "x\n");
        put(top, "ta\tb/\"quoted\".txt", "x\n");
        put(top, "esc\u{1b}[2J/x.txt", "x\n");
        put(top, &format!("{}/x.txt", "l".repeat(200)), "x\n");
        put(top, "-rf/--all", "x\n");
        put(top, "tests/ta\tb\nc", "x\n");
        let bytes = top.join(OsStr::from_bytes(b"\xff\xfe"));
        fs::create_dir(&bytes).unwrap();
        fs::write(bytes.join("x.txt"), "x\n").unwrap();
    });
    let found = measured(&lab, &odd);
    assert_eq!((found.files, found.lines), (7, 7));
    assert_eq!(found.places, ["-rf", "tests"]);
    let made = with_base_tests(&lab, &odd);
    assert!(!listed(&lab, &made).iter().any(|e| e.contains("tests/")));
}

#[test]
fn tests_that_were_changed_added_or_deleted_are_as_the_target_has_them() {
    let lab = Lab::new(&[
        ("Makefile", "test:\n\tsh tests/run.sh\n"),
        ("code.txt", "code\n"),
        ("sub/tests/kept.txt", "kept\n"),
        ("tests/gone.sh", "false\n"),
        ("tests/run.sh", "sh tests/gone.sh\n"),
    ]);
    let change = lab.in_door("change", &lab.first, |top| {
        put(top, "Makefile", "test:\n\ttrue\n");
        put(top, "code.txt", "new code\n");
        put(top, "sub/tests/added.txt", "added\n");
        fs::remove_file(top.join("tests/gone.sh")).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(top.join("tests/run.sh"), mode).unwrap();
    });
    let made = with_base_tests(&lab, &change);
    // The same again, as after a crash, and kept from being swept.
    assert_eq!(with_base_tests(&lab, &change), made);
    let kept = git(lab.door.dir(), &["rev-parse", &format!("refs/keep/{KEPT}")]);
    assert_eq!(kept, made.as_str());
    let parents = git(lab.door.dir(), &["log", "-1", "--format=%P", made.as_str()]);
    assert_eq!(parents, change.as_str());
    // A target that went on with other tests changes nothing: it was judged where it began.
    let target = lab.in_door("target", &lab.first, |top| {
        put(top, "tests/more.sh", "true\n")
    });
    let later = measure(&lab.door, &target, &change, &tests(), KEPT).unwrap();
    assert_eq!(later.with_base_tests, Some(made));
}

#[test]
fn a_file_stands_where_a_folder_was_and_the_other_way_round() {
    let swap = |before: &[(&str, &str)], gone: &str, then: &str| {
        let lab = Lab::new(before);
        let change = lab.in_door("change", &lab.first, |top: &Path| {
            let gone = top.join(gone);
            match gone.is_dir() {
                true => fs::remove_dir_all(&gone).unwrap(),
                false => fs::remove_file(&gone).unwrap(),
            }
            put(top, then, "in its place\n");
        });
        let made = measured(&lab, &change).with_base_tests.unwrap();
        lab.fsck();
        let named = |commit: &Oid| {
            let all = listed(&lab, commit);
            all.iter()
                .map(|e| e.split_once('\t').unwrap().1.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(named(&made), named(&lab.first));
    };
    // Tests in place of tests.
    swap(&[("tests/a", "a\n")], "tests/a", "tests/a/b");
    swap(&[("tests/a/b", "b\n")], "tests/a", "tests/a");
    // What is no test stands where tests were.
    swap(&[("tests/a", "a\n")], "tests", "tests");
    swap(&[("Makefile", "all:\n")], "Makefile", "Makefile/x");
}

#[test]
fn tests_that_are_as_they_were_need_no_commit() {
    let lab = Lab::new(&[("a.txt", "a\n"), ("tests/a.txt", "a\n")]);
    let code = lab.in_door("code", &lab.first, |top| put(top, "a.txt", "b\n"));
    assert_eq!(measured(&lab, &code).with_base_tests, None);
    // Changed, and changed back.
    let back = lab.in_door("back", &code, |top| {
        put(top, "tests/a.txt", "b\n");
        commit(top, "changed");
        put(top, "tests/a.txt", "a\n");
    });
    assert_eq!(measured(&lab, &back).with_base_tests, None);
    // All that it adds are tests: without them it is the target.
    let only = lab.in_door("only", &lab.first, |top| put(top, "tests/b.txt", "b\n"));
    let made = with_base_tests(&lab, &only);
    assert_eq!(listed(&lab, &made), listed(&lab, &lab.first));
}

#[test]
fn conflicts_with_open_pull_requests_are_named() {
    let lab = Lab::new(&[("a.txt", "a\n"), ("b.txt", "b\n"), ("o\nd.txt", "o\n")]);
    let head = lab.in_door("head", &lab.first, |top| {
        put(top, "a.txt", "head\n");
        put(top, "o\nd.txt", "head\n");
    });
    let clash = lab.in_door("clash", &lab.first, |top| {
        put(top, "a.txt", "clash\n");
        put(top, "o\nd.txt", "clash\n");
    });
    let deleted = lab.in_door("deleted", &lab.first, |top| {
        fs::remove_file(top.join("a.txt")).unwrap();
    });
    let beside = lab.in_door("beside", &lab.first, |top| put(top, "b.txt", "beside\n"));
    let unrelated = lab.in_door("unrelated", &lab.first, |top| {
        git(top, &["checkout", "-q", "--orphan", "alone"]);
        put(top, "a.txt", "alone\n");
        commit(top, "alone");
        git(top, &["branch", "-q", "-f", "work", "alone"]);
        git(top, &["checkout", "-q", "work"]);
        put(top, "c.txt", "c\n");
    });
    let others = [
        (PrNo(2), beside),
        (PrNo(3), clash),
        (PrNo(5), deleted),
        (PrNo(7), head.clone()),
        (PrNo(9), unrelated),
        (PrNo(10), "1".repeat(40).parse().unwrap()),
    ];
    let found = conflicts(&lab.door, &head, &others).unwrap();
    let numbers: Vec<_> = found.iter().map(|conflict| conflict.pr.0).collect();
    assert_eq!(numbers, [3, 5, 9]);
    assert!(found[0].files.contains("a.txt"), "{found:?}");
    assert!(!found[0].files.contains('\n'), "{found:?}");
    assert_eq!(found[1].files, "a.txt");
    assert_eq!(conflicts(&lab.door, &head, &[]).unwrap(), []);
}

#[test]
fn nothing_in_a_change_hides_its_text_from_the_patch() {
    let lab = Lab::new(&[
        ("a.txt", "one\n"),
        ("b.txt", "b\n"),
        (".gitattributes", "b.txt -diff\n"),
    ]);
    let change = lab.in_door("change", &lab.first, |top| {
        put(top, ".gitattributes", "* -diff\n");
        put(top, "a.txt", "one\n# \0\nbad words\n");
        put(top, "b.txt", "more of them\n");
    });
    let text = patch(&lab.door, &lab.first, &change).unwrap().unwrap();
    for line in ["+# \u{fffd}\n", "+bad words\n", "-b\n+more of them\n"] {
        assert!(text.contains(line), "no `{line}` in {text}");
    }
    assert!(!text.contains('\0'), "{text}");
    // What makes it too long is left out, and the rest is told.
    let large = lab.in_door("large", &lab.first, |top| {
        put(top, "a.txt", "two\n");
        put(top, "new.bin", &"\0".repeat(PATCH_LIMIT));
    });
    let text = patch(&lab.door, &lab.first, &large).unwrap().unwrap();
    assert!(text.contains("-one\n+two\n") && text.contains("new.bin differ"));
    assert!(measured(&lab, &large).too_large);
}

#[test]
fn a_patch_is_whole_or_none() {
    let lab = Lab::new(&[("a.txt", "one\n"), ("b.txt", "1\n2\n3\n4\n5\n6\n7\n8\n")]);
    let small = lab.in_door("small", &lab.first, |top| {
        put(top, "a.txt", "two\n");
        fs::rename(top.join("b.txt"), top.join("c.txt")).unwrap();
        fs::write(top.join("bytes.txt"), b"\xff\n").unwrap();
    });
    let target = lab.in_door("target", &lab.first, |top| put(top, "t.txt", "t\n"));
    let text = patch(&lab.door, &target, &small).unwrap().unwrap();
    for line in ["-one\n+two\n", "rename to c.txt", "\u{fffd}"] {
        assert!(text.contains(line), "no `{line}` in {text}");
    }
    assert!(!text.contains("t.txt b/t.txt"), "{text}");
    let nothing = patch(&lab.door, &target, &lab.first).unwrap();
    assert_eq!(nothing.as_deref(), Some(""));

    let line = format!("{}\n", "x".repeat(63));
    let lines = PATCH_LIMIT / line.len();
    let long = lab.in_door("long", &lab.first, |top| {
        put(top, "long.txt", &line.repeat(lines))
    });
    assert_eq!(patch(&lab.door, &target, &long).unwrap(), None);
    let fits = lab.in_door("fits", &lab.first, |top| {
        put(top, "long.txt", &line.repeat(lines - lines / 32))
    });
    let fits = patch(&lab.door, &target, &fits).unwrap().unwrap();
    assert!(fits.len() <= PATCH_LIMIT && fits.ends_with(&line));

    // Of a huge file nobody is shown the lines, and git does not compare them.
    let huge = lab.in_door("huge", &lab.first, |top| {
        put(top, "a.txt", &"huge\n".repeat(4 << 20))
    });
    let huge = patch(&lab.door, &target, &huge).unwrap().unwrap();
    assert!(huge.contains("a.txt") && huge.contains("differ"), "{huge}");
    // What is not there is an error, and no empty patch.
    let unknown: Oid = "1".repeat(40).parse().unwrap();
    assert!(patch(&lab.door, &target, &unknown).is_err());
}
