//! Whether the engine and the programs that the checks begin with are in the image.

use super::{Line, Report, Repository};
use crate::failure::Class;
use bollard::Docker;
use factory_core::config::{self, Config, EngineKind};
use factory_runtime::image::{self, Attempt, ImageId};
use std::collections::BTreeSet;

/// Prints each of its arguments that is no program, builtin or keyword.
const LOOK: &str = "for word; do command -v \"$word\" >/dev/null 2>&1 || echo \"$word\"; done";

/// What a check begins with.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum First<'a> {
    /// A program that is looked for in the image.
    Program(&'a str),
    /// A file of the repository.
    File(&'a str),
}

/// The first word of a shell command, where it is a plain one.
fn first(check: &str) -> Option<First<'_>> {
    let is_assignment = |word: &&str| {
        let name = word.split_once('=').map(|(name, _)| name);
        name.is_some_and(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
    };
    let word = check.split_whitespace().find(|word| !is_assignment(word))?;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"+-._/".contains(&b);
    if !word.bytes().all(is_plain) || word.starts_with(['-', '/']) {
        return None;
    }
    match word.strip_prefix("./") {
        Some(path) => Some(First::File(path)),
        None if word.contains('/') => Some(First::File(word)),
        None => Some(First::Program(word)),
    }
}

/// The program that is the engine; none where it is a path.
fn program_of(engine: &EngineKind) -> Option<&str> {
    let program = match engine {
        EngineKind::Known(engine) => engine.image.probe.first().copied(),
        EngineKind::Command(argv) => argv.first().map(String::as_str),
    };
    program.filter(|program| !program.contains('/'))
}

/// Looks for the engine and the checks' programs in the built image, which is known by id and
/// tag, and for the checks' scripts in the commit.
pub(super) async fn look_at_tools(
    docker: &Docker,
    (id, tag): (&ImageId, &str),
    config: &Config,
    repository: Option<&Repository>,
    report: &mut Report,
) {
    let wanted: BTreeSet<First> = match repository {
        Some(_) => config.checks.iter().filter_map(|it| first(it)).collect(),
        None => BTreeSet::new(),
    };
    let programs: Vec<&str> = wanted
        .iter()
        .filter_map(|first| match first {
            First::Program(word) => Some(*word),
            First::File(_) => None,
        })
        .collect();
    let engine = program_of(&config.engine);
    let all: Vec<&str> = programs.iter().copied().chain(engine).collect();
    let absent = match all.is_empty() {
        true => Some(BTreeSet::new()),
        false => absent(docker, id, &all).await,
    };
    let is_absent = |word: &str| absent.as_ref().is_some_and(|words| words.contains(word));
    look_at_program(
        config,
        engine.filter(|program| is_absent(program)),
        tag,
        report,
    );
    if let Some(repository) = repository {
        look_at_scripts(&wanted, repository, report);
    }
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|word| is_absent(word))
        .collect();
    match (absent.is_some(), missing.is_empty()) {
        (false, _) => {}
        (true, true) if programs.is_empty() => {}
        (true, true) => report.ok(
            "check tools",
            format!("in the image: {}", programs.join(", ")),
        ),
        (true, false) => report.warn(
            "check tools",
            format!("not in the image, so the checks fail: {}", missing.join(", ")),
            &format!(
                "add the packages that hold them to image.packages in {}, commit, then `factory image build`",
                config::FILE
            ),
        ),
    }
}

/// Those of the words that are no program in the image; none where it cannot be looked into.
async fn absent(docker: &Docker, id: &ImageId, words: &[&str]) -> Option<BTreeSet<String>> {
    let mut argv = vec!["/bin/sh", "-c", LOOK, "sh"];
    argv.extend(words);
    let mark = format!("doctor-{}", std::process::id());
    match image::attempt(docker, id, &mark, &argv).await {
        Ok(Attempt {
            code: Some(0),
            output,
        }) => Some(output.split_whitespace().map(str::to_owned).collect()),
        Ok(Attempt { output, .. }) => {
            tracing::debug!(output, "the image could not be looked into");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "the image could not be looked into");
            None
        }
    }
}

/// The engine, and its program where the image has none of that name.
fn look_at_program(config: &Config, absent: Option<&str>, tag: &str, report: &mut Report) {
    let (detail, mend) = match &config.engine {
        EngineKind::Command(argv) => (
            format!("your command: {}", argv.join(" ")),
            format!(
                "add the package that holds it to image.packages in {}, commit, then `factory image build`",
                config::FILE
            ),
        ),
        EngineKind::Known(engine) => (
            format!(
                "{} {}, tried when the image was built; model {}",
                engine.name,
                engine.image.version,
                config.model()
            ),
            format!("docker rmi --force {tag} && factory image build"),
        ),
    };
    match absent {
        None => report.ok("engine", detail),
        Some(program) => {
            let detail = format!("the image {tag} has no program `{program}`");
            let line = Line::missing("engine", Class::Image, detail);
            report.lines.push(line.mend(mend));
        }
    }
}

fn look_at_scripts(wanted: &BTreeSet<First>, repository: &Repository, report: &mut Report) {
    for first in wanted {
        let First::File(path) = first else { continue };
        match repository.user.list_tree(&repository.tip, path) {
            Ok(found) if found.is_empty() => report.warn(
                "check tools",
                format!(
                    "branch {} has no file {path}, so its check fails",
                    repository.target
                ),
                &format!(
                    "git add {path} and commit it, or change `checks` in {}",
                    config::FILE
                ),
            ),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, path, "no look at a script"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_words() {
        let rows = [
            ("cargo test --offline", Some(First::Program("cargo"))),
            (
                "PYTHONPATH=src A=b python3 -m pytest",
                Some(First::Program("python3")),
            ),
            ("./test.sh -v", Some(First::File("test.sh"))),
            ("tests/run", Some(First::File("tests/run"))),
            ("g++ x", Some(First::Program("g++"))),
            ("true;false", None),
            ("$SHELL -c x", None),
            ("(cd x && make)", None),
            ("/usr/bin/make", None),
            ("A=b", None),
        ];
        for (check, expected) in rows {
            assert_eq!(first(check), expected, "{check}");
        }
    }
}
