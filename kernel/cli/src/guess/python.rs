//! Python: pytest where something names it, else unittest where there are tests.

use super::{
    Candidate,
    text::{Tree, is_python_test, line_of, some_of, toml, version},
};
use std::collections::BTreeSet;
use toml::{Table, Value};

/// What Debian 12 has.
const DEBIAN_PYTHON: (u32, u32) = (3, 11);
const PROJECT: &str = "pyproject.toml";

/// `pytest` or `unittest`, for a project at the top.
pub fn guess(tree: &Tree) -> Result<Option<Candidate>, String> {
    let tests: Vec<&str> = tree.paths().filter(|path| is_python_test(path)).collect();
    let Some(first) = tests.first() else {
        return Ok(None);
    };
    let broken = |why: &String| format!("{why}; its tests were guessed without it");
    let project = match tree
        .text(PROJECT)
        .map(|text| toml(PROJECT, text))
        .transpose()
    {
        Ok(project) => project.unwrap_or_default(),
        Err(why) => return Err(broken(&why)),
    };
    let path = match has_package_below_src(tree) && !sets_path(tree) {
        true => "PYTHONPATH=src ",
        false => "",
    };
    let mut found = match pytest_named(tree) {
        Some(because) => Candidate::new(
            format!("{path}python3 -m pytest"),
            because,
            &["python3", "python3-pytest"],
        ),
        None => {
            let because = format!("{first}: tests, and nothing names pytest");
            let discover = discover(tree, &tests);
            Candidate::new(format!("{path}{discover}"), because, &["python3"])
        }
    };
    let mut fetched = dependencies(tree, &project);
    fetched.retain(|name| name != "pytest");
    if !fetched.is_empty() {
        found.lacks.push(format!(
            "packages cannot be fetched without a network ({}): add Debian's to image.packages (most are called \
             python3-<name>), or name an image.base that holds them",
            some_of(&fetched)
        ));
    }
    let needs = project
        .get("project")
        .and_then(|table| table.get("requires-python")?.as_str());
    if let Some(needs) = needs
        .and_then(version)
        .filter(|needs| *needs > DEBIAN_PYTHON)
    {
        found.lacks.push(format!(
            "requires-python in {PROJECT} is {}.{}, Debian 12 has {}.{}: name an image.base with a newer one",
            needs.0, needs.1, DEBIAN_PYTHON.0, DEBIAN_PYTHON.1
        ));
    }
    Ok(Some(found))
}

/// Where pytest is named, and how.
fn pytest_named(tree: &Tree) -> Option<String> {
    let settings = [
        ("pytest.ini", "[pytest]"),
        (PROJECT, "[tool.pytest"),
        ("setup.cfg", "[tool:pytest]"),
    ];
    for (file, part) in settings {
        if let Some(text) = tree.text(file).filter(|text| text.contains(part)) {
            return Some(format!(
                "{file}:{}: settings of pytest",
                line_of(text, part)
            ));
        }
    }
    if let Some(conftest) = tree.paths().find(|path| path.ends_with("conftest.py")) {
        return Some(format!("{conftest}: a file of pytest's"));
    }
    let lists = [PROJECT, "setup.cfg", "setup.py"].into_iter();
    let lists = lists.filter_map(|file| Some((file, tree.text(file)?)));
    let requirements = tree.texts("").filter(|(file, _)| file.ends_with(".txt"));
    for (file, text) in lists.chain(requirements) {
        if text.contains("pytest") {
            let line = line_of(text, "pytest");
            return Some(format!("{file}:{line}: pytest is a dependency"));
        }
    }
    let tests = tree.texts("").filter(|(path, _)| is_python_test(path));
    for (file, text) in tests {
        let of_pytest =
            |line: &str| line.starts_with("import pytest") || line.starts_with("def test_");
        if let Some(at) = text.lines().position(of_pytest) {
            return Some(format!("{file}:{}: a test of pytest's kind", at + 1));
        }
    }
    None
}

/// Unittest looks into packages only, so a plain folder has to be named.
fn discover(tree: &Tree, tests: &[&str]) -> String {
    let dirs: BTreeSet<&str> = tests
        .iter()
        .filter_map(|path| Some(path.split_once('/')?.0))
        .collect();
    let is_package = |dir: &&&str| tree.has(&format!("{dir}/__init__.py"));
    match dirs.iter().find(|dir| !is_package(dir)) {
        Some(dir)
            if tests
                .iter()
                .all(|path| path.starts_with(&format!("{dir}/"))) =>
        {
            format!("python3 -m unittest discover -s {dir}")
        }
        _ => "python3 -m unittest discover".to_owned(),
    }
}

fn has_package_below_src(tree: &Tree) -> bool {
    tree.below("src/")
        .any(|path| path.ends_with("/__init__.py"))
}

fn sets_path(tree: &Tree) -> bool {
    [PROJECT, "pytest.ini", "setup.cfg"]
        .into_iter()
        .any(|file| {
            tree.text(file)
                .is_some_and(|text| text.contains("pythonpath"))
        })
}

/// Names of packages that the project needs to run, as far as files say so.
fn dependencies(tree: &Tree, project: &Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let listed = project
        .get("project")
        .and_then(|table| table.get("dependencies")?.as_array());
    found.extend(
        listed
            .into_iter()
            .flatten()
            .filter_map(|entry| name(entry.as_str()?)),
    );
    let tool = project
        .get("tool")
        .and_then(|tool| tool.get("poetry")?.get("dependencies"));
    let poetry = tool.and_then(Value::as_table);
    found.extend(poetry.into_iter().flatten().map(|(name, _)| name.clone()));
    found.remove("python");
    if let Some(text) = tree.text("requirements.txt") {
        found.extend(text.lines().filter_map(name));
    }
    let options = tree.text("setup.cfg").unwrap_or_default();
    let required = options
        .lines()
        .skip_while(|line| !line.starts_with("install_requires"))
        .skip(1);
    found.extend(
        required
            .take_while(|line| line.starts_with([' ', '\t']))
            .filter_map(name),
    );
    found
}

/// The name in a requirement such as `attrs>=21; python_version < "3"`.
fn name(requirement: &str) -> Option<String> {
    let text = requirement.split('#').next().unwrap_or_default().trim();
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
    let name = &text[..end.unwrap_or(text.len())];
    let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    is_name.then(|| name.to_ascii_lowercase())
}
