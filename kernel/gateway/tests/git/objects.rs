//! What a push brings: honest work of every kind, and what a pack made by hand tries.

use crate::checkpoints::checkpoint;
use crate::lab::{self, KEY, Lab, Served, Workspace, ok};
use crate::{BRANCH, RUN, packet, served};
use flate2::{Compression, write::ZlibEncoder};
use std::io::Write;
use std::process::{Command, Stdio};

const CHECKPOINT: &str = "refs/factory/checkpoint";
const OTHER: &str = "r2-1";
const SECRET: &str = "another run's secret\n";

/// Sends a pack that no git client would make; what is answered.
fn send(served: &Served, (old, new): (&str, &str), name: &str, pack: &[u8]) -> String {
    let order = format!("{old} {new} {name}\0report-status side-band-64k");
    let body = [&packet(&order)[..], b"0000", pack].concat();
    served.post("git-receive-pack", "", &body)
}

/// A pack of exactly these objects.
fn pack_of(workspace: &Workspace, objects: &[&str]) -> Vec<u8> {
    let list = objects.join("\n") + "\n";
    workspace.fed(&["pack-objects", "--stdout", "-q"], list.as_bytes())
}

/// A pack of objects as they are stored, and one that is made from another.
fn delta_pack(whole: &[(u8, Vec<u8>)], base: &str, delta: &[u8]) -> Vec<u8> {
    let zipped = |bytes: &[u8]| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let header = |kind: u8, size: usize| {
        let low = kind << 4 | (size & 0x0f) as u8;
        match size >> 4 {
            0 => vec![low],
            more => vec![low | 0x80, more as u8],
        }
    };
    let mut pack = b"PACK\0\0\0\x02".to_vec();
    pack.extend((whole.len() as u32 + 1).to_be_bytes());
    for (kind, bytes) in whole {
        pack.extend(header(*kind, bytes.len()));
        pack.extend(zipped(bytes));
    }
    pack.extend(header(7, delta.len()));
    pack.extend((0..20).map(|at| u8::from_str_radix(&base[2 * at..2 * at + 2], 16).unwrap()));
    pack.extend(zipped(delta));
    let mut sum = Command::new("sha1sum");
    let mut sum = sum
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    sum.stdin.take().unwrap().write_all(&pack).unwrap();
    let sum = sum.wait_with_output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap();
    pack.extend((0..20).map(|at| u8::from_str_radix(&sum[2 * at..2 * at + 2], 16).unwrap()));
    pack
}

/// Two runs, of which the other one pushed its secret.
fn two_runs() -> (Lab, Served, Workspace, Workspace) {
    let (lab, served, workspace) = served();
    let other = lab.serve(OTHER, Some("factory/2-other"));
    let others = lab.workspace(&other, "factory/2-other");
    std::fs::create_dir(others.path.join("dir")).unwrap();
    others.commit("dir/secret", SECRET.as_bytes());
    others.ok(&["push"]);
    (lab, served, workspace, others)
}

#[test]
fn a_pack_made_by_hand_brings_in_nothing_of_another_run() {
    let (lab, served, workspace, others) = two_runs();
    let (refs, start) = (lab.refs(), lab.start.as_str());
    let named = |what: &str| others.ok(&["rev-parse", what]);
    let (blob, folder) = (named("HEAD:dir/secret"), named("HEAD:dir"));
    let (root, commit) = (named("HEAD^{tree}"), named("HEAD"));
    let with_blob = workspace.tree(&[format!("100644 blob {blob}\tmine\n")]);
    let with_folder = workspace.tree(&[format!("040000 tree {folder}\tmine\n")]);
    let names = |tree: &str| workspace.commit_of(tree, &[start]);
    let merge = workspace.commit_of(
        &workspace.ok(&["rev-parse", "HEAD^{tree}"]),
        &[start, &commit],
    );
    let branch = format!("refs/heads/{BRANCH}");
    let mut tries = Vec::new();
    for (tree, brought) in [(&with_blob, true), (&with_folder, true), (&root, false)] {
        let new = names(tree);
        let mut objects = vec![new.as_str()];
        if brought {
            objects.push(tree);
        }
        tries.push((branch.as_str(), new.clone(), pack_of(&workspace, &objects)));
        // The same as the work tree of a checkpoint.
        let checkpoint = workspace.tree(&[format!("040000 tree {tree}\twork\n")]);
        let new = names(&checkpoint);
        let mut objects = vec![new.as_str(), checkpoint.as_str()];
        if brought {
            objects.push(tree);
        }
        tries.push((CHECKPOINT, new.clone(), pack_of(&workspace, &objects)));
    }
    for (kind, id) in [("040000 tree", &folder), ("100644 blob", &blob)] {
        let session = workspace.tree(&[format!("{kind} {id}\tsession\n")]);
        let new = names(&session);
        tries.push((
            CHECKPOINT,
            new.clone(),
            pack_of(&workspace, &[&new, &session]),
        ));
    }
    tries.push((&branch, merge.clone(), pack_of(&workspace, &[&merge])));
    tries.push((CHECKPOINT, merge.clone(), pack_of(&workspace, &[&merge])));
    // A file that is made from the secret: the pack is completed by it.
    let made = workspace.object("blob", format!("{SECRET}!").as_bytes());
    let tree = workspace.tree(&[format!("100644 blob {made}\tmine\n")]);
    let new = names(&tree);
    let length = SECRET.len() as u8;
    let delta = [&[length, length + 1, 0x90, length, 1][..], b"!"].concat();
    let stored = |kind: &str, id: &str| workspace.fed(&["cat-file", kind, id], b"");
    let whole = [(1, stored("commit", &new)), (2, stored("tree", &tree))];
    let pack = delta_pack(&whole, &blob, &delta);
    tries.push((&branch, new.clone(), pack.clone()));
    // And the secret itself, which the pack then holds.
    let new = names(&with_blob);
    let whole = [(1, stored("commit", &new)), (2, stored("tree", &with_blob))];
    tries.push((&branch, new, delta_pack(&whole, &blob, &delta)));
    // As a submodule, whose commit is nobody's object, and as a directory beside it.
    let submodule = format!("160000 commit {folder}\ta\n");
    let beside = workspace.tree(&[submodule.clone(), format!("040000 tree {folder}\tb\n")]);
    let root = workspace.tree(&[format!("040000 tree {beside}\twork\n")]);
    let new = names(&root);
    let pack = pack_of(&workspace, &[&new, &root, &beside]);
    tries.push((CHECKPOINT, new, pack));
    for (at, (name, new, pack)) in tries.iter().enumerate() {
        let answer = send(&served, (start, new), name, pack);
        assert!(
            answer.contains(&format!("ng {name} it names what it does not bring")),
            "try {at} to {name}: {answer}"
        );
        assert!(!answer.contains("secret"), "{answer}");
    }
    // The same in two checkpoints, of which the first is nothing that a person would merge.
    let work = workspace.tree(&[submodule, format!("160000 commit {blob}\tz\n")]);
    let root = workspace.tree(&[format!("040000 tree {work}\twork\n")]);
    let first = names(&root);
    let pack = pack_of(&workspace, &[&first, &root, &work]);
    let answer = send(&served, (start, &first), CHECKPOINT, &pack);
    assert!(answer.contains(&format!("ok {CHECKPOINT}")), "{answer}");
    let root = workspace.tree(&[format!("040000 tree {with_folder}\twork\n")]);
    let new = names(&root);
    let pack = pack_of(&workspace, &[&new, &root, &with_folder]);
    let mut tries = vec![(new, pack)];
    // And what is made from the secret.
    let root = workspace.tree(&[format!("040000 tree {tree}\twork\n")]);
    let new = names(&root);
    let whole = [("commit", &new), ("tree", &root), ("tree", &tree)];
    let whole = whole.map(|(kind, id)| (if kind == "tree" { 2 } else { 1 }, stored(kind, id)));
    tries.push((new, delta_pack(&whole, &blob, &delta)));
    let refused = format!("ng {CHECKPOINT} it names what it does not bring");
    for (new, pack) in &tries {
        let answer = send(&served, (&first, new), CHECKPOINT, pack);
        assert!(answer.contains(&refused), "{answer}");
    }
    // What is another run's as well is taken where it is brought.
    workspace.commit("same", SECRET.as_bytes());
    workspace.ok(&["push"]);
    workspace.ok(&["reset", "-q", "--hard", start]);
    assert_ne!(lab.refs(), refs);
    lab.assert_no_leftovers();
}

#[test]
fn honest_work_of_every_kind_is_taken() {
    let (lab, served, workspace) = served();
    let git = |args: &[&str]| workspace.ok(args);
    let push = |what: &str| {
        let said = workspace.git(&["push"]);
        assert!(said.ok, "{what}: {}", said.text);
    };
    let many = |names: &str, lines: usize| {
        let text: String = (0..lines).map(|n| format!("line {n}\n")).collect();
        std::fs::create_dir_all(workspace.path.join("src/deep/er")).unwrap();
        for name in names.split(' ') {
            std::fs::write(
                workspace.path.join("src/deep/er").join(name),
                format!("{name}\n{text}"),
            )
            .unwrap();
        }
    };
    many("a b c", 300);
    workspace.commit("first", b"first");
    push("files");
    many("a", 310);
    workspace.commit("first", b"second");
    push("a change, which is a delta of what was there");
    git(&["mv", "src/deep", "moved"]);
    git(&["commit", "-q", "-m", "moved"]);
    push("a directory that is renamed");
    git(&["revert", "--no-edit", "HEAD~1"]);
    push("old content");
    git(&["update-index", "--chmod=+x", "first"]);
    git(&["commit", "-q", "-m", "mode"]);
    git(&["reset", "-q", "--hard"]);
    push("a mode");
    git(&["commit", "-q", "--allow-empty", "-m", "empty"]);
    push("an empty commit");
    git(&["rm", "-q", "-r", "moved"]);
    git(&["commit", "-q", "-m", "removed"]);
    push("files that are removed");
    std::os::unix::fs::symlink("first", workspace.path.join("link")).unwrap();
    workspace.commit("linked", b"x");
    push("a symbolic link");
    let odd = std::ffi::OsStr::new("odd \u{1b} name");
    std::fs::write(workspace.path.join(odd), "x").unwrap();
    let bytes: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\xfe\n");
    std::fs::write(workspace.path.join(bytes), "x").unwrap();
    workspace.commit("large", &vec![7; 30 << 20]);
    push("names of any bytes, and a large file");
    // Side branches, and a history of its own, merged at once.
    for side in ["one", "two"] {
        git(&["switch", "-q", "-c", side, BRANCH]);
        workspace.commit(side, side.as_bytes());
    }
    git(&["switch", "-q", BRANCH]);
    git(&["merge", "-q", "--no-edit", "one", "two"]);
    push("an octopus");
    git(&["switch", "-q", "--orphan", "alone"]);
    workspace.commit("alone", b"alone");
    git(&["switch", "-q", BRANCH]);
    git(&[
        "merge",
        "-q",
        "--no-edit",
        "--allow-unrelated-histories",
        "alone",
    ]);
    push("a history of its own");
    // Checkpoints come first, and the branch follows.
    workspace.commit("kept back", b"kept back");
    std::fs::create_dir_all(workspace.path.join("sub")).unwrap();
    git(&["mv", "first", "sub/first"]);
    workspace.commit("kept back", b"kept back again");
    let saved = checkpoint(&workspace, &["HEAD"], b"half");
    git(&["push", "-q", "origin", &format!("+{saved}:{CHECKPOINT}")]);
    push("commits that a checkpoint brought");
    assert_eq!(lab.pushes(RUN).last().unwrap().1, workspace.head());
    // The target moves on by a person twice; the run merges the older commit.
    let by_ann = |name: &str| {
        std::fs::write(lab.user().join(name), name).unwrap();
        ok(&lab.user(), &["add", "-A"]);
        let mut command = lab::git(&lab.user(), &["commit", "-q", "-m", name]);
        let said = command
            .env("GIT_AUTHOR_NAME", "Ann")
            .env("GIT_COMMITTER_NAME", "Ann");
        assert!(lab::said(said.output().unwrap()).ok);
        lab.target_moved()
    };
    let (older, _newer) = (by_ann("older"), by_ann("newer"));
    let base = lab.places.base_git();
    git(&["fetch", "-q", base.to_str().unwrap(), "refs/heads/main"]);
    git(&["merge", "-q", "--no-edit", older.as_str()]);
    push("a merge of the target, which has moved on");
    lab.assert_no_leftovers();
    ok(
        &lab.places.door_git(),
        &["fsck", "--strict", "--connectivity-only"],
    );

    // A pack by hand that names what stood in the history once, and brings it not.
    let old = git(&["rev-parse", ":/^first"]);
    let tree = git(&["rev-parse", &format!("{old}:src")]);
    let back = workspace.tree(&[format!("040000 tree {tree}\tback\n")]);
    let tip = workspace.head().to_string();
    let new = workspace.commit_of(&back, &[&tip]);
    let name = format!("refs/heads/{BRANCH}");
    let answer = send(
        &served,
        (&tip, &new),
        &name,
        &pack_of(&workspace, &[&new, &back]),
    );
    assert!(answer.contains(&format!("ok {name}")), "{answer}");
    assert_eq!(lab.pushes(RUN).last().unwrap().1.to_string(), new);
}

#[test]
fn commits_are_by_the_run() {
    let (lab, _served, workspace) = served();
    let start = lab.start.as_str();
    let by = |part: &str, name: &str, args: &[&str]| {
        let mut command = lab::git(&workspace.path, args);
        let said = lab::said(
            command
                .env(format!("GIT_{part}_NAME"), name)
                .output()
                .unwrap(),
        );
        assert!(said.ok, "{}", said.text);
    };
    let empty = ["commit", "-q", "--allow-empty", "-m", "x"];
    for part in ["AUTHOR", "COMMITTER"] {
        by(part, "Ann\u{202e}", &empty);
        let head = workspace.head();
        workspace.refused(
            &["push"],
            &[
                "not this run's commits",
                "are by factory worker <worker@factory.invalid>",
                &format!(
                    "the {} of {head} is Ann\\u{{202e}} <worker@",
                    part.to_lowercase()
                ),
                "git commit --amend --no-edit --reset-author",
            ],
        );
        workspace.ok(&["reset", "-q", "--hard", start]);
    }
    // Behind another one, and what is advised helps.
    std::fs::write(workspace.path.join("theirs"), "theirs").unwrap();
    workspace.ok(&["add", "-A"]);
    by("AUTHOR", "Ann", &["commit", "-q", "-m", "theirs"]);
    workspace.commit("ours", b"ours");
    let advice = format!("git rebase {start} --exec 'git commit --amend --no-edit --reset-author'");
    workspace.refused(&["push"], &["not this run's commits", &advice]);
    let exec = "git commit --amend --no-edit --reset-author";
    workspace.ok(&["rebase", "-q", start, "--exec", exec]);
    workspace.ok(&["push"]);
    assert_eq!(lab.pushes(RUN).len(), 1);
}

#[test]
fn what_leads_out_or_is_a_persons_to_add_is_refused_by_its_path() {
    let (lab, _served, workspace) = served();
    let start = lab.start.as_str();
    let readme = workspace.object("blob", b"x");
    let link = |to: &str| {
        format!(
            "120000 blob {}\tlink\n",
            workspace.object("blob", to.as_bytes())
        )
    };
    let file = |name: &str, text: &str| {
        format!(
            "100644 blob {}\t{name}\n",
            workspace.object("blob", text.as_bytes())
        )
    };
    let modules = "[submodule \"x\"]\n\tpath = x\n\turl = https://example.invalid/x\n";
    let rows = [
        (
            link("/etc/passwd"),
            "link: a symbolic link to `/etc/passwd` leads out of this repository",
        ),
        (link("../x"), "link: a symbolic link to `../x` leads out"),
        (
            link(".git/hooks"),
            "link: a symbolic link to `.git/hooks` leads into `.git`",
        ),
        (
            link("\u{1b}[2J/../x"),
            "link: a symbolic link to `\\u{1b}[2J/../x` goes up again behind a name",
        ),
        (
            link(&"x".repeat(5000)),
            "link: a symbolic link's target has at most 4096 bytes",
        ),
        (
            format!("160000 commit {start}\tsub\n"),
            "sub: a submodule is added or moved by a person",
        ),
        (
            file(".gitmodules", modules),
            ".gitmodules: submodules are changed by a person",
        ),
        (
            file("keys", &format!("one\ntwo {KEY}\n")),
            "keys:2: a model key of this factory stands here",
        ),
        (
            file(KEY, "x"),
            "a path: a model key of this factory stands here",
        ),
    ];
    for (line, word) in &rows {
        let tree = workspace.tree(&[format!("100644 blob {readme}\tfile\n"), line.clone()]);
        let new = workspace.commit_of(&tree, &[start]);
        // Taken away again, and pushed all the same.
        let same = workspace.ok(&["rev-parse", &format!("{start}^{{tree}}")]);
        let after = workspace.commit_of(&same, &[&new]);
        for tip in [&new, &after] {
            let push = format!("{tip}:refs/heads/{BRANCH}");
            workspace.refused(
                &["push", "origin", &push],
                &["rules of the repository", word],
            );
            let said = workspace.git(&["push", "origin", &push]).text;
            assert!(!said.contains(KEY), "{said}");
        }
    }
    std::fs::write(workspace.path.join(".git/m"), KEY).unwrap();
    workspace.ok(&["commit", "-q", "--allow-empty", "-F", ".git/m"]);
    let words = [
        "rules of the repository",
        "a model key of this factory stands here",
    ];
    workspace.refused(&["push"], &words);
    workspace.ok(&["reset", "-q", "--hard", start]);
    // Many are told in few lines.
    for n in 0..50 {
        std::os::unix::fs::symlink("/", workspace.path.join(format!("l{n}"))).unwrap();
    }
    workspace.commit("many", b"many");
    workspace.refused(&["push"], &["and 30 more"]);
    assert!(lab.pushes(RUN).is_empty());
    lab.assert_no_leftovers();
}

#[test]
fn what_is_too_much_is_refused_by_its_limit() {
    let (lab, _served, workspace) = served();
    let start = lab.start.as_str();
    let blob = workspace.object("blob", b"boom");
    let bomb = (0..7).fold(blob, |below, level| {
        let kind = if level == 0 {
            "100644 blob"
        } else {
            "040000 tree"
        };
        let lines: Vec<_> = (0..10).map(|n| format!("{kind} {below}\t{n}\n")).collect();
        workspace.tree(&lines)
    });
    let push = |tree: &str| {
        let new = workspace.commit_of(tree, &[start]);
        format!("{new}:refs/heads/{BRANCH}")
    };
    workspace.refused(
        &["push", "origin", &push(&bomb)],
        &[
            "too large",
            "a push changes at most 200000 files and directories",
        ],
    );
    let checkpoint = workspace.tree(&[format!("040000 tree {bomb}\twork\n")]);
    let new = workspace.commit_of(&checkpoint, &[start]);
    workspace.refused(
        &["push", "origin", &format!("+{new}:{CHECKPOINT}")],
        &["too large", "at most 200000 files"],
    );
    let deep = (0..200).fold(workspace.object("blob", b"x"), |below, level| {
        let kind = if level == 0 {
            "100644 blob"
        } else {
            "040000 tree"
        };
        workspace.tree(&[format!("{kind} {below}\td\n")])
    });
    let words = ["a path has at most 4096 bytes and 128 directories"];
    workspace.refused(&["push", "origin", &push(&deep)], &words);
    let zeros = std::fs::File::create(workspace.path.join("zeros")).unwrap();
    zeros.set_len(101 << 20).unwrap();
    workspace.ok(&["add", "-A"]);
    workspace.ok(&["commit", "-q", "-m", "zeros"]);
    workspace.refused(
        &["push"],
        &[
            "too large",
            "at most 104857600 bytes, and `zeros` has 105906176",
        ],
    );
    // The same file many times: little to push, and much to check out.
    zeros.set_len(90 << 20).unwrap();
    workspace.ok(&["add", "-A"]);
    let zeros = workspace.ok(&["rev-parse", ":zeros"]);
    let lines: Vec<_> = (0..24)
        .map(|n| format!("100644 blob {zeros}\t{n}\n"))
        .collect();
    let many = workspace.tree(&lines);
    workspace.refused(
        &["push", "origin", &push(&many)],
        &["the files that a push changes have at most 2147483648 bytes together"],
    );
    assert!(lab.pushes(RUN).is_empty());
    lab.assert_no_leftovers();
}

#[test]
fn a_commit_has_a_bounded_number_of_parents() {
    let (lab, _served, workspace) = served();
    let start = lab.start.as_str();
    let tree = workspace.ok(&["rev-parse", "HEAD^{tree}"]);
    let many = workspace.commit_of(&tree, &[start; 65]);
    let behind = workspace.commit_of(&tree, &[&many]);
    let words = [
        "too many parents",
        "a commit has at most 64 parents, and ",
        "merge the branches one after the other",
    ];
    for tip in [&many, &behind] {
        for name in [format!("refs/heads/{BRANCH}"), CHECKPOINT.to_owned()] {
            workspace.refused(&["push", "origin", &format!("+{tip}:{name}")], &words);
        }
    }
    let most = workspace.commit_of(&tree, &[start; 64]);
    workspace.ok(&["push", "origin", &format!("{most}:refs/heads/{BRANCH}")]);
    assert_eq!(lab.pushes(RUN).len(), 1);
    lab.assert_no_leftovers();
}

/// A tree of one entry, whatever its mode.
fn tree_of(workspace: &Workspace, mode: &str, name: &str, id: &str) -> String {
    let mut bytes = format!("{mode} {name}\0").into_bytes();
    bytes.extend((0..20).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).unwrap()));
    workspace.object("tree", &bytes)
}

#[test]
fn what_git_takes_for_a_submodule_is_refused_by_its_mode() {
    let (mut lab, _served, workspace) = served();
    let start = lab.start.as_str();
    let blob = workspace.object("blob", b"x");
    let tree = workspace.tree(&[format!("100644 blob {blob}\tx\n")]);
    for (mode, id) in [
        ("10000", start),
        ("60000", start),
        ("140000", start),
        ("100600", &blob),
        ("100664", &blob),
        ("40755", &tree),
    ] {
        let odd = tree_of(&workspace, mode, "odd", id);
        let checkpoint = workspace.tree(&[format!("040000 tree {odd}\twork\n")]);
        for (tree, name, path) in [
            (&odd, format!("refs/heads/{BRANCH}"), "odd"),
            (&checkpoint, CHECKPOINT.to_owned(), "work/odd"),
            (&odd, CHECKPOINT.to_owned(), "odd"),
        ] {
            let new = workspace.commit_of(tree, &[start]);
            let word = format!("badFilemode: `{path}` has the mode {mode}");
            let push = format!("+{new}:{name}");
            workspace.refused(&["push", "origin", &push], &["fsck failed", &word]);
        }
    }
    assert!(lab.pushes(RUN).is_empty());
    // What old versions of git wrote stays as it was.
    let user = Workspace { path: lab.user() };
    let file =
        |of: &Workspace, text: &[u8]| tree_of(of, "100664", "file", &of.object("blob", text));
    let old = user.commit_of(&file(&user, b"old"), &[start]);
    user.ok(&["update-ref", "refs/heads/main", &old]);
    lab.start = lab.target_moved();
    let served = lab.serve(OTHER, Some("factory/2-other"));
    let others = lab.workspace(&served, "factory/2-other");
    let new = others.commit_of(&file(&others, b"new"), &[&old]);
    others.ok(&[
        "push",
        "origin",
        &format!("{new}:refs/heads/factory/2-other"),
    ]);
    assert_eq!(lab.pushes(OTHER).len(), 1);
}

#[test]
fn a_link_of_the_target_may_be_renamed_and_none_is_made_of_it() {
    let (mut lab, _served, workspace) = served();
    let user = Workspace { path: lab.user() };
    std::fs::create_dir_all(user.path.join("a/b")).unwrap();
    std::os::unix::fs::symlink("/etc/hosts", user.path.join("link")).unwrap();
    std::os::unix::fs::symlink("../../file", user.path.join("a/b/up")).unwrap();
    user.commit("text", b"/etc/passwd");
    drop(workspace);
    lab.start = lab.target_moved();
    let served = lab.serve(OTHER, Some("factory/2-other"));
    let others = lab.workspace(&served, "factory/2-other");
    let start = lab.start.as_str();
    // The text of a file becomes a link; one that stayed within leads out from elsewhere.
    for (kind, from) in [("text", "text"), ("up", "a/b/up")] {
        let id = others.ok(&["rev-parse", &format!("HEAD:{from}")]);
        let tree = others.tree(&[format!("120000 blob {id}\t{kind}\n")]);
        let new = others.commit_of(&tree, &[start]);
        let push = format!("{new}:refs/heads/factory/2-other");
        let word = format!("{kind}: a symbolic link to ");
        others.refused(&["push", "origin", &push], &["leads out", &word]);
    }
    others.ok(&["mv", "link", "renamed"]);
    others.ok(&["commit", "-q", "-m", "renamed"]);
    others.ok(&["push"]);
    assert_eq!(lab.pushes(OTHER).len(), 1);
}
