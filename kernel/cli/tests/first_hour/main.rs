//! What goes wrong in the first hour: every bad start names its cause and the
//! way out, has its exit code, and leaves nothing behind. And `init`, `doctor`
//! and the door probe where all is well. The real binary, git and Docker.

#![expect(
    clippy::unwrap_used,
    reason = "a failing helper of a test is a failing test"
)]

mod doctor;
mod guess;
mod init;
mod keys;
mod lab;
mod own_image;
mod podman;
mod system;

use lab::{FACTORY, KEY, Lab, NO_DOCKER, assert_bad, has_agent, has_docker, listing};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

/// No image is ever built with this package: there is none.
const NEVER_BUILT: &str = "image: {packages: [factory-test-never-built]}\nchecks: [\"true\"]\n";
/// Needs no key and no engine layer.
const OWN_COMMAND: &str = "engine: {command: [\"true\"]}\nchecks: [\"true\"]\n";

/// One repository that cannot be worked with.
struct Unusable {
    name: &'static str,
    make: fn(&Lab) -> PathBuf,
    says: &'static str,
    mend: &'static str,
}

const UNUSABLE: [Unusable; 11] = [
    Unusable {
        name: "not a repository",
        make: |lab| lab.path("home"),
        says: "is not in a git repository",
        mend: "git init",
    },
    Unusable {
        name: "no commit",
        make: |lab| {
            let dir = lab.path("empty");
            fs::create_dir(&dir).unwrap();
            lab.git(&dir, &["init", "--quiet"]);
            dir
        },
        says: "has no commit",
        mend: "git commit --allow-empty",
    },
    Unusable {
        name: "a HEAD that names a missing branch",
        make: |lab| {
            let origin = lab.repo("elsewhere", &[]);
            lab.git(&origin, &["branch", "--quiet", "-m", "trunk"]);
            lab.git(&origin, &["symbolic-ref", "HEAD", "refs/heads/gone"]);
            let from = format!("file://{}", origin.display());
            lab.git(&origin, &["clone", "--quiet", &from, "../unborn"]);
            lab.path("unborn")
        },
        says: "names a branch that does not exist",
        mend: "git switch trunk",
    },
    Unusable {
        name: "bare",
        make: |lab| {
            let dir = lab.path("bare.git");
            fs::create_dir(&dir).unwrap();
            lab.git(&dir, &["init", "--quiet", "--bare"]);
            dir
        },
        says: "is a bare repository",
        mend: "git clone",
    },
    Unusable {
        name: "detached HEAD",
        make: |lab| {
            let dir = lab.repo("detached", &[]);
            lab.git(&dir, &["switch", "--quiet", "--detach"]);
            dir
        },
        says: "detached HEAD",
        mend: "git switch <branch>",
    },
    Unusable {
        name: "shallow clone",
        make: |lab| {
            let origin = lab.repo("long", &[]);
            lab.git(
                &origin,
                &["commit", "--quiet", "--allow-empty", "-m", "More"],
            );
            let from = format!("file://{}", origin.display());
            lab.git(
                &origin,
                &["clone", "--quiet", "--depth=1", &from, "../shallow"],
            );
            lab.path("shallow")
        },
        says: "is a shallow clone",
        mend: "git fetch --unshallow",
    },
    Unusable {
        name: "partial clone",
        make: |lab| {
            let origin = lab.repo("whole", &[("a", "a")]);
            let from = format!("file://{}", origin.display());
            let clone = [
                "clone",
                "--quiet",
                "--filter=blob:none",
                &from,
                "../partial",
            ];
            lab.git(&origin, &clone);
            lab.path("partial")
        },
        says: "is a partial clone",
        mend: "git fetch --refetch --no-filter",
    },
    Unusable {
        name: "SHA-256",
        make: |lab| {
            let dir = lab.path("sha256");
            fs::create_dir(&dir).unwrap();
            lab.git(&dir, &["init", "--quiet", "--object-format=sha256"]);
            lab.git(&dir, &["commit", "--quiet", "--allow-empty", "-m", "Start"]);
            dir
        },
        says: "uses SHA-256 object ids",
        mend: "git init --object-format=sha1",
    },
    Unusable {
        name: "a path that is not UTF-8",
        make: |lab| lab.moved(b"caf\xe9"),
        says: "caf\\xE9/.git\" holds a line feed or bytes that are no UTF-8",
        mend: "mv <its folder>",
    },
    Unusable {
        name: "a path with a line feed",
        make: |lab| lab.moved(b"two\nlines"),
        says: "two\\nlines/.git\" holds a line feed",
        mend: "mv <its folder>",
    },
    Unusable {
        name: "an agent's workspace",
        make: |lab| {
            let repo = lab.repo("host", &[]);
            let workspace = repo.join(".git/factory/ws/r1-1");
            fs::create_dir_all(workspace.parent().unwrap()).unwrap();
            lab.git(
                &repo,
                &["clone", "--quiet", ".", workspace.to_str().unwrap()],
            );
            workspace
        },
        says: "is the workspace of an agent",
        mend: "change into your own work tree",
    },
];

#[test]
fn repositories_that_cannot_be_worked_with() {
    for case in UNUSABLE {
        let lab = Lab::new();
        let dir = (case.make)(&lab);
        let before = listing(&dir);
        let commands: [&[&str]; 4] = [
            &["init"],
            &["issue", "list"],
            &["start", "--until-idle"],
            &["doctor"],
        ];
        for command in commands {
            let ended = lab.factory(&dir, command, &[KEY, NO_DOCKER]);
            let name = format!("{}: {command:?}", case.name);
            assert_bad(&ended, 3, &[case.says, case.mend], &name);
        }
        // A detached HEAD is seen only when the state is begun, after its folder was made.
        let after = listing(&dir);
        let left: Vec<_> = after.iter().filter(|path| !before.contains(path)).collect();
        assert!(left.is_empty(), "{}: {left:?}", case.name);
    }
}

#[test]
fn bad_configurations_and_missing_things() {
    let broken: &[(&str, &str)] = &[("factory.yaml", "checks: [\"a\"\nslots: 3\n")];
    let unknown: &[(&str, &str)] = &[("factory.yaml", "version: 1\nslotz: 3\n")];
    let fine: &[(&str, &str)] = &[("factory.yaml", "version: 1\n")];
    let loopback: &[(&str, &str)] = &[(
        "factory.yaml",
        "models: {anthropic: {base_url: \"http://127.0.0.1:9\", key_env: LOCAL_API_KEY}}\n",
    )];
    let docker_words: &[&str] = &[
        "no Docker engine found",
        "/nonexistent",
        "install and start",
    ];
    let key_words: &[&str] = &["ANTHROPIC_API_KEY is not set", "export ANTHROPIC_API_KEY="];
    let start: &[&str] = &["start", "--until-idle"];
    let doctor: &[&str] = &["doctor"];
    let build: &[&str] = &["image", "build"];
    type Row<'a> = (
        &'a str,
        &'a [(&'a str, &'a str)],
        &'a [&'a str],
        &'a [(&'a str, &'a str)],
        i32,
        &'a [&'a str],
    );
    let rows: &[Row] = &[
        (
            "broken YAML",
            broken,
            start,
            &[KEY],
            4,
            &["factory.yaml (commit ", "):2:"],
        ),
        (
            "broken YAML",
            broken,
            build,
            &[],
            4,
            &["factory.yaml (commit "],
        ),
        (
            "broken YAML",
            broken,
            doctor,
            &[KEY, NO_DOCKER],
            4,
            &["missing  factory.yaml"],
        ),
        (
            "unknown key",
            unknown,
            start,
            &[KEY],
            4,
            &["):2:1: unknown key `slotz`", "did you mean `slots`?"],
        ),
        ("no engine", fine, start, &[KEY, NO_DOCKER], 6, docker_words),
        ("no engine", fine, build, &[NO_DOCKER], 6, docker_words),
        (
            "no engine",
            fine,
            doctor,
            &[KEY, NO_DOCKER],
            6,
            docker_words,
        ),
        (
            "a remote engine",
            fine,
            start,
            &[KEY, ("DOCKER_HOST", "tcp://10.0.0.7:2375")],
            6,
            &["remote engine cannot mount", "unset it"],
        ),
        ("no key", fine, start, &[], 8, key_words),
        (
            "an empty key",
            fine,
            start,
            &[("ANTHROPIC_API_KEY", "")],
            8,
            key_words,
        ),
        (
            "another's key",
            fine,
            start,
            &[("OTHER_API_KEY", "x")],
            8,
            key_words,
        ),
        (
            "no key for a local model",
            loopback,
            start,
            &[KEY],
            8,
            &["LOCAL_API_KEY is not set"],
        ),
        (
            "no such file",
            fine,
            &["start", "--config", "absent.yaml"],
            &[KEY],
            4,
            &["cannot read ", "/absent.yaml: No such file"],
        ),
        (
            "no such branch",
            fine,
            &["start", "--target", "absent"],
            &[KEY],
            3,
            &["branch `absent` does not exist"],
        ),
        (
            "no such issue",
            fine,
            &["issue", "show", "99"],
            &[],
            5,
            &["99"],
        ),
        (
            "no such issue",
            fine,
            &["issue", "approve", "99"],
            &[],
            5,
            &["99"],
        ),
        (
            "no number",
            fine,
            &["issue", "show", "x"],
            &[],
            2,
            &["`x` is not an issue number"],
        ),
        ("no such command", fine, &["isue"], &[], 2, &["issue"]),
    ];
    for (name, files, command, env, code, parts) in rows {
        let lab = Lab::new();
        let dir = lab.repo("repo", files);
        let ended = lab.factory(&dir, command, env);
        let case = format!("{name}: {command:?}");
        assert_bad(&ended, *code, parts, &case);
        assert_eq!(lab.status(&dir), "", "{case}");
        lab.nothing_half_made(&dir.join(".git"));
        assert!(
            !format!("{ended:?}").contains(KEY.1),
            "{case}: the key is shown"
        );
    }
}

#[test]
fn a_missing_agent_binary_is_named_with_both_places() {
    let test = "a_missing_agent_binary_is_named_with_both_places";
    if !has_docker(test) {
        return;
    }
    let lab = Lab::new();
    let dir = lab.repo("repo", &[("factory.yaml", OWN_COMMAND)]);
    let bin = lab.path("installed/bin");
    let alone = lab.install(&bin);
    for command in ["doctor", "start"] {
        let mut call = lab.command(&alone, &dir);
        call.arg(command);
        let ended = lab.run(call);
        let beside = bin.join("factory-agent");
        let above = lab.path("installed/lib/factory/factory-agent");
        let places = [beside.to_str().unwrap(), above.to_str().unwrap()];
        assert_bad(&ended, 7, &places, command);
    }
    lab.nothing_half_made(&dir.join(".git"));
    // The second place counts.
    fs::create_dir_all(lab.path("installed/lib/factory")).unwrap();
    fs::write(
        lab.path("installed/lib/factory/factory-agent"),
        "another agent",
    )
    .unwrap();
    let mut doctor = lab.command(&alone, &dir);
    doctor.arg("doctor");
    let ended = lab.run(doctor);
    assert!(
        ended.code == 0 && ended.out.contains("is not built yet"),
        "the second place: {ended:?}"
    );
}

/// Removes an image of ours when the test is over, however it went.
struct Built(String);

impl Drop for Built {
    fn drop(&mut self) {
        let removed = Command::new("docker").args(["rmi", &self.0]).output();
        println!("removed: {removed:?}");
    }
}

#[test]
fn a_closed_door_is_an_engine_failure_and_is_tried_again() {
    let test = "a_closed_door_is_an_engine_failure_and_is_tried_again";
    if !has_docker(test) {
        return;
    }
    let lab = Lab::new();
    let dir = lab.repo("repo", &[("factory.yaml", OWN_COMMAND)]);
    let bin = lab.path("installed/bin");
    lab.install(&bin);
    // What the agent would print behind a mount that passes on no sockets.
    let agent = format!(
        "#!/bin/sh\n# {}\ngit init -q /workspace\n\
         echo '{{\"hello\":false,\"writable\":{{\"/workspace\":true}},\"problems\":[\"the door is closed\"]}}'\n\
         exit 1\n",
        lab.dir.path().display()
    );
    fs::write(bin.join("factory-agent"), agent).unwrap();
    let run = |command: &[&str], env: &[(&str, &str)]| {
        let mut call = lab.command(bin.join("factory"), &dir);
        call.args(command).envs(env.iter().copied());
        lab.run(call)
    };
    let built = run(&["image", "build"], &network());
    assert_eq!(built.code, 0, "{built:?}");
    let _image = Built(built.out.trim().to_owned());
    let commands: [&[&str]; 3] = [&["start", "--until-idle"], &["prepare"], &["doctor"]];
    for command in commands {
        let parts = [
            "no socket of ours",
            "the door is closed",
            "move the repository",
        ];
        assert_bad(&run(command, &[]), 6, &parts, command[0]);
        lab.nothing_half_made(&dir.join(".git"));
    }
}

#[test]
fn doctor_says_what_is_missing_and_what_mends_it() {
    let test = "doctor_says_what_is_missing_and_what_mends_it";
    if !has_docker(test) || !has_agent(test) {
        return;
    }
    let lab = Lab::new();
    let files = [
        ("factory.yaml", NEVER_BUILT),
        (".gitmodules", ""),
        (
            "data/.gitattributes",
            "*.bin filter=lfs diff=lfs merge=lfs -text\n",
        ),
    ];
    let dir = lab.repo("repo", &files);
    lab.git(&dir, &["branch", "factory"]);
    fs::write(dir.join("factory.yaml"), "slots: 2\n").unwrap();

    let ended = lab.factory(&dir, &["doctor"], &[KEY]);
    let parts = [
        "is not built yet",
        "mend: factory image build",
        "git branch -m factory <name>",
    ];
    // The branch in the way comes first, so its class is the exit code.
    assert_bad(&ended, 4, &parts, "doctor");
    let first = ended.out.lines().next().unwrap();
    assert!(
        first.starts_with("warning") && first.contains("differs"),
        "{first}"
    );

    let ended = lab.factory(&dir, &["doctor", "--json"], &[KEY]);
    let lines: Vec<serde_json::Value> = serde_json::from_str(&ended.out).unwrap();
    let state = |name: &str| {
        let line = lines.iter().find(|line| line["name"] == name);
        line.unwrap_or_else(|| panic!("no {name}: {}", ended.out))["state"].clone()
    };
    for name in ["submodules", "lfs", "work tree", "image"] {
        assert_eq!(state(name), "warning", "{name}");
    }
    assert_eq!(state("branch names"), "missing");
    for name in [
        "git",
        "repository",
        "identity",
        "target",
        "docker",
        "model key",
        "checks",
    ] {
        assert_eq!(state(name), "ok", "{name}");
    }
    assert!(!ended.out.contains(KEY.1), "the key is shown");
    // It only looks: no factory was begun.
    assert!(!dir.join(".git/factory").exists());
    assert_eq!(lab.status(&dir), " M factory.yaml\n");

    lab.git(&dir, &["branch", "-D", "factory"]);
    // The image is built by the first start: nothing is in its way.
    let ended = lab.factory(&dir, &["doctor"], &[KEY]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.out.contains("mend: factory image build"),
        "{}",
        ended.out
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let lab = Lab::new();
    let dir = lab.repo("repo", &[]);
    for command in [["doctor"].as_slice(), &["doctor", "--json"], &["init"]] {
        let mut call = lab.command(FACTORY, &dir);
        call.args(command).envs([KEY, NO_DOCKER]);
        let mut child = call
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(said, "", "{command:?}");
        assert!(
            matches!(ended.status.code(), Some(0 | 6)),
            "{}",
            ended.status
        );
    }
}

#[test]
fn with_everything_there_doctor_is_content_and_start_prepares_once() {
    let test = "with_everything_there_doctor_is_content_and_start_prepares_once";
    if !has_docker(test) || !has_agent(test) {
        return;
    }
    let lab = Lab::new();
    let dir = lab.repo("repo", &[("factory.yaml", OWN_COMMAND)]);
    let built = lab.factory(&dir, &["image", "build"], &network());
    assert_eq!(built.code, 0, "{built:?}");
    assert!(built.out.starts_with("sha256:"), "{built:?}");

    // Socket addresses end at 107 bytes.
    let other = lab.repo(&"long-".repeat(30), &[("factory.yaml", OWN_COMMAND)]);
    let ended = lab.factory(&other, &["doctor"], &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("ok       door"), "{}", ended.out);
    assert!(
        !other.join(".git/factory").exists(),
        "doctor began a factory"
    );
    lab.nothing_half_made(&other.join(".git"));

    let cache = dir.join(".git/factory/cache/door-probe.json");
    let prepared = lab.factory(&dir, &["prepare"], &[]);
    assert_eq!(
        (prepared.code, prepared.err.as_str()),
        (0, ""),
        "{prepared:?}"
    );
    let passed = fs::read_to_string(&cache).unwrap();
    assert!(passed.contains(built.out.trim()), "{passed}");
    lab.nothing_half_made(&dir.join(".git"));

    // What a killed probe left is removed, and a passed one is not repeated.
    for left in ["run/probe", "ws/probe"] {
        fs::create_dir_all(dir.join(".git/factory").join(left).join("x")).unwrap();
    }
    let repeated = lab.factory(&dir, &["prepare"], &[]);
    assert_eq!(repeated.code, 0, "{repeated:?}");
    assert!(
        dir.join(".git/factory/run/probe").exists(),
        "it was probed again"
    );
    fs::remove_file(&cache).unwrap();
    let again = lab.factory(&dir, &["prepare"], &[]);
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(fs::read_to_string(&cache).unwrap(), passed);
    lab.nothing_half_made(&dir.join(".git"));
}

/// The way to the network of whoever runs the tests: only a missing base needs it.
fn network() -> Vec<(&'static str, &'static str)> {
    let names = [
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    ];
    let set = |name| Some((name, &*std::env::var(name).ok()?.leak()));
    names.into_iter().filter_map(set).collect()
}
