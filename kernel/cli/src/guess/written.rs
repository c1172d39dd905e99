//! Guesses as they are written into `factory.yaml`, and as they are told.

use super::{Candidate, Guesses};
use factory_core::config;

/// The lines of the template that guesses take the place of.
const CHECKS_LINE: &str = "#checks: []\n";
const IMAGE_LINE: &str = "#image: {packages: []}\n";
/// Longer reasons are cut: they come from the repository.
const MOST_CHARS: usize = 400;

/// The template with what was guessed, each with its reason as a comment.
pub fn fill(template: &str, guesses: &Guesses) -> String {
    let mut checks = String::new();
    match &guesses.check {
        None => checks.push_str(CHECKS_LINE),
        Some(check) => {
            checks.push_str(
                "# Guessed from the repository's files; `factory init --try` runs it once.\n",
            );
            checks.push_str(&format!(
                "checks:\n  - {} # {}\n",
                quoted(&check.command),
                plain(&check.because)
            ));
            for lack in &check.lacks {
                checks.push_str(&format!("# It will not work as it is: {}\n", plain(lack)));
            }
        }
    }
    if !guesses.others.is_empty() {
        checks.push_str("# Also found:\n");
    }
    for other in &guesses.others {
        checks.push_str(&format!(
            "#  - {} # {}\n",
            quoted(&other.command),
            plain(&other.because)
        ));
    }
    let text = template.replace(CHECKS_LINE, &checks);
    match packages(guesses) {
        packages if packages.is_empty() => text,
        packages => text.replace(
            IMAGE_LINE,
            &format!(
                "# The packages are for the check that was guessed.\n\
                 image: {{packages: [{packages}]}}\n"
            ),
        ),
    }
}

/// The same for people.
pub fn told(guesses: &Guesses) -> Vec<String> {
    let mut lines = Vec::new();
    match &guesses.check {
        None => lines.push(format!(
            "guessed no check: name the commands that must pass under `checks` in {}",
            config::FILE
        )),
        Some(check) => {
            lines.push(format!("guessed check     {}", shown(check)));
            let packages = packages(guesses);
            if !packages.is_empty() {
                lines.push(format!("guessed packages  {packages}"));
            }
            lines.extend(
                check
                    .lacks
                    .iter()
                    .map(|lack| format!("warning: {}", plain(lack))),
            );
        }
    }
    let others = guesses.others.iter();
    lines.extend(others.map(|other| format!("also found        {}", shown(other))));
    let skipped = guesses.skipped.iter();
    lines.extend(skipped.map(|why| format!("skipped           {}", plain(why))));
    lines
}

fn shown(candidate: &Candidate) -> String {
    format!(
        "{}  ({})",
        plain(&candidate.command),
        plain(&candidate.because)
    )
}

fn packages(guesses: &Guesses) -> String {
    let packages = guesses.check.iter().flat_map(|check| &check.packages);
    packages.copied().collect::<Vec<_>>().join(", ")
}

/// One line without what a terminal would act on.
fn plain(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line: String = line.take(MOST_CHARS + 1).collect();
    if line.chars().count() > MOST_CHARS {
        line.pop();
        line.push('…');
    }
    line
}

/// A double-quoted YAML scalar; JSON's form is one.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
