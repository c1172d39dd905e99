//! Rules for the source tree that no compiler holds.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at what it did not expect, its helpers too"
)]

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Every tracked file that is text, by its path.
fn tracked() -> BTreeMap<String, String> {
    let names = run("git", &["ls-files", "-z"]);
    let text = |name: &str| std::fs::read_to_string(root().join(name)).ok();
    names
        .split_terminator('\0')
        .filter_map(|name| Some((name.to_owned(), text(name)?)))
        .collect()
}

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let text = run(&cargo, &["metadata", "--format-version=1", "--locked"]);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn files_are_short() {
    let long: Vec<_> = tracked()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"))
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > 600)
        .collect();
    assert!(long.is_empty(), "over 600 lines, split them: {long:?}");
}

#[test]
fn core_does_no_io() {
    let forbidden = [
        "tokio",
        "std::fs",
        "std::net",
        "std::process",
        "std::env",
        "std::thread",
        "SystemTime",
        "Instant::now",
        "rand::",
    ];
    let mut found = Vec::new();
    for (name, text) in tracked() {
        if !name.starts_with("kernel/core/src/") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            for word in forbidden {
                if code.contains(word) {
                    found.push(format!("{name}:{}: {word}", number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "core is pure: {found:#?}");
}

#[test]
fn people_are_written_to_in_one_place() {
    let mut found = Vec::new();
    for (name, text) in tracked() {
        let ours = [
            "kernel/cli/src/",
            "kernel/gateway/src/",
            "kernel/runtime/src/",
        ];
        if !ours.iter().any(|folder| name.starts_with(folder))
            || name == "kernel/cli/src/views/out.rs"
        {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            let writes = ["print!", "println!", "dbg!", "io::stdout", "io::stderr"];
            if writes.iter().any(|word| code.contains(word)) {
                found.push(format!("{name}:{}: {}", number + 1, code.trim()));
            }
        }
    }
    assert!(
        found.is_empty(),
        "nothing foreign may reach a terminal as it is: go through views: {found:#?}"
    );
}

/// Names of the crates that `package` needs to be built for use, at any depth.
fn needs(metadata: &Value, package: &str) -> BTreeSet<String> {
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), node))
        .collect();
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["id"].as_str().unwrap(), p["name"].as_str().unwrap()))
        .collect();
    let start = names.iter().find(|(_, name)| **name == package).unwrap().0;
    let mut open = vec![*start];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            let id = dependency["pkg"].as_str().unwrap();
            if kinds.iter().any(|k| k["kind"].is_null()) && seen.insert(names[id].to_owned()) {
                open.push(id);
            }
        }
    }
    seen
}

#[test]
fn dependencies_point_towards_core() {
    let metadata = metadata();
    // What each crate of ours may use of the others.
    let allowed: [(&str, &[&str]); 5] = [
        ("factory-core", &[]),
        ("factory-ledger", &["factory-core"]),
        ("factory-runtime", &["factory-core"]),
        ("factory-gateway", &["factory-core", "factory-ledger"]),
        ("factory-agent", &["factory-core"]),
    ];
    for (package, allowed) in allowed {
        let ours: BTreeSet<String> = needs(&metadata, package)
            .into_iter()
            .filter(|name| name == "factory" || name.starts_with("factory-"))
            .collect();
        let allowed: BTreeSet<String> = allowed.iter().map(|&name| name.to_owned()).collect();
        assert!(ours.is_subset(&allowed), "{package} uses {ours:?}");
    }
    let io = [
        "tokio",
        "hyper",
        "reqwest",
        "bollard",
        "git2",
        "rustix",
        "mio",
        "socket2",
        "getrandom",
        "tempfile",
    ];
    let core = needs(&metadata, "factory-core");
    let used: Vec<_> = io.iter().filter(|name| core.contains(**name)).collect();
    assert!(used.is_empty(), "factory-core depends on {used:?}");
}

#[test]
fn licences_of_dependencies_are_known_good() {
    let allowed = [
        "MIT",
        "MIT-0",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-1-Clause",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CDLA-Permissive-2.0",
        "ISC",
        "Unicode-3.0",
        "Unlicense",
        "Zlib",
        "0BSD",
    ];
    let metadata = metadata();
    let mut bad = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        if package["source"].is_null() {
            continue;
        }
        let licence = package["license"].as_str().unwrap_or_default();
        // All of `A AND B`, one of `A OR B`; the old `A/B` means OR.
        let fine = licence.replace('/', " OR ").split(" AND ").all(|all| {
            all.trim_matches(['(', ')'])
                .split(" OR ")
                .any(|one| allowed.contains(&one.trim_matches(['(', ')', ' '])))
        });
        if !fine {
            bad.push(format!("{}: {licence:?}", package["name"]));
        }
    }
    assert!(bad.is_empty(), "look at these licences: {bad:#?}");
}

#[test]
fn nothing_of_a_machine_or_left_undone_is_in_the_tree() {
    // Written in pieces, so that this file does not hold them.
    let forbidden = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/ho", "me/"],
        ["TO", "DO"],
        ["FIX", "ME"],
        ["to", "do!("],
        ["unimple", "mented!("],
        ["crates", ".io/api"],
        ["pypi", ".org"],
        ["regis", "try-1."],
    ];
    let mut found = Vec::new();
    for (name, text) in tracked() {
        if name == "Cargo.lock" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            // The work tree's place in a container.
            let line = line.replace("/workspace", "");
            for word in forbidden.map(|pieces| pieces.concat()) {
                if line.contains(&word) {
                    found.push(format!("{name}:{}: {word}", number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// The Markdown files of the tree, by their path.
fn pages() -> impl Iterator<Item = (String, String)> {
    tracked()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".md"))
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut bad = Vec::new();
    let mut seen = 0;
    for (name, text) in pages() {
        let folder = root().join(&name).parent().unwrap().to_owned();
        for rest in text.split("](").skip(1) {
            let link = rest.split(')').next().unwrap();
            let file = link.split('#').next().unwrap();
            if link.contains("://") || file.is_empty() {
                continue;
            }
            seen += 1;
            if !folder.join(file).exists() {
                bad.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(seen > 5, "links are found");
}

#[test]
fn configurations_in_documents_are_valid() {
    let mut seen = 0;
    for (name, text) in pages() {
        for block in text.split("\n```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            if let Err(error) = factory_core::config::Config::parse(block) {
                panic!("{name}: {error:?} in\n{block}");
            }
            seen += 1;
        }
    }
    assert!(seen > 1, "configurations are found");
}
