//! An agent holds no secret and has one door.

use crate::{GREETED, on_branch};
use factory_testkit::provider::Outcome;
use factory_tests::{Held, Lab, Looked, Model, Search, docker, processes};
use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

/// How every secret of the user begins: nowhere outside its keyring, ever.
const CANARY: &str = "canary-5e1f77ab0c";
/// How what agents may see begins: shows that each search finds what is there.
const MARKER: &str = "marker-2d90c6b41e";

const ONE: &str = r#"
conversations:
  - name: greet
    steps:
      - wait: looked at
        tool: Bash
        input: {command: "env >/tmp/env; echo hello marker-2d90c6b41e-work_ >greeting.txt; git add greeting.txt; git commit -qm Hello; git push -q", description: work}
      - text: Done.
"#;

/// Writes the user's `keys.env`, as an editor does: a new one in its place.
fn write_keys(lab: &Lab, text: &str) {
    let folder = lab.home_dir().join(".config/factory");
    std::fs::create_dir_all(&folder).unwrap();
    let new = folder.join("keys.env.new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, folder.join("keys.env")).unwrap();
}

fn search() -> Search {
    Search::of(&[CANARY, MARKER])
}

/// Only what agents may see was found, and some of that.
fn assert_clean(found: &BTreeSet<String>, place: &str) {
    println!("{place}: {found:?}");
    let canaries: Vec<_> = found.iter().filter(|it| it.contains(CANARY)).collect();
    assert!(canaries.is_empty(), "{place}: {canaries:?}");
    assert!(!found.is_empty(), "{place}: it was not looked at");
}

fn canaries(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|it| format!("{CANARY}-{it}_")).collect()
}

/// What each process of a container holds, and which of them only root may look into; one that
/// ended while it was looked at is left out.
fn in_container(container: &str) -> (Vec<Held>, Vec<String>) {
    let told = docker(&["top", container, "-eo", "pid"]);
    let pids = told.lines().skip(1).map(|it| it.trim().parse().unwrap());
    let (mut seen, mut denied) = (Vec::new(), Vec::new());
    for pid in pids {
        match search().process(pid) {
            Looked::Into(held) => seen.push(*held),
            Looked::Gone => {}
            Looked::Denied(why) => denied.push(why),
        }
    }
    (seen, denied)
}

/// What stands in the objects of a repository.
fn objects(lab: &Lab, repository: &str, search: &Search) -> BTreeSet<String> {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "-C"])
        .arg(lab.below(repository))
        .args(["cat-file", "--batch", "--batch-all-objects", "--unordered"]);
    search.output(&mut git)
}

#[test]
fn no_key_is_anywhere_but_in_launcher_and_gateway() {
    let model = Model::yaml(ONE);
    let mut lab = Lab::new();
    write_keys(
        &lab,
        &format!("TEST_API_KEY={CANARY}-model_\nFACTORY_KEY_COMMAND='echo {CANARY}-command_'\n"),
    );
    lab.env("ANTHROPIC_API_KEY", &format!("{CANARY}-other_"));
    lab.env("GITHUB_TOKEN", &format!("{CANARY}-forge_"));
    lab.env("AWS_SECRET_ACCESS_KEY", &format!("{CANARY}-cloud_"));
    lab.env("WHATEVER", &format!("{CANARY}-random_"));
    std::fs::write(
        lab.home_dir().join(".netrc"),
        format!("machine example.org login u password {CANARY}-netrc_\n"),
    )
    .unwrap();
    lab.write("factory.yaml", &Lab::claude_config(&model, GREETED));
    lab.write("base.txt", &format!("{MARKER}-base_\n"));
    lab.commit("Begin");
    lab.approved("Greet people", &format!("{MARKER}-issue_"));
    let start = lab.start(&["--until-idle"], &[("RUST_LOG", "debug")]);
    model.reached("looked at");

    let container = lab.container();
    // What an agent could bring in from outside would be found.
    let planted = format!("PLANTED={MARKER}-planted_");
    docker(&[
        "exec", "--detach", "--env", &planted, &container, "sleep", "600",
    ]);
    let mut agents = Held::default();
    let (seen, denied) = in_container(&container);
    for held in seen {
        agents.environment.extend(held.environment);
        agents.arguments.extend(held.arguments);
        agents.files.extend(held.files);
        agents.memory.extend(held.memory);
    }
    if denied.is_empty() {
        assert_clean(&agents.all(), "processes of the container");
        assert!(agents.environment.contains(&format!("{MARKER}-planted_")));
        assert!(agents.memory.contains(&format!("{MARKER}-issue_")));
    } else {
        let why = denied.join("; ");
        println!("skipped: what processes of the container hold, which root can see: {why}");
        assert!(!agents.all().iter().any(|it| it.contains(CANARY)));
    }
    let mut files = Command::new("docker");
    files.args(["exec", &container, "sh", "-c"]).arg(
        "tar --create --ignore-failed-read --warning=none --file=- \
         /run/factory /state /tmp /factory /workspace 2>/dev/null; true",
    );
    assert_clean(&search().output(&mut files), "files of the container");
    let inspected = docker(&["inspect", &container]);
    assert!(!inspected.contains(CANARY) && inspected.contains(&container));

    let all = processes(lab.repo().parent().unwrap());
    let held = |role: &str| {
        let found = all.iter().find(|process| process.is(role)).unwrap();
        let held = search().process(found.pid).held();
        println!("{role}: {held:?}");
        held
    };
    let kernel = held("kernel");
    assert_clean(&kernel.all(), "kernel");
    let gateway = held("gateway");
    for part in [&gateway.environment, &gateway.arguments, &gateway.files] {
        assert_eq!(part, &BTreeSet::new());
    }
    let mut keys = gateway.memory.clone();
    keys.retain(|it| it.starts_with(CANARY));
    assert_eq!(keys, canaries(&["command", "model", "other"]));
    let launcher = held("start");
    assert_eq!(launcher.arguments, BTreeSet::new());
    // What stood in the file was wiped there: only the gateway reads it for its life.
    assert!(launcher.memory.is_superset(&canaries(&["other"])));
    assert!(launcher.memory.is_disjoint(&canaries(&["model"])));

    let image = docker(&["inspect", "--format", "{{.Image}}", &container]);
    model.release("looked at");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert!(!ended.text().contains(CANARY), "{}", ended.text());
    assert!(ended.text().contains("a door is open"), "{}", ended.text());
    // The provider did get its key, and only that one.
    for request in model.requests() {
        let key = request.headers.get("x-api-key").unwrap();
        assert_eq!(key, format!("{CANARY}-model_").as_str());
    }
    assert_clean(&search().files(lab.repo()), "the repository's folder");
    for repository in ["state.git", "base.git", "door.git"] {
        assert_clean(&objects(&lab, repository, &search()), repository);
    }
    for args in [["pr", "show", "1"], ["run", "logs", "r1-1"]] {
        assert!(!lab.ok(&args).contains(CANARY));
    }
    assert!(!lab.ok(&["log"]).contains(CANARY));
    image_holds_no_canary(image.trim());
    lab.assert_at_rest();
}

fn image_holds_no_canary(image: &str) {
    let told = docker(&["history", "--no-trunc", image]) + &docker(&["inspect", image]);
    assert!(!told.contains(CANARY), "{told}");
    // A line that every image of ours has in a file shows that layers are read as they are.
    let search = Search::of(&[CANARY, "daemon:x:1:1:"]);
    let found = search.output(Command::new("docker").args(["save", image]));
    assert_eq!(found, BTreeSet::from(["daemon:x:1:1:".to_owned()]));
}

/// Whoever looks for canaries finds one in each place where a process may hold it.
#[test]
fn a_canary_is_found_wherever_a_process_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("open");
    std::fs::write(&file, format!("{CANARY}-file_")).unwrap();
    let script = r#"exec 3<"$0"; held="$(printf '%s-%s_' "$1" memory)"; unset IN_ENVIRONMENT; echo ready; read -r line"#;
    let mut child = Command::new("bash")
        .args(["-c", script])
        .arg(&file)
        .args([CANARY, &format!("{CANARY}-argument_")])
        .env("IN_ENVIRONMENT", format!("{CANARY}-environment_"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let held = Search::of(&[CANARY]).process(child.id()).held();
    drop(child.stdin.take());
    child.wait().unwrap();
    let of = |names: &[&str]| canaries(names);
    assert_eq!(held.environment, of(&["environment"]));
    assert!(held.arguments.is_superset(&of(&["argument"])));
    assert_eq!(held.files, of(&["file"]));
    assert!(held.memory.is_superset(&of(&["memory"])), "{held:?}");
}

/// As an ordinary user, who may not look into a process is told so with its name.
#[test]
fn a_process_that_nobody_may_look_into_is_named() {
    if rustix::process::getuid().is_root() {
        println!("skipped: a_process_that_nobody_may_look_into_is_named: root may look everywhere");
        return;
    }
    let name = std::fs::read_to_string("/proc/1/comm").unwrap();
    match Search::of(&[CANARY]).process(1) {
        Looked::Denied(why) => assert!(why.contains(name.trim()), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// The provider takes one key, then only another: from the file, from a command, from the file again.
#[test]
fn a_key_that_changes_is_taken_up_without_a_restart() {
    const STEPS: &str = r#"
conversations:
  - name: greet
    steps:
      - wait: first
        tool: Bash
        input: {command: "echo hello >greeting.txt; git add greeting.txt; git commit -qm Hello", description: work}
      - {status: 401, times: 1}
      - wait: second
        tool: Bash
        input: {command: "git push -q", description: push}
      - text: Done.
"#;
    let model = Model::yaml(STEPS);
    let lab = Lab::new();
    write_keys(&lab, "TEST_API_KEY=the-first-key-of-three\n");
    lab.write("factory.yaml", &Lab::claude_config(&model, GREETED));
    lab.commit("Begin");
    lab.approved("Greet people", "");
    let start = lab.start(&["--until-idle"], &[]);
    model.reached("first");
    let gateway = start.process("gateway");
    write_keys(&lab, "FACTORY_KEY_COMMAND='echo the-second-key-of-three'\n");
    model.release("first");
    model.reached("second");
    write_keys(&lab, "TEST_API_KEY=the-third-key-of-three\n");
    assert_eq!(start.process("gateway"), gateway, "it is the same one");
    model.release("second");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    let asked: Vec<_> = model
        .requests()
        .iter()
        .filter(|request| !matches!(request.outcome, Outcome::SideRequest { .. }))
        .map(|request| {
            let key = request.headers["x-api-key"].to_str().unwrap().to_owned();
            (key, matches!(request.outcome, Outcome::Fault { .. }))
        })
        .collect();
    let said = [
        ("the-first-key-of-three", false),
        ("the-first-key-of-three", true),
        ("the-second-key-of-three", false),
        ("the-third-key-of-three", false),
    ];
    assert_eq!(asked, said.map(|(key, refused)| (key.to_owned(), refused)));
    let run = lab.ok(&["run", "show", "r1-1"]);
    assert!(
        run.contains("usage      3 model calls"),
        "each is counted once: {run}"
    );
    lab.assert_at_rest();
}

/// A command that fails only once agents work: a person is told, and what it said stays in the log.
#[test]
fn a_command_that_gives_no_key_any_more_is_a_persons_affair() {
    let model = Model::yaml("conversations: [{name: no, steps: [{text: never}]}]");
    let mut lab = Lab::new();
    lab.env("OTHER_API_KEY", &format!("{CANARY}-other_"));
    write_keys(
        &lab,
        &format!(
            "FACTORY_KEY_COMMAND='test -e \"$HOME/asked\" && {{ echo no-sesame {CANARY}-other_ >&2; exit 7; }}; \
             touch \"$HOME/asked\"; echo some-made-up-key'\n"
        ),
    );
    lab.write("factory.yaml", &Lab::claude_config(&model, GREETED));
    lab.commit("Begin");
    lab.approved("Greet people", "");
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    assert!(
        ended.text().contains("no-sesame [key redacted]") && !ended.text().contains(CANARY),
        "{}",
        ended.text()
    );
    let said = crate::comments(&lab);
    assert!(
        said.contains("TEST_API_KEY") && said.contains("keys.env"),
        "{said}"
    );
    let logs = lab.ok(&["run", "logs", "r1-1"]);
    assert!(logs.contains("exit status: 7"), "{logs}");
    let search = Search::of(&["no-sesame", "greeting"]);
    for repository in ["state.git", "door.git"] {
        let found = objects(&lab, repository, &search);
        assert_eq!(
            found,
            BTreeSet::from(["greeting".to_owned()]),
            "{repository}"
        );
    }
    assert!(model.requests().is_empty());
    lab.assert_at_rest();
}

#[test]
fn from_inside_there_is_one_door_only() {
    let lab = Lab::new();
    let agent = r#"cat >/dev/null
try() { echo "$1: $( ( eval "$2" ) >/dev/null 2>&1 && echo YES || echo no )"; }
{
  echo "interfaces: $(ls /sys/class/net | tr '\n' ' ')"
  echo "routes: $(tail -n +2 /proc/net/route | wc -l)"
  echo "user: $(id -u)"
  grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\t'
  try 'connect out' 'exec 3<>/dev/tcp/192.0.2.1/443'
  try 'resolve' 'getent hosts example.org'
  try 'write to the image' 'touch /usr/here /here'
  try 'write to the run files' 'touch /run/factory/here'
  try 'remove the door' 'rm /run/factory/gw.sock'
  try 'write to base.git' 'touch /factory/base.git/here'
  try 'an engine socket' 'ls /var/run/docker.sock /run/docker.sock'
  try 'become root' 'su -c true'
  echo "sockets: $(find / -xdev -type s 2>/dev/null | tr '\n' ' ')$(find /run/factory -type s | tr '\n' ' ')"
} >look.txt
env | sort >env.txt
echo hello >greeting.txt
git add --all; git commit -qm Look; git push -q
"#;
    lab.scripted(&agent.replace("try() {", "try() {\n"), GREETED);
    // /dev/tcp is bash's.
    lab.write(
        "factory.yaml",
        &format!("engine: {{command: [\"bash\", \"./agent.sh\"]}}\n{GREETED}"),
    );
    lab.commit("With bash");
    lab.approved("Look around", "");
    lab.until_idle_ok();
    let seen = on_branch(&lab, "look.txt");
    println!("{seen}\n{}", on_branch(&lab, "env.txt"));
    assert!(seen.contains("interfaces: lo \n"), "{seen}");
    assert!(seen.contains("routes: 0\n"), "{seen}");
    assert!(seen.contains("CapEff:0000000000000000\n"), "{seen}");
    assert!(seen.contains("CapBnd:0000000000000000\n"), "{seen}");
    assert!(
        seen.contains("NoNewPrivs:1\n") && seen.contains("Seccomp:2"),
        "{seen}"
    );
    assert!(!seen.contains("user: 0\n"), "{seen}");
    assert!(
        !seen.contains("YES") && seen.matches(": no\n").count() == 8,
        "{seen}"
    );
    assert!(seen.contains("sockets: /run/factory/gw.sock"), "{seen}");
    lab.assert_at_rest();
}

#[test]
fn a_key_that_is_not_accepted_is_named_at_once() {
    let model = Model::yaml(
        "conversations: [{name: no, steps: [{status: 401, times: always}, {text: never}]}]",
    );
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", "some-made-up-key");
    lab.write("factory.yaml", &Lab::claude_config(&model, GREETED));
    lab.commit("Begin");
    lab.approved("Greet people", "");
    let ended = lab.until_idle();
    assert_eq!(ended.code, 10, "{}", ended.text());
    let said = crate::comments(&lab);
    assert!(
        said.contains("401") && said.contains("TEST_API_KEY"),
        "{said}"
    );
    // Claude Code by itself would ask for three minutes.
    assert!(model.requests().len() <= 3, "{:?}", model.requests().len());
    assert_eq!(lab.state().issues.values().next().unwrap().runs, 1);
    lab.assert_at_rest();
}
