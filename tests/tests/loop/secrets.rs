//! An agent holds no secret and has one door.

use crate::{GREETED, on_branch};
use factory_tests::{Lab, Model, docker, processes};
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// In the environment of `factory start` and in the user's home; nowhere else, ever.
const CANARY: &str = "canary-5e1f77ab0c";

const ONE: &str = r#"
conversations:
  - name: greet
    steps:
      - wait: looked at
        tool: Bash
        input: {command: "env >/tmp/env; echo hello >greeting.txt; git add greeting.txt; git commit -qm Hello; git push -q", description: work}
      - text: Done.
"#;

/// Files below `dir` whose bytes hold the canary.
fn holding(dir: &Path) -> Vec<String> {
    let output = Command::new("grep")
        .args(["-r", "-a", "-l", "-F", "-D", "skip", CANARY])
        .arg(dir)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// All objects of a repository, whole.
fn objects(lab: &Lab, repository: &str) -> String {
    let args = ["cat-file", "--batch", "--batch-all-objects", "--unordered"];
    let bytes = lab.look(&lab.below(repository), &args, "").unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn no_key_is_anywhere_but_in_launcher_and_gateway() {
    let model = Model::yaml(ONE);
    let mut lab = Lab::new();
    lab.env("TEST_API_KEY", &format!("{CANARY}-model"));
    lab.env("ANTHROPIC_API_KEY", &format!("{CANARY}-other"));
    lab.env("GITHUB_TOKEN", &format!("{CANARY}-forge"));
    lab.env("AWS_SECRET_ACCESS_KEY", &format!("{CANARY}-cloud"));
    std::fs::write(
        lab.home_dir().join(".netrc"),
        format!("machine example.org login u password {CANARY}-netrc\n"),
    )
    .unwrap();
    lab.write("factory.yaml", &Lab::claude_config(&model, GREETED));
    lab.commit("Begin");
    lab.approved("Greet people", "");
    let start = lab.start(&["--until-idle"], &[("RUST_LOG", "debug")]);
    model.reached("looked at");

    let containers = lab.on_engine().containers;
    assert_eq!(containers.len(), 1, "{containers:?}");
    let inspected = docker(&["inspect", &containers[0]]);
    assert!(!inspected.contains(CANARY), "{inspected}");
    let inside = docker(&[
        "exec",
        &containers[0],
        "sh",
        "-c",
        "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; grep -r -a . /run/factory /state /tmp /factory 2>/dev/null",
    ]);
    assert!(
        inside.contains("ANTHROPIC_BASE_URL"),
        "the engine's environment was looked at"
    );
    assert!(!inside.contains(CANARY));
    let mut environments = 0;
    for process in processes(lab.repo()) {
        let holds = |file: &str| {
            let path = format!("/proc/{}/{file}", process.pid);
            String::from_utf8_lossy(&std::fs::read(path).unwrap()).contains(CANARY)
        };
        assert!(!holds("cmdline"), "{process:?}");
        if process.is("kernel") || process.is("gateway") {
            assert!(!holds("environ"), "{process:?}");
            environments += 1;
        }
    }
    assert_eq!(environments, 2);
    let image = docker(&["inspect", "--format", "{{.Image}}", &containers[0]]);
    model.release("looked at");
    let ended = start.ended();
    assert_eq!(ended.code, 0, "{}", ended.text());
    assert!(!ended.text().contains(CANARY), "{}", ended.text());
    // The provider did get its key, and only that one.
    for request in model.requests() {
        let key = request.headers.get("x-api-key").unwrap();
        assert_eq!(key, format!("{CANARY}-model").as_str());
    }
    assert_eq!(holding(lab.repo()), [""; 0]);
    for repository in ["state.git", "base.git", "door.git"] {
        assert!(!objects(&lab, repository).contains(CANARY), "{repository}");
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
    let mut saved = Command::new("docker")
        .args(["save", image])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let searched = Command::new("grep")
        .args(["-a", "-c", "-F", CANARY])
        .stdin(saved.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(saved.wait().unwrap().success());
    assert_eq!(String::from_utf8_lossy(&searched.stdout).trim(), "0");
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
