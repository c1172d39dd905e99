//! A change between two directories, played as an engine's tool calls.

use crate::scenario::{Answer, Conversation, Scenario, Step, ToolCall, When};
use factory_core::wire::WORKSPACE;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Lines in a replaced region up to which a change is an `Edit`, not a `Write`.
const EDIT_LINES: usize = 40;
/// Bytes from which only the head of a file is read: the `Read` tool refuses
/// what does not fit into its answer, and any read unlocks the file for writing.
const READ_BYTES: usize = 40_000;

/// Bytes of a file in one shell command; with all quotes doubled up to four
/// times as long, and one argument holds at most 131,071.
const SHELL_BYTES: usize = 30_000;

/// A change that cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A changed file is no UTF-8 text, or no plain file.
    #[error("{} is not a text file, and the tools write only text; leave it out of the change", path.display())]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// Both directories hold the same.
    #[error("{} and {} do not differ, so there is nothing to play", before.display(), after.display())]
    NoChange {
        /// The first directory.
        before: PathBuf,
        /// The second directory.
        after: PathBuf,
    },
}

/// Plays the change from `before` to `after` in [`WORKSPACE`]: reads and writes
/// each changed file, runs `checks`, commits with `message`, ends.
///
/// `.git` directories are left out. The one conversation matches every request;
/// set its [`When`] to narrow it.
///
/// # Errors
/// A directory is unreadable, a changed file is no text, or nothing changed.
pub fn from_diff(
    before: &Path,
    after: &Path,
    message: &str,
    checks: &[&str],
) -> Result<Scenario, DiffError> {
    let old = files(before)?;
    let new = files(after)?;
    let mut steps: Vec<Step> = Vec::new();
    for (name, file) in &new {
        match old.get(name) {
            Some(same) if same == file => {}
            known => steps.extend(change(name, known, file, after)?),
        }
    }
    let gone: Vec<String> = old
        .keys()
        .filter(|name| !new.contains_key(*name))
        .map(|name| quote(name))
        .collect();
    if !gone.is_empty() {
        let command = format!("rm -f -- {}", gone.join(" "));
        steps.push(call(
            format!("Removing {}.", gone.join(", ")),
            ToolCall::bash(&command, "Remove files"),
        ));
    }
    if steps.is_empty() {
        return Err(DiffError::NoChange {
            before: before.to_owned(),
            after: after.to_owned(),
        });
    }
    for check in checks {
        steps.push(call(
            format!("Running `{check}`."),
            ToolCall::bash(check, "Run the checks"),
        ));
    }
    let commit = format!("git add -A && git commit -q -m {}", quote(message));
    steps.push(call(
        "Committing the change.".to_owned(),
        ToolCall::bash(&commit, "Commit the change"),
    ));
    let subject = message.lines().next().unwrap_or_default();
    steps.push(Step::Answer(Answer {
        text: Some(format!("Done: {subject}")),
        ..Answer::default()
    }));
    let conversation = Conversation {
        name: subject.to_owned(),
        when: When::default(),
        steps,
    };
    Ok(Scenario {
        conversations: vec![conversation],
    })
}

#[derive(PartialEq)]
struct File {
    bytes: Vec<u8>,
    executable: bool,
}

/// Every plain file below `root`, by its path relative to it.
fn files(root: &Path) -> Result<BTreeMap<String, File>, DiffError> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        let unreadable = |source| DiffError::Unreadable {
            path: directory.clone(),
            source,
        };
        for entry in fs::read_dir(&directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let unreadable = |source| DiffError::Unreadable {
                path: path.clone(),
                source,
            };
            let kind = fs::symlink_metadata(&path).map_err(unreadable)?;
            if kind.is_dir() {
                if path.file_name() != Some(".git".as_ref()) {
                    todo.push(path);
                }
                continue;
            }
            let relative = path.strip_prefix(root).ok().and_then(Path::to_str);
            let (Some(name), true) = (relative, kind.is_file()) else {
                return Err(DiffError::NotText { path });
            };
            let bytes = fs::read(&path).map_err(unreadable)?;
            found.insert(
                name.to_owned(),
                File {
                    bytes,
                    executable: kind.permissions().mode() & 0o100 != 0,
                },
            );
        }
    }
    Ok(found)
}

/// The steps that bring one file from `old` to `new`.
fn change(name: &str, old: Option<&File>, new: &File, root: &Path) -> Result<Vec<Step>, DiffError> {
    let text = |file: &File| {
        let not_text = |_| DiffError::NotText {
            path: root.join(name),
        };
        String::from_utf8(file.bytes.clone()).map_err(not_text)
    };
    let path = format!("{WORKSPACE}/{name}");
    let content = text(new)?;
    let mut steps = Vec::new();
    match old {
        Some(old) if old.bytes != new.bytes => {
            let before = text(old)?;
            let mut read = ToolCall::new("Read", [("file_path", path.as_str().into())]);
            if before.len() > READ_BYTES {
                read.input.insert("limit".to_owned(), 100.into());
            }
            steps.push(call(format!("Looking at {name}."), read));
            match edit(&before, &content) {
                Some((old, new)) => {
                    let edit = ToolCall::new(
                        "Edit",
                        [
                            ("file_path", path.into()),
                            ("old_string", old.into()),
                            ("new_string", new.into()),
                        ],
                    );
                    steps.push(call(format!("Changing {name}."), edit));
                }
                None => steps.extend(write(name, path, content)),
            }
        }
        Some(_) => {}
        None => steps.extend(write(name, path, content)),
    }
    if old.is_some_and(|old| old.executable) != new.executable {
        let mode = if new.executable { "+x" } else { "-x" };
        let command = format!("chmod {mode} {}", quote(name));
        let chmod = ToolCall::bash(&command, "Set the file's mode");
        steps.push(call(format!("Setting the mode of {name}."), chmod));
    }
    Ok(steps)
}

/// Writes a whole file; by the shell where the `Write` tool would change it.
fn write(name: &str, path: String, content: String) -> Vec<Step> {
    if content.split_inclusive('\n').all(is_kept) {
        let input = [("file_path", path.into()), ("content", content.into())];
        return vec![call(
            format!("Writing {name}."),
            ToolCall::new("Write", input),
        )];
    }
    let mut steps = Vec::new();
    let mut rest = content.as_str();
    let mut redirect = ">";
    while !rest.is_empty() {
        let mut end = rest.len().min(SHELL_BYTES);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, more) = rest.split_at(end);
        let command = format!("printf %s {} {redirect} {}", quote(piece), quote(name));
        let command = match Path::new(name).parent().and_then(Path::to_str) {
            Some(parent) if !parent.is_empty() => {
                format!("mkdir -p {} && {command}", quote(parent))
            }
            _ => command,
        };
        steps.push(call(
            format!("Writing {name}."),
            ToolCall::bash(&command, "Write the file"),
        ));
        rest = more;
        redirect = ">>";
    }
    steps
}

/// `Edit` and `Write` of Claude Code strip white space at the end of a line.
fn is_kept(line: &str) -> bool {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.trim_end() == line
}

/// The one region of whole lines that differs, where it is small and, with some
/// lines around it, occurs once. None where the `Edit` tool would change it.
fn edit(before: &str, after: &str) -> Option<(String, String)> {
    let old: Vec<&str> = before.split_inclusive('\n').collect();
    let new: Vec<&str> = after.split_inclusive('\n').collect();
    let mut head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let room = old.len().min(new.len()) - head;
    let mut tail = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take(room)
        .take_while(|(a, b)| a == b)
        .count();
    loop {
        let (from, to) = (old.len() - tail, new.len() - tail);
        if from - head > EDIT_LINES || to - head > EDIT_LINES {
            return None;
        }
        let region = old[head..from].concat();
        if !region.is_empty() && before.match_indices(&region).nth(1).is_none() {
            let lines = &new[head..to];
            let kept = lines.iter().copied().all(is_kept);
            return kept.then(|| (region, lines.concat()));
        }
        if head == 0 && tail == 0 {
            return None;
        }
        head = head.saturating_sub(1);
        tail = tail.saturating_sub(1);
    }
}

fn call(text: String, tool: ToolCall) -> Step {
    Step::Answer(Answer {
        text: Some(text),
        tools: vec![tool],
        wait: None,
    })
}

/// One word for a POSIX shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_names_a_region_that_occurs_once() {
        let before = "a\nx\nb\nx\nc\n";
        let (old, new) = edit(before, "a\nx\nb\ny\nc\n").unwrap();
        assert_eq!((old.as_str(), new.as_str()), ("b\nx\nc\n", "b\ny\nc\n"));
        assert_eq!(before.replacen(&old, &new, 1), "a\nx\nb\ny\nc\n");
        let (old, new) = edit("a\nb\n", "a\nnew\nb\n").unwrap();
        assert_eq!("a\nb\n".replacen(&old, &new, 1), "a\nnew\nb\n");
        assert!(
            edit("", "a\n").is_none(),
            "an empty file has nothing to replace"
        );
        assert!(edit(&"a\n".repeat(100), &"b\n".repeat(100)).is_none());
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
