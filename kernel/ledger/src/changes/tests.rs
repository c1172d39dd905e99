//! Trees made by hand: what is found, and where a walk ends.

use super::*;
use git2::{ObjectType, Repository};
use proptest::{collection::vec, prelude::*};
use std::collections::{BTreeMap, BTreeSet};
use tempfile::TempDir;

/// A repository of objects.
struct Lab {
    _dir: TempDir,
    repository: Repository,
    objects: Objects,
}

type Id = git2::Oid;

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::init_bare(dir.path()).unwrap();
        let place = dir.path().join("objects");
        let objects = Objects::open(&[&place], &place).unwrap();
        Self {
            _dir: dir,
            repository,
            objects,
        }
    }

    fn write(&self, kind: ObjectType, data: &[u8]) -> Id {
        self.repository.odb().unwrap().write(kind, data).unwrap()
    }

    fn blob(&self, text: &str) -> Id {
        self.write(ObjectType::Blob, text.as_bytes())
    }

    /// Entries as they are given, in that order.
    fn raw(&self, entries: &[(u32, &[u8], Id)]) -> Id {
        let mut data = Vec::new();
        for (mode, name, id) in entries {
            data.extend(format!("{mode:o} ").bytes());
            data.extend_from_slice(name);
            data.push(0);
            data.extend_from_slice(id.as_bytes());
        }
        self.write(ObjectType::Tree, &data)
    }

    /// A tree of `path mode text`, where `text` is a file's content.
    fn tree(&self, files: &[(&str, u32, &str)]) -> Id {
        let mut below: BTreeMap<&str, Vec<(&str, u32, &str)>> = BTreeMap::new();
        let mut entries = Vec::new();
        for (path, mode, text) in files {
            match path.split_once('/') {
                Some((first, rest)) => below.entry(first).or_default().push((rest, *mode, *text)),
                None => entries.push((*mode, path.as_bytes().to_vec(), self.blob(text))),
            }
        }
        for (name, files) in below {
            entries.push((0o040_000, name.as_bytes().to_vec(), self.tree(&files)));
        }
        entries.sort_by_key(|(mode, name, _)| {
            let slash = (*mode == 0o040_000).then_some(b'/');
            name.iter().copied().chain(slash).collect::<Vec<_>>()
        });
        let entries: Vec<_> = entries.iter().map(|(m, n, i)| (*m, &n[..], *i)).collect();
        self.raw(&entries)
    }

    /// What a walk shows, one line for each file.
    fn walk(&self, after: Id, before: &[Id], bounds: Bounds) -> Result<Vec<String>, ChangesError> {
        let before: Vec<_> = before.iter().copied().map(Some).collect();
        let mut lines = Lines {
            known: before.iter().flatten().copied().collect(),
            ..Lines::default()
        };
        let mut walk = Walk::new(&self.objects, bounds, &|| false);
        walk.compare(after, &before, b"", &mut lines)?;
        Ok(lines.lines)
    }
}

#[derive(Default)]
struct Lines {
    known: Vec<Id>,
    lines: Vec<String>,
}

impl Visitor for Lines {
    type Error = ChangesError;

    fn origin(&mut self, id: Id, _path: &[u8]) -> Result<Origin, ChangesError> {
        Ok(match self.known.contains(&id) {
            true => Origin::Known,
            false => Origin::New,
        })
    }

    fn file(&mut self, change: &FileChange) -> Result<(), ChangesError> {
        let path = String::from_utf8_lossy(change.path);
        let read = |entry: &Entry| match change.content(entry, 100) {
            Ok(Some(text)) => String::from_utf8_lossy(&text).into_owned(),
            Ok(None) => "-".to_owned(),
            Err(_) => "unread".to_owned(),
        };
        let shown = |entry: &Option<Entry>| match entry {
            Some(entry) => format!("{:o} {}", entry.mode(), read(entry)),
            None => "none".to_owned(),
        };
        let before: Vec<_> = change.before.iter().map(shown).collect();
        let there: BTreeSet<_> = change.before.iter().flatten().map(Entry::id).collect();
        assert_eq!(change.contents_before().len(), there.len());
        let known = if change.known { " known" } else { "" };
        self.lines.push(format!(
            "{path}: {} -> {}{known}",
            before.join(", "),
            shown(&change.after)
        ));
        Ok(())
    }
}

const FILE: u32 = 0o100_644;
const TREE: u32 = 0o040_000;

#[test]
fn each_file_that_differs_is_shown_with_both_sides() {
    let lab = Lab::new();
    let old = lab.tree(&[
        ("a", FILE, "1"),
        ("a-b", FILE, "x"),
        ("d/e/f", FILE, "deep"),
        ("d/g", FILE, "g"),
    ]);
    for (files, shown) in [
        (
            &[
                ("a", FILE, "1"),
                ("a-b", FILE, "x"),
                ("d/e/f", FILE, "deep"),
                ("d/g", FILE, "g"),
            ][..],
            &[][..],
        ),
        (
            &[
                ("a", FILE, "2"),
                ("a-b", FILE, "x"),
                ("d/e/f", FILE, "deep"),
                ("d/g", 0o100_755, "g"),
            ],
            &["a: 100644 1 -> 100644 2", "d/g: 100644 g -> 100755 g known"],
        ),
        // A file becomes a directory, which sorts elsewhere.
        (
            &[("a/x", FILE, "new"), ("a-b", FILE, "x"), ("d/g", FILE, "g")],
            &[
                "a: 100644 1 -> none known",
                "a/x: none -> 100644 new",
                "d/e/f: 100644 deep -> none known",
            ],
        ),
        (
            &[],
            &[
                "a: 100644 1 -> none known",
                "a-b: 100644 x -> none known",
                "d/e/f: 100644 deep -> none known",
                "d/g: 100644 g -> none known",
            ],
        ),
        (
            &[
                ("a", 0o120_000, "d/g"),
                ("a-b", FILE, "x"),
                ("d/e/f", FILE, "deep"),
                ("d/g", FILE, "g"),
            ],
            &["a: 100644 1 -> 120000 d/g"],
        ),
    ] {
        let new = lab.tree(files);
        assert_eq!(lab.walk(new, &[old], Bounds::PUSH).unwrap(), shown);
    }
}

#[test]
fn a_merge_shows_what_differs_from_all_its_parents() {
    let lab = Lab::new();
    let ours = lab.tree(&[
        ("a", FILE, "ours"),
        ("d/x", FILE, "x"),
        ("gone", FILE, "y"),
        ("same", FILE, "s"),
    ]);
    let theirs = lab.tree(&[
        ("a", FILE, "theirs"),
        ("d/z", FILE, "z"),
        ("gone", FILE, "y"),
        ("same", FILE, "s"),
    ]);
    let merged = lab.tree(&[
        ("a", FILE, "both"),
        ("d/x", FILE, "x"),
        ("d/z", FILE, "z"),
        ("same", FILE, "s"),
    ]);
    let shown = lab.walk(merged, &[ours, theirs], Bounds::PUSH).unwrap();
    let expected = [
        "a: 100644 ours, 100644 theirs -> 100644 both",
        "gone: 100644 y, 100644 y -> none known",
    ];
    assert_eq!(shown, expected);
    // Three parents, and none.
    let shown = lab
        .walk(merged, &[ours, theirs, merged], Bounds::PUSH)
        .unwrap();
    assert!(shown.is_empty(), "{shown:?}");
    assert_eq!(lab.walk(merged, &[], Bounds::PUSH).unwrap().len(), 4);
}

#[test]
fn a_file_that_stood_elsewhere_is_known() {
    let lab = Lab::new();
    let old = lab.tree(&[("a", FILE, "1"), ("d/e", FILE, "2")]);
    let new = lab.tree(&[("moved/e", FILE, "2"), ("b", FILE, "1"), ("c", FILE, "3")]);
    let commit = |tree: Id| {
        let text = format!("tree {tree}\nauthor a <b> 1 +0000\ncommitter a <b> 1 +0000\n\nx\n");
        lab.write(ObjectType::Commit, text.as_bytes())
            .to_string()
            .parse::<Oid>()
            .unwrap()
    };
    let (old, new) = (commit(old), commit(new));
    let mut known = Vec::new();
    let shown = |change: &FileChange| {
        known.push((
            String::from_utf8_lossy(change.path).into_owned(),
            change.known,
        ));
        Ok::<_, ChangesError>(())
    };
    between(&lab.objects, (&old, &new), Bounds::MERGE, &|| false, shown).unwrap();
    let expected = [
        ("a", true),
        ("b", true),
        ("c", false),
        ("d/e", true),
        ("moved/e", true),
    ];
    assert_eq!(
        known,
        expected.map(|(path, known)| (path.to_owned(), known))
    );
}

/// A tree of `wide` entries, all of them the same tree, `deep` times; `leaf` at the bottom.
fn bomb(lab: &Lab, leaf: Id, wide: usize, deep: usize) -> Id {
    let names: Vec<_> = (0..wide).map(|n| format!("{n:03}").into_bytes()).collect();
    (0..deep).fold(leaf, |below, level| {
        let mode = if level == 0 { FILE } else { TREE };
        let entries: Vec<_> = names.iter().map(|name| (mode, &name[..], below)).collect();
        lab.raw(&entries)
    })
}

#[test]
fn a_walk_ends_within_its_bounds() {
    let lab = Lab::new();
    let empty = lab.tree(&[]);
    let leaf = lab.blob(&"x".repeat(1000));
    let bounds = Bounds {
        entries: 1000,
        compared: 5000,
        bytes: 500_000,
        file: 999,
    };
    let large = Bounds {
        file: 1000,
        ..bounds
    };
    let roomy = Bounds {
        bytes: 5_000_000,
        ..large
    };
    let over = |tree, bounds| lab.walk(tree, &[empty], bounds).unwrap_err();
    assert!(matches!(
        over(bomb(&lab, leaf, 10, 10), roomy),
        ChangesError::Entries { limit: 1000 }
    ));
    assert!(matches!(
        over(bomb(&lab, leaf, 10, 3), large),
        ChangesError::Entries { .. } | ChangesError::Bytes { .. }
    ));
    assert!(matches!(
        over(bomb(&lab, leaf, 501, 1), large),
        ChangesError::Bytes { limit: 500_000 }
    ));
    assert_eq!(
        lab.walk(bomb(&lab, leaf, 500, 1), &[empty], large)
            .unwrap()
            .len(),
        500
    );
    let file = ChangesError::File {
        path: b"000".to_vec(),
        size: 1000,
        limit: 999,
    };
    assert_eq!(
        format!("{:?}", over(bomb(&lab, leaf, 1, 1), bounds)),
        format!("{file:?}")
    );
    assert!(matches!(
        over(bomb(&lab, leaf, 1, 200), large),
        ChangesError::Depth { .. }
    ));
    assert_eq!(
        lab.walk(bomb(&lab, leaf, 1, 128), &[empty], large)
            .unwrap()
            .len(),
        1
    );
    let long = lab.raw(&[(FILE, &[b'n'; 5000], leaf)]);
    assert!(matches!(over(long, large), ChangesError::Depth { .. }));
    // What is compared and the same counts as well, as often as it is.
    let wide = |first: Id| {
        let names: Vec<_> = (0..600).map(|n| format!("{n:03}").into_bytes()).collect();
        let mut entries: Vec<_> = names.iter().map(|name| (FILE, &name[..], leaf)).collect();
        entries[0].2 = first;
        lab.raw(&entries)
    };
    let (one, two) = (wide(lab.blob("one")), wide(lab.blob("two")));
    let mut walk = Walk::new(&lab.objects, large, &|| false);
    let mut ended = (0..9).map(|_| walk.compare(two, &[Some(one)], b"", &mut Lines::default()));
    let ended = ended.position(|ended| matches!(ended, Err(ChangesError::Compared)));
    assert_eq!(ended, Some(4));
    let mut walk = Walk::new(&lab.objects, Bounds::PUSH, &|| true);
    let stopped = walk.compare(two, &[Some(one)], b"", &mut Lines::default());
    assert!(matches!(stopped, Err(ChangesError::Stopped)));
}

#[test]
fn names_are_any_bytes_and_what_is_malformed_is_an_error() {
    let lab = Lab::new();
    let empty = lab.tree(&[]);
    let x = lab.blob("x");
    let odd = lab.raw(&[(FILE, b"\xff\n\x1b", x), (FILE, b"\xff\n\x1bz", x)]);
    assert_eq!(lab.walk(odd, &[empty], Bounds::PUSH).unwrap().len(), 2);
    // Histories of people hold trees that git would not make today.
    let unsorted = lab.raw(&[
        (FILE, b"b", x),
        (FILE, b"a", x),
        (FILE, b"b", x),
        (0o040_0000, b"", x),
    ]);
    for trees in [(unsorted, empty), (empty, unsorted)] {
        lab.walk(trees.0, &[trees.1], Bounds::PUSH).ok();
    }
    for data in [
        &b"100644"[..],
        b"100644 a",
        b"100644 a\0short",
        b"9 a\0aaaaaaaaaaaaaaaaaaaa",
        b"\xff\xff",
    ] {
        let broken = lab.write(ObjectType::Tree, data);
        for (after, before) in [(broken, empty), (empty, broken)] {
            let ended = lab.walk(after, &[before], Bounds::PUSH);
            assert!(
                matches!(ended, Err(ChangesError::Unread(_))),
                "{data:?} {ended:?}"
            );
        }
    }
    let missing = lab.raw(&[(FILE, b"a", Id::from_bytes(&[7; 20]).unwrap())]);
    assert!(matches!(
        lab.walk(missing, &[empty], Bounds::PUSH),
        Err(ChangesError::Unread(_))
    ));
}

/// A mode, a name, and which of the objects so far; or bytes that are a tree only by name.
type AnyTree = Result<Vec<(u32, Vec<u8>, usize)>, Vec<u8>>;

fn trees() -> impl Strategy<Value = Vec<AnyTree>> {
    let mode = prop_oneof![
        Just(FILE),
        Just(TREE),
        Just(0o120_000),
        Just(0o160_000),
        any::<u32>()
    ];
    let name = prop_oneof![vec(b'a'..b'd', 1..3), vec(any::<u8>(), 0..4)];
    let entries = vec((mode, name, any::<usize>()), 0..6);
    vec(
        prop_oneof![9 => entries.prop_map(Ok), 1 => vec(any::<u8>(), 0..60).prop_map(Err)],
        1..12,
    )
}

proptest! {
    // Each opens files.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    /// Whatever trees hold, a walk ends within its bounds; and what is equal shows nothing.
    #[test]
    fn any_trees_are_walked_within_bounds(trees in trees()) {
        let lab = Lab::new();
        let mut ids = vec![lab.blob("x"), lab.tree(&[])];
        for tree in trees {
            ids.push(match tree {
                Ok(entries) => {
                    let entries: Vec<_> = entries
                        .iter()
                        .map(|(mode, name, at)| (*mode, &name[..], ids[at % ids.len()]))
                        .collect();
                    lab.raw(&entries)
                }
                Err(bytes) => lab.write(ObjectType::Tree, &bytes),
            });
        }
        let bounds = Bounds { entries: 50, compared: 400, bytes: 40, file: 10 };
        for after in &ids[1..] {
            for before in [&ids[1..2], &ids[ids.len() - 1..], &ids[1..]] {
                match lab.walk(*after, before, bounds) {
                    Ok(shown) => {
                        prop_assert!(shown.len() <= 50);
                        prop_assert!(!before.contains(after) || shown.is_empty());
                    }
                    Err(error) => drop(error.to_string()),
                }
            }
        }
    }
}
