//! Images that lack the program which is to do the work.

use super::assert_line;
use crate::{
    OWN_COMMAND, has_agent, has_docker,
    lab::{Ended, KEY, Lab},
    network,
};
use std::path::Path;

/// The tag that a report names in its line on the image.
fn tag_of(ended: &Ended) -> String {
    let mut lines = ended.out.lines();
    let line = lines.find_map(|line| line.split_once(" image         "));
    let (_, detail) = line.unwrap_or_else(|| panic!("no image in {ended:?}"));
    detail.split(' ').next().unwrap().to_owned()
}

fn docker(lab: &Lab, dir: &Path, args: &[&str]) {
    let mut command = lab.command("docker", dir);
    command.args(args);
    let ended = lab.run(command);
    assert_eq!(ended.code, 0, "docker {args:?}: {ended:?}");
}

#[test]
fn images_without_their_engine() {
    let test = "images_without_their_engine";
    if !has_docker(test) || !has_agent(test) {
        return;
    }
    let lab = Lab::new();
    let dir = lab.repo("plain", &[("factory.yaml", OWN_COMMAND)]);
    let built = lab.factory(&dir, &["image", "build"], &network());
    assert_eq!(built.code, 0, "{built:?}");
    let ended = lab.factory(&dir, &["doctor"], &[]);
    assert_line(&ended, "ok", "engine", "your command: true", "");
    let plain = tag_of(&ended);

    let absent = OWN_COMMAND.replace("\"true\"]}", "\"no-such-engine\"]}");
    let dir = lab.repo("command", &[("factory.yaml", &absent)]);
    let ended = lab.factory(&dir, &["doctor"], &[]);
    assert_line(
        &ended,
        "missing",
        "engine",
        "has no program `no-such-engine`",
        "image.packages",
    );
    assert_eq!(ended.code, 7, "{ended:?}");

    for (engine, key) in [
        ("claude", KEY.0),
        ("codex", "OPENAI_API_KEY"),
        ("mini", "OPENAI_API_KEY"),
    ] {
        // A base of its own gives it a tag that nobody else has; what bears that tag is
        // an image without an engine.
        let base = format!("factory-test-{}:{engine}", std::process::id());
        docker(&lab, &dir, &["tag", &plain, &base]);
        let yaml = format!("engine: {engine}\nimage: {{base: \"{base}\"}}\n");
        let dir = lab.repo(engine, &[("factory.yaml", &yaml)]);
        let env = [(key, KEY.1)];
        let wanted = tag_of(&lab.factory(&dir, &["doctor"], &env));
        docker(&lab, &dir, &["tag", &plain, &wanted]);
        let ended = lab.factory(&dir, &["doctor"], &env);
        docker(&lab, &dir, &["rmi", &wanted, &base]);
        let program = format!("has no program `{engine}`");
        let mend = format!("docker rmi --force {wanted} && factory image build");
        assert_line(&ended, "missing", "engine", &program, &mend);
        assert_eq!(ended.code, 7, "{ended:?}");
    }
    lab.nothing_half_made(&dir.join(".git"));
}
