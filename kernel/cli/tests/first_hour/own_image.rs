//! Images that begin with what the repository describes: a Dockerfile, a
//! `devcontainer.json`, and a base that is not of the Debian family.

use crate::{
    OWN_COMMAND, has_agent, has_docker,
    lab::{Ended, Lab, assert_bad},
    network,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Like a small distribution's: BusyBox instead of bash and coreutils, and no
/// package manager; and git, whose libraries come along. The labels come first: a
/// layer that looks like one of a factory's, or is another test's too, is removed
/// by that one in the middle of this build.
const SMALL: &str = "\
FROM @DEBIAN@ AS donor
LABEL factory.image=0 @LABEL@
RUN apt-get -q update && apt-get -q -y --no-install-recommends install busybox-static
RUN mkdir -p /out/bin /out/usr/bin /out/etc /out/tmp \\
 && cp /bin/busybox /out/bin/busybox \\
 && for name in $(/bin/busybox --list); do [ $name = busybox ] || ln -sf busybox /out/bin/$name; done \\
 && cd / && cp -a --parents usr/bin/git usr/lib/git-core out/ \\
 && for lib in $(ldd /usr/bin/git /usr/lib/git-core/git-remote-http | grep -o '/[^ ):]*'); do \\
      case $lib in /usr/bin/*|/usr/lib/git-core/*) ;; *) mkdir -p /out$(dirname $lib); cp -L $lib /out$lib;; esac; \\
    done
FROM scratch
LABEL @LABEL@
COPY --from=donor /out/ /
";

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Images with a label of their own; all that is built on them is removed with them.
struct Images {
    label: String,
    /// The usual Debian base.
    debian: String,
    /// Name of the small base.
    small: String,
}

impl Images {
    /// Builds the small base out of the usual Debian one.
    fn make(lab: &Lab) -> Self {
        let debian = lab.repo("debian", &[("factory.yaml", OWN_COMMAND)]);
        let built = lab.factory(&debian, &["image", "build"], &network());
        assert_eq!(built.code, 0, "{built:?}");
        let mut image = built.out.trim().to_owned();
        // Down to the layer that has apt.
        let base = loop {
            let tags = docker(&["inspect", "--format", "{{join .RepoTags \" \"}}", &image]);
            if let Some(tag) = tags.split(' ').find(|tag| tag.starts_with("factory-base:")) {
                break tag.to_owned();
            }
            image = docker(&["inspect", "--format", "{{.Parent}}", &image]);
        };
        let name = lab.dir.path().file_name().unwrap().to_str().unwrap();
        let id = name.trim_start_matches('.').to_owned();
        let images = Self {
            label: format!("factory-test={id}"),
            debian: base,
            small: format!("factory-test-small:{id}"),
        };
        let dir = lab.path("small");
        fs::create_dir(&dir).unwrap();
        let dockerfile = SMALL
            .replace("@DEBIAN@", &images.debian)
            .replace("@LABEL@", &images.label);
        fs::write(dir.join("Dockerfile"), dockerfile).unwrap();
        let mut build = Command::new("docker");
        build.args(["build", "--quiet", "--tag", &images.small]);
        for (name, value) in network() {
            build.args(["--build-arg", &format!("{name}={value}")]);
            if value.contains("127.0.0.1") || value.contains("localhost") {
                build.arg("--network=host");
            }
        }
        let output = build.arg(&dir).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        images
    }

    fn all(&self) -> Vec<String> {
        let filter = format!("label={}", self.label);
        let listed = docker(&["images", "--quiet", "--filter", &filter]);
        listed.lines().map(str::to_owned).collect()
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        // Children first: as long as one is left, another is removed.
        for _ in 0..10 {
            let all = self.all();
            if all.is_empty() {
                break;
            }
            let removed = Command::new("docker")
                .args(["rmi", "--force"])
                .args(&all)
                .output();
            println!("removed: {removed:?}");
        }
    }
}

fn tried(lab: &Lab, dir: &Path) -> Ended {
    lab.factory(dir, &["init", "--try"], &network())
}

fn commit(lab: &Lab, dir: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    lab.git(dir, &["add", "--all"]);
    lab.git(dir, &["commit", "--quiet", "-m", "Change"]);
}

fn built(lab: &Lab, dir: &Path) -> String {
    let ended = lab.factory(dir, &["image", "build"], &network());
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.out.trim().to_owned()
}

const IMAGE: &str = "engine: {command: [\"true\"]}\nimage: {dockerfile: docker/Dockerfile}\n";

fn config(more: &str) -> String {
    format!("{IMAGE}{more}")
}

#[test]
fn a_dockerfile_makes_a_base_that_is_no_debian() {
    let test = "a_dockerfile_makes_a_base_that_is_no_debian";
    if !has_docker(test) || !has_agent(test) {
        return;
    }
    let lab = Lab::new();
    let images = Images::make(&lab);
    let dockerfile = format!(
        "FROM {}\nCOPY --chown=0:0 data/*.txt \\\n  /data/\n",
        images.small
    );
    let checks = "checks: [\"test \\\"$(readlink /bin/ls)\\\" = busybox && ! command -v bash\", \
                  \"grep -qx one /data/marker.txt && ! test -e /data/left-out.txt\", \"git log -1 --format=%s\"]\n";
    let files = [
        ("docker/Dockerfile", dockerfile.as_str()),
        ("data/marker.txt", "one\n"),
        ("data/left-out.txt", "x"),
        (".dockerignore", "# not this one\ndata/left*\n"),
        ("factory.yaml", &config(checks)),
    ];
    let dir = lab.repo("repo", &files);
    // The commit counts, not what lies in the work tree.
    fs::write(dir.join("docker/Dockerfile"), "FROM nonsense\n").unwrap();
    fs::write(dir.join("data/marker.txt"), "changed\n").unwrap();
    let ended = tried(&lab, &dir);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.err.contains("as the repository's Dockerfile says"),
        "{ended:?}"
    );
    assert!(ended.out.contains("green: all checks passed"), "{ended:?}");
    lab.git(&dir, &["checkout", "--quiet", "."]);
    let first = built(&lab, &dir);
    let doctor = lab.factory(&dir, &["doctor"], &[]);
    assert_eq!(doctor.code, 0, "{doctor:?}");

    // What the Dockerfile does not take changes nothing; what it takes does.
    commit(&lab, &dir, &[("README", "x"), ("data/left-out.txt", "y")]);
    assert_eq!(built(&lab, &dir), first);
    commit(&lab, &dir, &[("data/marker.txt", "two\n")]);
    let doctor = lab.factory(&dir, &["doctor"], &[]);
    assert!(doctor.out.contains("is not built yet"), "{doctor:?}");
    assert_ne!(built(&lab, &dir), first);
    assert_eq!(tried(&lab, &dir).code, 12, "the check wants the old one");

    // Listed for what it is, and only what is wanted no more is removed.
    let listed = lab.factory(&dir, &["image", "list", "--json"], &[]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&listed.out).unwrap();
    let of = |need: &str| -> Vec<String> {
        let rows = rows.iter().filter(|row| row["need"] == need);
        rows.map(|row| row["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let (wanted, earlier) = (of("wanted"), of("earlier"));
    assert_eq!(
        (wanted.len(), earlier.len()),
        (3, 3),
        "own, base and agent: {}",
        listed.out
    );
    let agent = earlier
        .iter()
        .find(|tag| tag.starts_with("factory-agent:"))
        .unwrap();
    let holder = docker(&["create", "--label", &images.label, agent, "true"]);
    let pruned = lab.factory(&dir, &["image", "prune"], &[]);
    docker(&["rm", &holder]);
    assert_eq!(pruned.code, 0, "{pruned:?}");
    assert!(
        pruned
            .out
            .contains(&format!("kept     {agent}  (a container")),
        "{pruned:?}"
    );
    assert_eq!(pruned.out.matches("removed  ").count(), 2, "{pruned:?}");
    let pruned = lab.factory(&dir, &["image", "prune"], &[]);
    assert!(
        pruned.out.contains(&format!("removed  {agent}\n")),
        "{pruned:?}"
    );
    let doctor = lab.factory(&dir, &["doctor"], &[]);
    assert!(
        doctor.out.contains("ok       image         factory-agent:"),
        "{doctor:?}"
    );
    // One that somebody else took away is built again, with a word.
    docker(&[
        "rmi",
        wanted
            .iter()
            .find(|tag| tag.starts_with("factory-agent:"))
            .unwrap(),
    ]);
    let ended = lab.factory(&dir, &["image", "build"], &network());
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.err.contains("was here and is gone"), "{ended:?}");

    // Nothing can be installed there, and no engine of ours runs there.
    commit(
        &lab,
        &dir,
        &[(
            "factory.yaml",
            "engine: {command: [\"true\"]}\nimage: {dockerfile: docker/Dockerfile, packages: [jq]}\n",
        )],
    );
    let ended = lab.factory(&dir, &["image", "build"], &network());
    assert_bad(
        &ended,
        7,
        &["neither apt-get nor apk nor dnf", "no image.packages"],
        "packages",
    );
    for (engine, lacks) in [
        ("claude", "no bash, no pip"),
        ("codex", "no pip"),
        ("mini", "no python 3.10 or newer, no pip"),
    ] {
        let yaml = format!("engine: {engine}\nimage: {{dockerfile: docker/Dockerfile}}\n");
        commit(&lab, &dir, &[("factory.yaml", &yaml)]);
        let ended = lab.factory(&dir, &["image", "build"], &network());
        let lacks = format!("the base has {lacks}, and no apt-get, apk or dnf to install it");
        assert_bad(
            &ended,
            7,
            &[
                &format!("{engine} "),
                "does not run on factory-own:",
                &lacks,
                "use a base like Debian 12",
            ],
            engine,
        );
    }

    // Its distribution has a Python, but an old one: here the real one that says so.
    let old = "import sys; sys.version_info = (3, 9, 2, \"final\", 0)";
    let site = "/usr/lib/python3/dist-packages";
    let dockerfile = format!(
        "FROM {}\nLABEL factory.image=0 {}\nRUN mkdir -p {site} && echo '{old}' >{site}/old.pth\n",
        images.debian, images.label
    );
    let yaml = "engine: mini\nimage: {dockerfile: docker/Dockerfile}\n";
    commit(
        &lab,
        &dir,
        &[("factory.yaml", yaml), ("docker/Dockerfile", &dockerfile)],
    );
    let ended = lab.factory(&dir, &["image", "build"], &network());
    assert_bad(
        &ended,
        7,
        &[
            "mini 2.4.6 does not run on factory-own:",
            ": the base has no python 3.10 or newer: use a base like Debian 12",
        ],
        "an old Python",
    );

    // A Dockerfile that is not there, or fails.
    commit(
        &lab,
        &dir,
        &[(
            "factory.yaml",
            "engine: {command: [\"true\"]}\nimage: {dockerfile: absent}\n",
        )],
    );
    let ended = lab.factory(&dir, &["image", "build"], &network());
    assert_bad(
        &ended,
        4,
        &["absent (commit ", "is not there", "image.dockerfile"],
        "absent",
    );
    let failing = format!("FROM {}\nRUN echo this is why; exit 3\n", images.small);
    commit(
        &lab,
        &dir,
        &[
            ("factory.yaml", &config("")),
            ("docker/Dockerfile", &failing),
        ],
    );
    let ended = lab.factory(&dir, &["image", "build"], &network());
    assert_bad(
        &ended,
        7,
        &["building the own layer failed", "this is why"],
        "failing",
    );
}

#[test]
fn packages_come_from_the_bases_own_manager() {
    let test = "packages_come_from_the_bases_own_manager";
    if !has_docker(test) || !has_agent(test) {
        return;
    }
    let lab = Lab::new();
    let images = Images::make(&lab);
    // They only write down what they are told: there is no registry with the real ones.
    for (manager, told) in [
        (
            "apk",
            "add --no-cache bash ca-certificates coreutils git jq",
        ),
        (
            "dnf",
            "-y --setopt=install_weak_deps=False --allowerasing install bash ca-certificates coreutils git jq",
        ),
    ] {
        let script = "#!/bin/sh\\necho \"$@\" >>/told\\n";
        let dockerfile = format!(
            "FROM {}\nRUN printf '{script}' >/bin/{manager} && chmod 755 /bin/{manager}\n",
            images.small
        );
        let yaml = format!(
            "engine: {{command: [\"true\"]}}\nimage: {{dockerfile: Dockerfile, packages: [jq]}}\nchecks: [\"grep -qxe '{told}' /told\"]\n"
        );
        let dir = lab.repo(
            manager,
            &[("Dockerfile", &dockerfile), ("factory.yaml", &yaml)],
        );
        let ended = tried(&lab, &dir);
        assert_eq!(ended.code, 0, "{manager}: {ended:?}");
    }
}

fn devcontainer(lab: &Lab, name: &str, json: &str, files: &[(&str, &str)], check: &str) -> PathBuf {
    let yaml = format!("engine: {{command: [\"true\"]}}\nchecks: [\"{check}\"]\n");
    let mut all = vec![
        (".devcontainer/devcontainer.json", json),
        ("factory.yaml", yaml.as_str()),
    ];
    all.extend(files);
    lab.repo(name, &all)
}

#[test]
fn a_devcontainer_names_or_makes_the_base() {
    let test = "a_devcontainer_names_or_makes_the_base";
    if !has_docker(test) || !has_agent(test) {
        return;
    }
    let lab = Lab::new();
    let images = Images::make(&lab);
    let json = format!(
        "// For format details, see the reference\n{{\n  \"image\": \"{}\", /* ours */\n  \"features\": {{}},\n}}\n",
        images.small
    );
    let is_small = "test \\\"$(readlink /bin/ls)\\\" = busybox";
    let dir = devcontainer(&lab, "named", &json, &[], is_small);
    let ended = tried(&lab, &dir);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.err.contains("passed over: features"), "{ended:?}");

    let json = "{\"build\": {\"dockerfile\": \"Dockerfile\", \"context\": \"..\", \"args\": {\"WORD\": \"told\"}, \"target\": \"dev\"}}";
    let dockerfile = format!(
        "FROM {0} AS dev\nARG WORD\nCOPY run.sh /run.sh\nCOPY d/ /d/\nRUN echo $WORD >/word\nFROM {0}\nRUN echo too far >/word\n",
        images.small
    );
    let check = "grep -qx told /word && test -x /run.sh && /run.sh && test \\\"$(readlink /d/link)\\\" = run.sh";
    let files = [
        (".devcontainer/Dockerfile", dockerfile.as_str()),
        ("run.sh", "#!/bin/sh\nexit 0\n"),
    ];
    let dir = devcontainer(&lab, "made", json, &files, check);
    fs::create_dir(dir.join("d")).unwrap();
    std::os::unix::fs::symlink("run.sh", dir.join("d/link")).unwrap();
    lab.git(&dir, &["add", "d"]);
    lab.git(&dir, &["update-index", "--chmod=+x", "run.sh"]);
    lab.git(&dir, &["commit", "--quiet", "-m", "Modes"]);
    let ended = tried(&lab, &dir);
    assert_eq!(ended.code, 0, "{ended:?}");

    // What factory.yaml names comes first; what is broken says where.
    commit(
        &lab,
        &dir,
        &[(".devcontainer/devcontainer.json", "{\"image\": ")],
    );
    let ended = lab.factory(&dir, &["image", "build"], &network());
    assert_bad(
        &ended,
        4,
        &[
            ".devcontainer/devcontainer.json (commit ",
            "write image.base",
        ],
        "broken",
    );
    let yaml = format!(
        "engine: {{command: [\"true\"]}}\nimage: {{base: \"{}\"}}\n",
        images.small
    );
    commit(&lab, &dir, &[("factory.yaml", &yaml)]);
    built(&lab, &dir);
}
