//! Make: targets that a project gave the usual names.

use super::{Candidate, text::Tree};
use std::collections::BTreeSet;

/// A longer value is no program's name, and a longer line is not expanded further.
const MOST_BYTES: usize = 1000;
/// Variables that are looked at.
const MOST_VARIABLES: usize = 200;
const TARGETS: [&str; 2] = ["test", "check"];
/// Words of a recipe, and the package that has the program.
const TOOLS: [(&str, &str); 13] = [
    ("cargo", "cargo"),
    ("go", "golang-go"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("npx", "npm"),
    ("python3", "python3"),
    ("python", "python-is-python3"),
    ("pytest", "python3-pytest"),
    ("perl", "perl"),
    ("gcc", "build-essential"),
    ("cc", "build-essential"),
    ("$(CC)", "build-essential"),
    ("shellcheck", "shellcheck"),
];
/// What in a recipe needs a network, or an engine that no container has.
const OUTSIDE: [&str; 9] = [
    "apt-get",
    "pip install",
    "pip3 install",
    "npm install",
    "npm ci",
    "go get",
    "curl ",
    "docker",
    "wget ",
];

/// `make test`, `make check`. What a recipe calls has the same needs as it has elsewhere.
pub fn guess(tree: &Tree, languages: &[Candidate]) -> Vec<Candidate> {
    // The order in which GNU make looks for them.
    let names = ["GNUmakefile", "makefile", "Makefile"];
    let Some((file, text)) = names
        .into_iter()
        .find_map(|name| Some((name, tree.text(name)?)))
    else {
        return Vec::new();
    };
    let rules = rules(text);
    let variables = variables(text);
    TARGETS
        .into_iter()
        .filter_map(|target| candidate(tree, languages, file, &rules, &variables, target))
        .collect()
}

/// One target with what it needs before it.
struct Rule<'a> {
    line: usize,
    target: &'a str,
    before: Vec<&'a str>,
    recipe: Vec<&'a str>,
}

fn rules(text: &str) -> Vec<Rule<'_>> {
    let mut rules: Vec<Rule> = Vec::new();
    // A line may head the recipe of several targets.
    let mut open = 0;
    for (at, line) in text.lines().enumerate() {
        if let Some(command) = line.strip_prefix('\t') {
            let from = rules.len() - open;
            for rule in &mut rules[from..] {
                rule.recipe.push(command);
            }
            continue;
        }
        let code = line.split('#').next().unwrap_or_default();
        let Some((targets, rest)) = code
            .split_once(':')
            .filter(|(_, rest)| !rest.starts_with('='))
        else {
            if !code.trim().is_empty() {
                open = 0;
            }
            continue;
        };
        let rest = rest.trim_start_matches(':');
        open = 0;
        if targets.contains('=') || rest.contains('=') {
            continue;
        }
        for target in targets.split_whitespace() {
            open += 1;
            rules.push(Rule {
                line: at + 1,
                target,
                before: rest.split_whitespace().collect(),
                recipe: Vec::new(),
            });
        }
    }
    rules
}

/// Simple variables such as `CARGO ?= cargo`.
fn variables(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with(['\t', '#']));
    let assignment = |line| {
        let (name, value): (&str, &str) = str::split_once(line, '=')?;
        let name = name.trim_end_matches(['?', ':', '+', ' ']);
        let is_name = !name.is_empty() && !name.contains([' ', ':', '$']);
        (is_name && value.len() <= MOST_BYTES).then_some((name, value.trim()))
    };
    lines.filter_map(assignment).take(MOST_VARIABLES).collect()
}

/// A recipe's line with the variables in it, one level deep.
fn expanded(line: &str, variables: &[(&str, &str)]) -> String {
    if !line.contains('$') {
        return line.to_owned();
    }
    variables
        .iter()
        .fold(line.to_owned(), |line, (name, value)| {
            // A value that grows would make the line grow with every use.
            match line.len() > MOST_BYTES {
                true => line,
                false => line
                    .replace(&format!("$({name})"), value)
                    .replace(&format!("${{{name}}}"), value),
            }
        })
}

fn candidate(
    tree: &Tree,
    languages: &[Candidate],
    file: &str,
    rules: &[Rule],
    variables: &[(&str, &str)],
    target: &str,
) -> Option<Candidate> {
    let own: Vec<&Rule> = rules.iter().filter(|rule| rule.target == target).collect();
    let line = own.first()?.line;
    let because = format!("{file}:{line}: the target `{target}`");
    let mut found = Candidate::new(format!("make {target}"), because, &["make"]);
    // What comes directly before it counts too; more would be make itself.
    let names: BTreeSet<&str> = own
        .iter()
        .flat_map(|rule| rule.before.iter().copied())
        .collect();
    let before = rules.iter().filter(|rule| names.contains(rule.target));
    let recipe: Vec<String> = own
        .iter()
        .copied()
        .chain(before)
        .flat_map(|rule| rule.recipe.iter().map(|line| expanded(line, variables)))
        .collect();
    let words = || {
        recipe
            .iter()
            .flat_map(|line| line.split([' ', '\t', ';', '&', '|', '@', '-', '=']))
    };
    for (word, package) in TOOLS {
        if words().any(|found| found == word) {
            found.packages.insert(package);
        }
    }
    let mut endings = tree
        .paths()
        .filter_map(|path| path.rsplit_once('.').map(|(_, end)| end));
    if endings.any(|end| matches!(end, "c" | "cc" | "cpp" | "cxx")) {
        found.packages.insert("build-essential");
    }
    for language in languages {
        if language
            .packages
            .iter()
            .any(|package| found.packages.contains(package))
        {
            found.lacks.extend(language.lacks.iter().cloned());
        }
    }
    if let Some(outside) = OUTSIDE
        .into_iter()
        .find(|part| recipe.iter().any(|line| line.contains(part)))
    {
        found.lacks.push(format!(
            "its recipe uses `{}`, and checks run without a network",
            outside.trim()
        ));
    }
    Some(found)
}
