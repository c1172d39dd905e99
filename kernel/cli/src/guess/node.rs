//! Node: the package's own test script.

use super::{
    Candidate,
    text::{Tree, line_of, some_of, version},
};
use serde_json::Value;
use std::collections::BTreeSet;

/// What Debian 12 has.
const DEBIAN_NODE: (u32, u32) = (18, 20);
const FILE: &str = "package.json";

/// `npm test`, or what it would run where that needs no npm.
pub fn guess(tree: &Tree) -> Result<Option<Candidate>, String> {
    let Some(text) = tree.text(FILE) else {
        return Ok(None);
    };
    let package: Value = serde_json::from_str(text)
        .map_err(|error| format!("{FILE}:{}: no JSON that can be read", error.line()))?;
    let Some(script) = package["scripts"]["test"].as_str() else {
        return Ok(None);
    };
    // What `npm init` writes.
    if script.contains("no test specified") || script.trim().is_empty() {
        return Ok(None);
    }
    let fetched: BTreeSet<String> = ["dependencies", "devDependencies"]
        .into_iter()
        .filter_map(|key| package[key].as_object())
        .flat_map(|list| list.keys().cloned())
        .collect();
    let is_plain = script.starts_with("node ")
        && !script.contains(['&', '|', ';', '$'])
        && !package["scripts"]["pretest"].is_string();
    let (command, packages): (&str, &[&str]) = match is_plain {
        true => (script, &["nodejs"]),
        false => ("npm test", &["nodejs", "npm"]),
    };
    let line = line_of(text, "\"test\"");
    let because = format!("{FILE}:{line}: its test script is `{script}`");
    let mut found = Candidate::new(command, because, packages);
    let is_here = tree.below("node_modules/").next().is_some();
    if !fetched.is_empty() && !is_here {
        found.lacks.push(format!(
            "node_modules is not in the repository and cannot be fetched without a network ({}): commit it, or name \
             an image.base that holds it and put its path into the check (NODE_PATH, or a link)",
            some_of(&fetched)
        ));
    }
    let engine = package["engines"]["node"].as_str().and_then(version);
    if let Some(needs) = engine.filter(|needs| *needs > DEBIAN_NODE) {
        found.lacks.push(format!(
            "{FILE} wants Node {}, Debian 12 has {}: name an image.base with a newer one, such as node:slim, and \
             take nodejs and npm out of image.packages",
            needs.0, DEBIAN_NODE.0
        ));
    }
    Ok(Some(found))
}
