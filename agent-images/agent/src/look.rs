//! What a review looks at, as tools: engines that review get no shell, since what runs in
//! their container could speak in their name.

use crate::{git, output, places::Places};
use factory_core::text;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    io::{self, Read},
    path::Path,
    process::Stdio,
};

/// Most bytes of one answer.
const ANSWER: usize = 24 * 1024;
/// Longest row of an answer, in bytes: a longer line takes several, so that none is hidden.
const ROW: usize = 2000;
/// Most bytes of a file, or of what git says, that are gone through for an answer.
const SOURCE: u64 = 64 << 20;

/// A tool that only reads.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    schema: fn() -> Value,
    call: fn(&Places, Value) -> Result<String, LookError>,
}

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Arguments that the tool does not know.
    #[error("these arguments do not fit the tool's schema")]
    Arguments(#[source] serde_json::Error),
    /// No commit by its whole name.
    #[error("`{0}` is no commit: give its 40 hexadecimal digits, as the task names it")]
    NoCommit(String),
    /// It cannot be read.
    #[error("`{path}` cannot be read; `files` lists what there is")]
    Unreadable {
        /// As it was given.
        path: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Neither file nor link to one.
    #[error("`{0}` is no file; `files` lists what there is")]
    NotAFile(String),
    /// Git failed.
    #[error("git says: {0}")]
    Git(String),
    /// Git cannot run.
    #[error("git cannot run")]
    NoGit(#[source] io::Error),
}

/// All of them.
pub static LOOKS: [Look; 4] = [
    Look {
        name: "change",
        about: "The change under review: the diff between where it left the target and its head, of all files or of one.",
        schema: || {
            json!({"type": "object", "additionalProperties": false, "required": ["target"], "properties": {
                "target": {"type": "string", "description": "The target commit, as the task names it."},
                "path": {"type": "string", "description": "Only of this file or folder."},
                "from_row": from_row(),
            }})
        },
        call: change,
    },
    Look {
        name: "files",
        about: "The files of the work tree, by path.",
        schema: || {
            json!({"type": "object", "additionalProperties": false, "properties": {
                "path": {"type": "string", "description": "Only below this folder."},
                "from_row": from_row(),
            }})
        },
        call: files,
    },
    Look {
        name: "read",
        about: "The lines of a file, each with its number. A path that is not absolute is one of the work tree.",
        schema: || {
            json!({"type": "object", "additionalProperties": false, "required": ["path"], "properties": {
                "path": {"type": "string"},
                "from_row": from_row(),
            }})
        },
        call: read,
    },
    Look {
        name: "search",
        about: "The lines of the work tree that an extended regular expression matches, with file and number.",
        schema: || {
            json!({"type": "object", "additionalProperties": false, "required": ["pattern"], "properties": {
                "pattern": {"type": "string"},
                "path": {"type": "string", "description": "Only in this file or folder."},
                "from_row": from_row(),
            }})
        },
        call: search,
    },
];

impl Look {
    /// The tool of this name.
    pub fn named(name: &str) -> Option<&'static Look> {
        LOOKS.iter().find(|look| look.name == name)
    }

    /// JSON Schema of its arguments.
    pub fn schema(&self) -> Value {
        (self.schema)()
    }

    /// Looks.
    ///
    /// # Errors
    /// Why there is nothing to see, for the engine.
    pub fn call(&self, places: &Places, arguments: Value) -> Result<String, LookError> {
        (self.call)(places, arguments)
    }
}

fn arguments<T: DeserializeOwned>(value: Value) -> Result<T, LookError> {
    serde_json::from_value(value).map_err(LookError::Arguments)
}

fn first() -> usize {
    1
}

fn from_row() -> Value {
    json!({"type": "integer", "minimum": 1, "description": "Begin with this row: an answer that goes on says which. A line of more than 2000 bytes takes several rows."})
}

fn change(places: &Places, value: Value) -> Result<String, LookError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        target: String,
        path: Option<String>,
        #[serde(default = "first")]
        from_row: usize,
    }
    let Arguments {
        target,
        path,
        from_row,
    } = arguments(value)?;
    if target.len() != 40 || !target.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(LookError::NoCommit(target));
    }
    let range = format!("{target}...HEAD");
    // What the change says of its own files hides nothing of it.
    let mut words = vec![
        "diff",
        "--text",
        "--no-ext-diff",
        "--no-textconv",
        "--ignore-submodules=none",
        &range,
    ];
    words.push("--");
    words.extend(path.as_deref());
    let out = git_says(places, &words, &[0])?;
    Ok(page(&out, from_row, false))
}

fn files(places: &Places, value: Value) -> Result<String, LookError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        path: Option<String>,
        #[serde(default = "first")]
        from_row: usize,
    }
    let Arguments { path, from_row } = arguments(value)?;
    let mut words = vec!["ls-tree", "-r", "--name-only", "HEAD", "--"];
    words.extend(path.as_deref());
    let out = git_says(places, &words, &[0])?;
    Ok(page(&out, from_row, false))
}

fn search(places: &Places, value: Value) -> Result<String, LookError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        pattern: String,
        path: Option<String>,
        #[serde(default = "first")]
        from_row: usize,
    }
    let Arguments {
        pattern,
        path,
        from_row,
    } = arguments(value)?;
    let mut words = vec!["grep", "--no-textconv", "--text", "-nE", "-e", &pattern];
    words.push("--");
    words.extend(path.as_deref());
    // 1: nothing was found.
    let out = git_says(places, &words, &[0, 1])?;
    Ok(page(&out, from_row, false))
}

fn read(places: &Places, value: Value) -> Result<String, LookError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        path: String,
        #[serde(default = "first")]
        from_row: usize,
    }
    let Arguments { path, from_row } = arguments(value)?;
    let at = match Path::new(&path).is_absolute() {
        true => places.at(&path),
        false => places.workspace().join(&path),
    };
    let unreadable = |source: io::Error| LookError::Unreadable {
        path: path.clone(),
        source,
    };
    // A pipe without a writer makes nobody wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(&at, flags, Mode::empty()).map_err(|e| unreadable(e.into()))?;
    let file = std::fs::File::from(file);
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(LookError::NotAFile(path));
    }
    let mut out = Vec::new();
    file.take(SOURCE)
        .read_to_end(&mut out)
        .map_err(unreadable)?;
    Ok(page(&out, from_row, true))
}

/// What git says in the work tree, as far as it is gone through.
fn git_says(places: &Places, words: &[&str], fine: &[i32]) -> Result<Vec<u8>, LookError> {
    let words = [
        &["--literal-pathspecs", "-c", "core.quotePath=false"],
        words,
    ]
    .concat();
    let mut child = git::command(places, &words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(LookError::NoGit)?;
    // What it warns of must not make it wait: a change can bring any number of warnings.
    let stderr = child.stderr.take();
    let warnings = std::thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut piece) {
                said.extend_from_slice(&piece[..n.min(4096_usize.saturating_sub(said.len()))]);
            }
        }
        said
    });
    let mut out = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let read = stdout.take(SOURCE).read_to_end(&mut out);
        read.map_err(LookError::NoGit)?;
    }
    let ended = child.wait().map_err(LookError::NoGit)?;
    let warnings = warnings.join().unwrap_or_default();
    match ended.code() {
        Some(code) if fine.contains(&code) => Ok(out),
        // It had more to say than was read.
        None if out.len() as u64 == SOURCE => Ok(out),
        _ => Err(LookError::Git(output::text(&warnings, 4096))),
    }
}

/// The rows of a line, without its end.
fn rows(line: &[u8]) -> Vec<String> {
    let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
    let mut rows = vec![String::new()];
    for character in text::shown(&line).chars() {
        match rows.last_mut() {
            Some(row) if row.len() < ROW => row.push(character),
            _ => rows.push(character.to_string()),
        }
    }
    rows
}

/// As much of it as one answer takes, from a row on, and where it goes on. Lines have
/// their numbers where that is asked for.
fn page(out: &[u8], from_row: usize, numbered: bool) -> String {
    let mut answer = String::new();
    let lines = out.split_inclusive(|byte| *byte == b'\n').enumerate();
    let all = lines.flat_map(|(line, bytes)| rows(bytes).into_iter().map(move |row| (line, row)));
    for (at, (line, row)) in all.enumerate().skip(from_row.max(1) - 1) {
        if answer.len() >= ANSWER {
            answer.push_str(&format!("[goes on: from_row {}]\n", at + 1));
            return answer;
        }
        if numbered {
            answer.push_str(&format!("{:>6}  ", line + 1));
        }
        answer.push_str(&row);
        answer.push('\n');
    }
    if answer.is_empty() {
        answer.push_str("[nothing]\n");
    }
    if out.len() as u64 == SOURCE {
        answer.push_str("[there is more, which is not shown]\n");
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_on_where_it_says_and_hides_nothing() {
        let long = "x".repeat(3 * ANSWER) + "END";
        let out = format!("first\u{202e}\n{long}\nlast");
        let mut seen = String::new();
        let mut from = 1;
        loop {
            let answer = page(out.as_bytes(), from, false);
            assert!(answer.len() <= ANSWER + ROW + 100, "{}", answer.len());
            let goes_on = answer.rsplit_once("[goes on: from_row ");
            let Some((rows, next)) = goes_on else {
                seen.push_str(&answer);
                break;
            };
            seen.push_str(rows);
            from = next.trim_end_matches("]\n").parse().unwrap_or(usize::MAX);
        }
        assert!(seen.starts_with("first\\u{202e}\n"), "it is shown");
        let seen = seen.replace('\n', "");
        assert_eq!(seen, format!("first\\u{{202e}}{long}last"));
    }

    #[test]
    fn rows_of_a_file_have_the_numbers_of_their_lines() {
        let out = format!("one\n{}\nthree\n", "y".repeat(ROW + 1));
        let answer = page(out.as_bytes(), 2, true);
        let numbers: Vec<&str> = answer.lines().filter_map(|row| row.get(..6)).collect();
        assert_eq!(numbers, ["     2", "     2", "     3"]);
        assert_eq!(page(b"", 1, true), "[nothing]\n");
    }

    #[test]
    fn what_a_change_says_of_itself_neither_hides_it_nor_holds_up_who_looks() {
        const SCRIPT: &str = r#"set -eu; exec 2>/dev/null
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
mkdir workspace; cd workspace; git init -q -b main
git update-index --add --cacheinfo 160000,1111111111111111111111111111111111111111,sub
echo one >ä.txt; git add ä.txt; git commit -qm Begin; git rev-parse HEAD >../base
printf '[submodule "sub"]\n\tpath = sub\n\turl = ./sub\n\tignore = all\n' >.gitmodules
git update-index --cacheinfo 160000,2222222222222222222222222222222222222222,sub
seq 2000 | sed 's/.*/!a& text/' >.gitattributes; echo '*.txt -diff' >>.gitattributes
printf 'two\0\n' >ä.txt; git add .gitmodules .gitattributes ä.txt; git commit -qm Change
"#;
        let dir = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("sh")
            .args(["-c", SCRIPT])
            .current_dir(dir.path())
            .status();
        assert!(made.unwrap().success());
        let base = std::fs::read_to_string(dir.path().join("base")).unwrap();
        let places = Places::below(dir.path().to_owned());
        let look = |name: &str, arguments: Value| {
            let look = Look::named(name).unwrap();
            look.call(&places, arguments).unwrap()
        };
        let all = look("change", json!({"target": base.trim(), "from_row": 2000}));
        assert!(all.contains("Subproject commit 2222"), "{all}");
        let change = look("change", json!({"target": base.trim(), "path": "ä.txt"}));
        assert!(change.contains("-one\n+two\\u{0}\n"), "{change}");
        assert!(look("files", json!({})).contains("\nä.txt\n"));
        assert_eq!(
            look("search", json!({"pattern": "^tw"})),
            "ä.txt:1:two\\u{0}\n"
        );
        assert_eq!(
            look("read", json!({"path": "ä.txt"})),
            "     1  two\\u{0}\n"
        );
        let none = Look::named("read").unwrap();
        assert!(none.call(&places, json!({"path": ".."})).is_err());
    }
}
