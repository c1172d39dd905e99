//! Each usual cause of a first failure, made on purpose: `factory doctor` finds
//! it, says how bad it is, and names what mends it.

mod disks;
mod model;
mod programs;

use crate::{
    OWN_COMMAND, has_agent, has_docker,
    lab::{Ended, KEY, Lab, NO_DOCKER},
    network,
};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

/// Whoever is not root.
const NOBODY: u32 = 65_534;

/// Asserts a line of a report: how it is, its name, a part of what it says, a part of what mends it.
fn assert_line(ended: &Ended, state: &str, name: &str, detail: &str, mend: &str) {
    let begin = format!("{state:<8} {name:<13} ");
    let mut lines = ended.out.lines();
    let found = lines.any(|line| line.starts_with(&begin) && line.contains(detail));
    assert!(found, "no `{begin}…{detail}` in {ended:?}");
    if !mend.is_empty() {
        let next = lines.next().unwrap_or_default();
        let is_mend = next.trim_start().starts_with("mend: ") && next.contains(mend);
        assert!(is_mend, "`{mend}` does not follow `{detail}` in {ended:?}");
    }
    assert!(!ended.err.contains("panicked"), "{ended:?}");
    assert!(!format!("{ended:?}").contains(KEY.1), "the key is shown");
}

/// A Docker engine that only says what it is.
struct FakeEngine {
    socket: PathBuf,
}

impl FakeEngine {
    fn start(lab: &Lab, version: &str, info: &str) -> Self {
        let socket = lab.path("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (version, info) = (version.to_owned(), info.to_owned());
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let path = request_path(&mut stream);
                let (status, body) = match path.as_str() {
                    path if path.ends_with("/version") => ("200 OK", version.as_str()),
                    path if path.ends_with("/info") => ("200 OK", info.as_str()),
                    _ => ("404 Not Found", "{\"message\": \"no such thing\"}"),
                };
                answer(&mut stream, status, body);
            }
        });
        Self { socket }
    }

    fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

fn request_path(stream: &mut impl Read) -> String {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().and_then(Result::ok).unwrap_or_default();
    for line in lines {
        if line.is_ok_and(|line| line.is_empty()) {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    path.to_owned()
}

fn answer(stream: &mut impl Write, status: &str, body: &str) {
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // A client that gave up is none of ours.
    drop(stream.write_all(text.as_bytes()));
}

const VERSION: &str =
    "{\"Version\": \"20.10.24\", \"ApiVersion\": \"1.41\", \"MinAPIVersion\": \"1.12\"}";

fn info(security: &str, more: &str) -> String {
    format!(
        "{{\"ID\": \"fake\", \"OperatingSystem\": \"Fake\", \"Architecture\": \"x86_64\", \"NCPU\": 2, \
         \"MemTotal\": 8589934592, \"SecurityOptions\": [{security}]{more}}}"
    )
}

#[test]
fn engines_that_will_not_do() {
    let lab = Lab::new();
    let dir = lab.repo("repo", &[("factory.yaml", OWN_COMMAND)]);
    let doctor = |host: &str| lab.factory(&dir, &["doctor"], &[("DOCKER_HOST", host)]);

    let ended = doctor("unix:///nonexistent");
    assert_line(
        &ended,
        "missing",
        "docker",
        "no Docker engine found",
        "install and start Docker",
    );
    assert_eq!(ended.code, 6, "{ended:?}");
    let ended = doctor("tcp://10.0.0.7:2375");
    assert_line(
        &ended,
        "missing",
        "docker",
        "not a socket of this machine",
        "unset it",
    );
    assert_eq!(ended.code, 6, "{ended:?}");
    let dead = lab.path("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let ended = doctor(&format!("unix://{}", dead.display()));
    assert_line(
        &ended,
        "missing",
        "docker",
        "does not answer",
        "check that it runs (`docker info`)",
    );
    assert_eq!(ended.code, 6, "{ended:?}");

    type Row<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str, &'a str);
    let old = VERSION.replace("1.41", "1.40");
    let rows: &[Row] = &[
        (
            &old,
            "",
            "missing",
            "docker",
            "1.41 (Docker 20.10) is the oldest",
            "upgrade it",
        ),
        (
            VERSION,
            "\"name=rootless\"",
            "warning",
            "users",
            "runs without root",
            "unset DOCKER_HOST",
        ),
        (
            VERSION,
            "\"name=userns\"",
            "warning",
            "users",
            "remaps users",
            "/etc/docker/daemon.json",
        ),
        (
            VERSION,
            "",
            "warning",
            "limits",
            "does not enforce limits of: memory",
            "`docker info`",
        ),
    ];
    for (version, security, state, name, detail, mend) in rows {
        let lab = Lab::new();
        let info = info(security, ", \"MemoryLimit\": false");
        let engine = FakeEngine::start(&lab, version, &info);
        let ended = lab.factory(&dir, &["doctor"], &[("DOCKER_HOST", &engine.host())]);
        assert_line(&ended, state, name, detail, mend);
        // Without an image here, the rest depends on where a base comes from.
        let codes: &[i32] = if *name == "docker" { &[6] } else { &[0, 7] };
        assert!(codes.contains(&ended.code), "{ended:?}");
    }
    // A runtime that the engine does not have, and one that it has.
    for (name, has) in [("runsc", false), ("kata", true)] {
        let lab = Lab::new();
        let config = format!("{OWN_COMMAND}runtime: {name}\n");
        let dir = lab.repo("repo", &[("factory.yaml", &config)]);
        let runtimes = ", \"Runtimes\": {\"runc\": {\"path\": \"runc\"}, \"kata\": {}}";
        let engine = FakeEngine::start(&lab, VERSION, &info("", runtimes));
        let host = engine.host();
        let env = [("DOCKER_HOST", host.as_str())];
        let ended = lab.factory(&dir, &["doctor"], &env);
        if has {
            assert!(
                ended.out.contains("runtime") && ended.out.contains("kata"),
                "{ended:?}"
            );
            assert!(!ended.out.contains("has no runtime"), "{ended:?}");
            continue;
        }
        let detail = "no runtime `runsc`, only kata, runc";
        let mend = "/etc/docker/daemon.json";
        assert_line(&ended, "missing", "runtime", detail, mend);
        assert_eq!(ended.code, 6, "{ended:?}");
        for command in [&["start"][..], &["init", "--try"]] {
            let ended = lab.factory(&dir, command, &env);
            assert_eq!(ended.code, 6, "{command:?} {ended:?}");
            assert!(
                ended.err.contains(detail) && ended.err.contains(mend),
                "{ended:?}"
            );
        }
    }
    // Not more memory than there is, and the right processor.
    let lab = Lab::new();
    let small = info("", "")
        .replace("8589934592", "1073741824")
        .replace("x86_64", "aarch64");
    let engine = FakeEngine::start(&lab, VERSION, &small);
    let ended = lab.factory(&dir, &["doctor"], &[("DOCKER_HOST", &engine.host())]);
    assert_line(
        &ended,
        "warning",
        "limits",
        "limits.memory is 4GiB, more than",
        "lower limits.memory",
    );
    assert_line(
        &ended,
        "warning",
        "processor",
        "aarch64",
        "use a machine with x86_64",
    );
}

/// Runs the command as a user who is not root, in a lab that is theirs.
fn as_nobody(lab: &Lab, dir: &Path, env: &[(&str, &str)]) -> Ended {
    let bin = lab.install(&lab.path("bin"));
    let mut call = lab.command("setpriv", dir);
    call.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&bin)
        .arg("doctor")
        .envs(env.iter().copied());
    lab.run(call)
}

fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: {test}: only root can make what belongs to somebody else");
    }
    is_root
}

fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), user);
        }
    }
}

#[test]
fn what_belongs_to_somebody_else() {
    let test = "what_belongs_to_somebody_else";
    if !is_root(test) {
        return;
    }
    let lab = Lab::new();
    let dir = lab.repo("repo", &[("factory.yaml", OWN_COMMAND)]);
    let init = lab.factory(&dir, &["init"], &[]);
    assert_eq!(init.code, 0, "{init:?}");
    // As root in a user's repository.
    let head = dir.join(".git/factory/state.git/HEAD");
    give(&head, 12_345);
    let ended = lab.factory(&dir, &["doctor"], &[NO_DOCKER]);
    assert_line(
        &ended,
        "missing",
        "folder",
        "state.git/HEAD belongs to user 12345",
        "run factory as user 12345",
    );
    assert_eq!(ended.code, 3, "{ended:?}");

    // As a user, after root was there.
    give(lab.dir.path(), NOBODY);
    give(&head, 0);
    let ended = as_nobody(&lab, &dir, &[NO_DOCKER]);
    assert_line(
        &ended,
        "missing",
        "folder",
        "HEAD belongs to user 0, not to you (65534)",
        "sudo chown -R",
    );
    give(&dir, NOBODY);
    let ended = as_nobody(&lab, &dir, &[NO_DOCKER]);
    assert_line(&ended, "ok", "target", "main", "");

    // A socket that only root may open.
    let engine = FakeEngine::start(&lab, VERSION, &info("", ""));
    fs::set_permissions(&engine.socket, fs::Permissions::from_mode(0o600)).unwrap();
    let ended = as_nobody(&lab, &dir, &[("DOCKER_HOST", &engine.host())]);
    assert_line(
        &ended,
        "missing",
        "docker",
        "no permission to use",
        "sudo usermod -aG docker $USER",
    );
    assert_eq!(ended.code, 6, "{ended:?}");

    // The whole repository is root's: git refuses it, and once told to trust it, it cannot be written.
    give(&dir, 0);
    let ended = as_nobody(&lab, &dir, &[NO_DOCKER]);
    assert_line(
        &ended,
        "missing",
        "repository",
        "dubious ownership",
        "git config --global --add safe.directory",
    );
    assert_eq!(ended.code, 3, "{ended:?}");
    let trust = "[safe]\n\tdirectory = *\n[user]\n\tname = Ann\n\temail = ann@example.org\n";
    fs::write(lab.path("home/.gitconfig"), trust).unwrap();
    let ended = as_nobody(&lab, &dir, &[NO_DOCKER]);
    assert_line(
        &ended,
        "missing",
        "folder",
        ".git cannot be written",
        "sudo chown -R",
    );
}

/// Breaks a repository; gives what to add to the environment.
type Break = fn(&Lab, &Path) -> Vec<(&'static str, String)>;
/// What is broken and how; the line that comes of it, as for `assert_line`; the exit code.
type Row = (
    &'static str,
    Break,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    i32,
);

/// Breaks a repository in each way, and looks at the report.
fn look_at(rows: &[Row]) {
    for (case, break_it, state, name, detail, mend, code) in rows {
        let lab = Lab::new();
        let dir = lab.repo("repo", &[("factory.yaml", "checks: [\"true\"]\n")]);
        let broken = break_it(&lab, &dir);
        let mut env = vec![KEY, NO_DOCKER];
        env.extend(broken.iter().map(|(name, value)| (*name, value.as_str())));
        let before = lab.files(&dir);
        let ended = lab.factory(&dir, &["doctor"], &env);
        println!("{case}");
        assert_line(&ended, state, name, detail, mend);
        assert_eq!(ended.code, *code, "{case}: {ended:?}");
        assert_eq!(lab.files(&dir), before, "{case}: it only looks");
    }
}

#[test]
fn repositories_and_configurations() {
    let rows: &[Row] = &[
        (
            "no git",
            |_, _| vec![("PATH", "/nonexistent".to_owned())],
            "missing",
            "git",
            "git",
            "install git 2.39 or newer",
            3,
        ),
        (
            "an old git",
            |lab, _| {
                let bin = lab.path("old");
                fs::create_dir(&bin).unwrap();
                fs::write(bin.join("git"), "#!/bin/sh\necho git version 2.30.2\n").unwrap();
                fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
                vec![("PATH", format!("{}:/bin:/usr/bin", bin.display()))]
            },
            "missing",
            "git",
            "git 2.30.2 is too old",
            "install git 2.39 or newer",
            3,
        ),
        (
            "no identity",
            |lab, _| {
                fs::write(
                    lab.path("home/.gitconfig"),
                    "[init]\n\tdefaultBranch = main\n",
                )
                .unwrap();
                vec![]
            },
            "warning",
            "identity",
            "no name",
            "git config --global user.name",
            6,
        ),
        (
            "a branch in the way",
            |lab, dir| {
                lab.git(dir, &["branch", "factory"]);
                vec![]
            },
            "missing",
            "branch names",
            "a branch `factory` is there",
            "git branch -m factory",
            4,
        ),
        (
            "the target is gone",
            |lab, dir| {
                assert_eq!(lab.factory(dir, &["init"], &[]).code, 0);
                lab.git(dir, &["branch", "-m", "main", "trunk"]);
                vec![]
            },
            "missing",
            "target",
            "`main` does not exist any more",
            "factory start --target",
            3,
        ),
        (
            "no configuration",
            |lab, dir| {
                lab.git(dir, &["rm", "--quiet", "factory.yaml"]);
                lab.git(dir, &["commit", "--quiet", "-m", "Without"]);
                vec![]
            },
            "warning",
            "factory.yaml",
            "has none, so the defaults hold",
            "factory init",
            6,
        ),
        (
            "another configuration",
            |_, dir| {
                fs::write(dir.join("factory.yaml"), "slots: 7\n").unwrap();
                vec![]
            },
            "warning",
            "work tree",
            "differs from the one in force",
            "git add factory.yaml && git commit",
            6,
        ),
        (
            "a broken configuration",
            |lab, dir| {
                fs::write(dir.join("factory.yaml"), "slotz: 7\n").unwrap();
                lab.git(dir, &["commit", "--quiet", "--all", "-m", "Break"]);
                vec![]
            },
            "missing",
            "factory.yaml",
            "unknown key `slotz`",
            "did you mean `slots`",
            4,
        ),
        (
            "no checks",
            |lab, dir| {
                fs::write(dir.join("factory.yaml"), "slots: 7\n").unwrap();
                lab.git(dir, &["commit", "--quiet", "--all", "-m", "Without"]);
                vec![]
            },
            "warning",
            "checks",
            "nothing is tested",
            "`checks` in factory.yaml",
            6,
        ),
        (
            "a damaged state",
            |lab, dir| {
                assert_eq!(lab.factory(dir, &["init"], &[]).code, 0);
                fs::write(dir.join(".git/factory/state.git/refs/state"), "broken\n").unwrap();
                vec![]
            },
            "missing",
            "state",
            "refs/state",
            "factory state restore",
            1,
        ),
        (
            "a clock that is behind",
            |lab, dir| {
                let mut commit = lab.command("git", dir);
                commit
                    .args(["commit", "--quiet", "--allow-empty", "-m", "Later"])
                    .env("GIT_COMMITTER_DATE", "2099-01-01T00:00:00Z");
                assert_eq!(lab.run(commit).code, 0);
                vec![]
            },
            "warning",
            "clock",
            "is from 2099-01-01",
            "timedatectl set-ntp true",
            6,
        ),
    ];
    look_at(rows);
}

#[test]
fn a_factory_that_runs() {
    let lab = Lab::new();
    let dir = lab.repo("repo", &[("factory.yaml", OWN_COMMAND)]);
    assert_eq!(lab.factory(&dir, &["init"], &[]).code, 0);
    let lock = dir.join(".git/factory/state.git/kernel.lock");
    let file = fs::File::create(&lock).unwrap();
    file.lock().unwrap();
    let ended = lab.factory(&dir, &["doctor"], &[NO_DOCKER]);
    assert_line(
        &ended,
        "warning",
        "running",
        "a factory runs in this repository",
        "factory stop",
    );
    file.unlock().unwrap();
    let ended = lab.factory(&dir, &["doctor"], &[NO_DOCKER]);
    assert!(!ended.out.contains("a factory runs"), "{ended:?}");
}

#[test]
fn bases_and_tools_that_are_not_there() {
    let test = "bases_and_tools_that_are_not_there";
    if !has_docker(test) || !has_agent(test) {
        return;
    }
    let lab = Lab::new();
    let files = [(
        "factory.yaml",
        "engine: {command: [\"true\"]}\nimage: {base: \"factory.invalid/none:1\"}\n",
    )];
    let dir = lab.repo("base", &files);
    let ended = lab.factory(&dir, &["doctor"], &[]);
    assert_line(
        &ended,
        "missing",
        "image base",
        "factory.invalid/none:1 is not on this engine",
        "docker pull factory.invalid/none:1",
    );
    assert_eq!(ended.code, 7, "{ended:?}");

    let checks = "engine: {command: [\"true\"]}\nchecks: [\"sh x\", \"A=b no-such-tool --x\", \"./absent.sh\", \"if true; then true; fi\"]\n";
    let dir = lab.repo("tools", &[("factory.yaml", checks)]);
    let built = lab.factory(&dir, &["image", "build"], &network());
    assert_eq!(built.code, 0, "{built:?}");
    let ended = lab.factory(&dir, &["doctor"], &[]);
    assert_line(
        &ended,
        "warning",
        "check tools",
        "the checks fail: no-such-tool",
        "add the packages",
    );
    assert_line(
        &ended,
        "warning",
        "check tools",
        "has no file absent.sh",
        "git add absent.sh",
    );
    assert_eq!(ended.code, 0, "{ended:?}");
    lab.nothing_half_made(&dir.join(".git"));
}
