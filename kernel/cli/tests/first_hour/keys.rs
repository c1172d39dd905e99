//! Keys from `keys.env`, and from the command that it names.

use crate::{
    assert_bad,
    lab::{FACTORY, KEY, Lab, NO_DOCKER},
};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

/// A repository, and a `keys.env` in the user's home.
fn lab(keys: &str) -> (Lab, PathBuf, PathBuf) {
    let lab = Lab::new();
    let dir = lab.repo("repo", &[]);
    let file = lab.path("home/.config/factory/keys.env");
    write(&file, keys);
    (lab, dir, file)
}

fn write(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// What is looked for once the key is at hand is the engine.
fn assert_has_key(lab: &Lab, dir: &Path, env: &[(&str, &str)], case: &str) {
    let env = [env, &[NO_DOCKER]].concat();
    let start = lab.factory(dir, &["start"], &env);
    assert_bad(&start, 6, &["no Docker engine found"], case);
}

fn doctor(lab: &Lab, dir: &Path, env: &[(&str, &str)]) -> String {
    let env = [env, &[NO_DOCKER]].concat();
    let ended = lab.factory(dir, &["doctor"], &env);
    assert!(!format!("{ended:?}").contains("not-a-key"), "{ended:?}");
    ended.out
}

#[test]
fn a_key_may_stand_in_a_file() {
    let line = format!("# mine\nexport {}='{}'\n", KEY.0, KEY.1);
    let (lab, dir, file) = lab(&line);
    assert_has_key(&lab, &dir, &[], "in the home");
    let said = doctor(&lab, &dir, &[]);
    let ok = "ok       model key     ANTHROPIC_API_KEY (in keys.env) is set";
    assert!(said.contains(ok), "{said}");
    // The environment wins.
    let said = doctor(&lab, &dir, &[KEY]);
    assert!(said.contains("ANTHROPIC_API_KEY is set"), "{said}");

    let other = lab.path("config");
    fs::create_dir(&other).unwrap();
    let elsewhere = [("XDG_CONFIG_HOME", other.to_str().unwrap())];
    let start = lab.factory(&dir, &["start"], &elsewhere);
    let place = format!("{}/factory/keys.env", other.display());
    assert_bad(
        &start,
        8,
        &["ANTHROPIC_API_KEY is not set", &place],
        "elsewhere",
    );
    fs::rename(file.parent().unwrap(), other.join("factory")).unwrap();
    assert_has_key(&lab, &dir, &elsewhere, "elsewhere");
    assert_has_key(
        &lab,
        &dir,
        &[KEY, ("XDG_CONFIG_HOME", "config")],
        "no absolute path",
    );
}

#[test]
fn the_engine_may_be_the_one_whose_key_stands_in_a_file() {
    let (lab, dir, _) = lab("OPENAI_API_KEY=sk-not-a-key\n");
    let ended = lab.factory(&dir, &["init"], &[]);
    assert!(
        ended.out.contains("engine  codex  (OPENAI_API_KEY is set;"),
        "{ended:?}"
    );
    assert_has_key(&lab, &dir, &[], "codex");
}

#[test]
fn a_file_that_is_not_the_users_alone_or_wrong_is_refused() {
    let line = format!("{}={}\n", KEY.0, KEY.1);
    let too_many = format!("{line}{line}");
    type Row<'a> = (&'a str, &'a str, u32, u32, &'a [&'a str]);
    let rows: &[Row] = &[
        (
            "readable",
            &line,
            0o644,
            0o755,
            &["keys.env is open to other users (mode 644)", "chmod 600 /"],
        ),
        ("group", &line, 0o640, 0o755, &["(mode 640)"]),
        (
            "folder",
            &line,
            0o600,
            0o775,
            &[
                "factory can be written to by other users (mode 775)",
                "chmod go-w /",
            ],
        ),
        (
            "pasted",
            "sk-ant-not-a-key\n",
            0o600,
            0o755,
            &["keys.env:1: this is not NAME=value"],
        ),
        (
            "name",
            "\nTOKEN=sk-ant-not-a-key",
            0o600,
            0o755,
            &[
                "keys.env:2: ",
                "neither ends in _API_KEY nor is FACTORY_KEY_COMMAND",
            ],
        ),
        (
            "twice",
            &too_many,
            0o600,
            0o755,
            &["keys.env:2: this name was given before, in line 1"],
        ),
    ];
    for (case, text, mode, folder, parts) in rows {
        let (lab, dir, file) = lab(text);
        let chmod = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        chmod(&file, *mode);
        chmod(file.parent().unwrap(), *folder);
        let before = lab.files(&dir);
        for command in [["start"], ["init"]] {
            let ended = lab.factory(&dir, &command, &[KEY]);
            assert_bad(&ended, 8, parts, case);
            assert!(!format!("{ended:?}").contains("not-a-key"), "{ended:?}");
            assert_eq!(lab.files(&dir), before, "{case}: nothing is begun");
        }
        let said = doctor(&lab, &dir, &[KEY]);
        assert!(said.contains("missing  model key"), "{case}: {said}");
        assert!(
            parts.iter().all(|part| said.contains(part)),
            "{case}: {said}"
        );
        // What needs no key is not held up.
        assert_eq!(lab.factory(&dir, &["issue", "list"], &[]).code, 0, "{case}");
    }
}

#[test]
fn a_command_is_asked_for_what_is_needed_in_the_gateways_environment() {
    let (lab, dir, file) =
        lab("FACTORY_KEY_COMMAND='env >>\"$HOME/seen\"; echo sk-ant-not-a-key; echo more'\n");
    let seen = lab.path("home/seen");
    let foreign = [
        ("GITHUB_TOKEN", "canary"),
        ("OTHER_API_KEY", "canary"),
        ("FACTORY_KEY_COMMAND", "canary"),
    ];
    assert_has_key(&lab, &dir, &foreign, "command");
    let said = doctor(&lab, &dir, &foreign);
    let ok = "ANTHROPIC_API_KEY (by the command in keys.env) is set";
    assert!(said.contains(ok), "{said}");
    let text = fs::read_to_string(&seen).unwrap();
    assert_eq!(
        text.matches("FACTORY_KEY_NAME=ANTHROPIC_API_KEY\n").count(),
        2,
        "{text}"
    );
    assert_eq!(text.matches("FACTORY_KEY_NAME").count(), 2, "{text}");
    assert!(!text.contains("canary"), "{text}");
    // Nobody asks it for a key that is there.
    fs::remove_file(&seen).unwrap();
    assert_has_key(&lab, &dir, &[KEY], "the environment wins");
    assert!(!seen.exists());

    write(
        &file,
        "FACTORY_KEY_COMMAND='echo the store is locked >&2; exit 3'\n",
    );
    let start = lab.factory(&dir, &["start"], &[]);
    let parts = [
        "gave no ANTHROPIC_API_KEY",
        "exit status: 3",
        "the store is locked",
    ];
    assert_bad(&start, 8, &parts, "a command that fails");
    let said = doctor(&lab, &dir, &[]);
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    // From the environment nobody takes a command.
    fs::remove_file(&file).unwrap();
    let command = ("FACTORY_KEY_COMMAND", "echo sk-ant-not-a-key");
    let start = lab.factory(&dir, &["start"], &[command]);
    assert_bad(
        &start,
        8,
        &["ANTHROPIC_API_KEY is not set"],
        "of the environment",
    );
}

/// Looks until there is something.
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_command_that_hangs_ends_with_who_was_told_to_give_up() {
    let command = "FACTORY_KEY_COMMAND='echo $$ >\"$HOME/pid.new\"; mv \"$HOME/pid.new\" \"$HOME/pid\"; sleep 1000; :'\n";
    let (lab, dir, _) = lab(command);
    let file = lab.path("home/pid");
    for args in [&["doctor"][..], &["start"]] {
        let mut factory = lab.command(FACTORY, &dir);
        factory.args(args).env(NO_DOCKER.0, NO_DOCKER.1);
        factory.stdout(Stdio::null()).stderr(Stdio::null());
        // As a terminal has it: what Ctrl-C reaches is this group.
        let mut factory = factory.process_group(0).spawn().unwrap();
        let pid = until("the command begins", || fs::read_to_string(&file).ok());
        fs::remove_file(&file).unwrap();
        kill_process_group(Pid::from_child(&factory), Signal::INT).unwrap();
        let code = factory.wait().unwrap().code();
        assert_eq!(code, Some(130), "{args:?}");
        let proc = PathBuf::from("/proc").join(pid.trim());
        // Nobody may have reaped it yet.
        let gone = || {
            let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        };
        until("the command ends", gone);
    }
}
