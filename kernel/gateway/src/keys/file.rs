//! `keys.env`: the user's own file of keys, read only where nobody else can have read or
//! written it.

use rustix::process::geteuid;
use secrecy::{SecretString, zeroize::Zeroizing};
use std::{
    collections::BTreeMap,
    fs::{File, Metadata, OpenOptions},
    io::{ErrorKind, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Name in the file of the command that is asked for keys that nobody wrote down.
pub const COMMAND: &str = "FACTORY_KEY_COMMAND";
/// How the name of every model key ends.
pub const SUFFIX: &str = "_API_KEY";
/// Most bytes of the file.
const LIMIT: usize = 64 << 10;

/// What `keys.env` says.
#[derive(Debug, Default)]
pub struct KeyFile {
    /// Model keys by name; none is empty.
    pub keys: BTreeMap<String, SecretString>,
    /// What is asked for other keys. It may hold a secret itself.
    pub command: Option<SecretString>,
}

/// Why `keys.env` is not used. No message quotes what stands in it.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The system does not let it be read.
    #[error("{path} cannot be read", path = path.display())]
    Unreadable {
        /// The file, or the folder it is in.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is a directory, a pipe or the like.
    #[error("{path} is not a regular file", path = path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else owns it.
    #[error("{path} belongs to user {owner}, not to you", path = path.display())]
    NotYours {
        /// The file, or the folder it is in.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others can read or change it.
    #[error("{path} is open to other users (mode {mode:o})", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Others can put another file in its place.
    #[error("{path} can be written to by other users (mode {mode:o}), so they could replace your keys", path = path.display())]
    OpenFolder {
        /// The folder it is in.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is no list of a few keys.
    #[error("{path} has more than {} KiB", LIMIT >> 10, path = path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// One of its lines is wrong.
    #[error("{path}:{line}: {flaw}", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        flaw: Flaw,
    },
}

/// What is wrong with a line of `keys.env`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// There is no name, or no `=`.
    #[error("this is not NAME=value")]
    NoName,
    /// The name means nothing to us.
    #[error("the name before `=` neither ends in {SUFFIX} nor is {COMMAND}")]
    UnknownName,
    /// A quotation mark is alone, or in the middle.
    #[error("the quotation marks do not stand around the whole value")]
    Quotes,
    /// Who reads it as a shell would sees two words.
    #[error("a value with blanks has to stand in quotation marks")]
    Blanks,
    /// Nothing of the kind is in a key.
    #[error("there is a control character in the value")]
    Control,
    /// The same name once more.
    #[error("this name was given before, in line {first}")]
    Twice {
        /// Where, from 1.
        first: usize,
    },
    /// It is no text.
    #[error("this is not UTF-8 text")]
    NotText,
}

impl KeyFileError {
    /// The next step.
    pub fn help(&self) -> String {
        match self {
            Self::Unreadable { path, .. } => {
                format!("look at it with `ls -ld {}`", path.display())
            }
            Self::NotAFile { path } => {
                format!("put a file with lines NAME=value at {}", path.display())
            }
            Self::NotYours { path, .. } => {
                format!("make one of your own, and look at {}", path.display())
            }
            Self::Open { path, .. } => format!(
                "chmod 600 {}  (and make new keys, if others use this machine)",
                path.display()
            ),
            Self::OpenFolder { path, .. } => format!("chmod go-w {}", path.display()),
            Self::TooLong { .. } => "keep only keys there, each in a line NAME=value".to_owned(),
            Self::Line { .. } => format!(
                "write lines such as ANTHROPIC_API_KEY=…, or {COMMAND}='…'; `#` begins a comment"
            ),
        }
    }
}

/// Where this process's user keeps the file, whether or not it is there; none without a home.
pub fn place() -> Option<PathBuf> {
    let absolute = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let config = absolute("XDG_CONFIG_HOME");
    let config = config.or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(config.join("factory/keys.env"))
}

/// Reads the file at `path`; none where there is no such file.
///
/// # Errors
/// It is not the user's alone, or a line is wrong. A link is judged by what it leads to,
/// and by the folder it is in.
pub fn read(path: &Path) -> Result<Option<KeyFile>, KeyFileError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| KeyFileError::Unreadable { path, source }
    };
    let real = match std::fs::canonicalize(path) {
        Ok(real) => real,
        Err(error) => {
            return match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
                _ => Err(unreadable(path)(error)),
            };
        }
    };
    for folder in [path.parent(), real.parent()].into_iter().flatten() {
        check_folder(folder, &folder.metadata().map_err(unreadable(folder))?)?;
    }
    // A pipe in its place would wait for its writer.
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(&real)
        .map_err(unreadable(path))?;
    check_file(path, &file.metadata().map_err(unreadable(path))?)?;
    // Big enough at once: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LIMIT + 1));
    File::take(file, LIMIT as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable(path))?;
    if bytes.len() > LIMIT {
        return Err(KeyFileError::TooLong {
            path: path.to_owned(),
        });
    }
    match parse(&bytes) {
        Ok(keys) => Ok(Some(keys)),
        Err((line, flaw)) => Err(KeyFileError::Line {
            path: path.to_owned(),
            line,
            flaw,
        }),
    }
}

fn check_file(path: &Path, metadata: &Metadata) -> Result<(), KeyFileError> {
    let path = path.to_owned();
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile { path });
    }
    if owner != geteuid().as_raw() {
        return Err(KeyFileError::NotYours { path, owner });
    }
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(KeyFileError::Open { path, mode }),
    }
}

fn check_folder(path: &Path, metadata: &Metadata) -> Result<(), KeyFileError> {
    let path = path.to_owned();
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
    if ![0, geteuid().as_raw()].contains(&owner) {
        return Err(KeyFileError::NotYours { path, owner });
    }
    match mode & 0o022 {
        0 => Ok(()),
        _ => Err(KeyFileError::OpenFolder { path, mode }),
    }
}

/// The lines `NAME=value`, or which one is wrong. Nothing in a value is replaced: neither
/// `$NAME` nor `\n` means anything.
fn parse(bytes: &[u8]) -> Result<KeyFile, (usize, Flaw)> {
    let mut file = KeyFile::default();
    let mut lines = BTreeMap::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let fail = |flaw| (number, flaw);
        let line = std::str::from_utf8(line).map_err(|_| fail(Flaw::NotText))?;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let exported = line.strip_prefix("export").filter(|rest| {
            // `exported=1` is another name.
            rest.starts_with(char::is_whitespace)
        });
        let (name, value) = exported
            .unwrap_or(line)
            .split_once('=')
            .ok_or(fail(Flaw::NoName))?;
        let name = name.trim();
        let value = value_of(value.trim()).map_err(fail)?;
        if !name.ends_with(SUFFIX) && name != COMMAND {
            return Err(fail(match is_name(name) {
                true => Flaw::UnknownName,
                false => Flaw::NoName,
            }));
        }
        if !is_name(name) {
            return Err(fail(Flaw::NoName));
        }
        if let Some(first) = lines.insert(name.to_owned(), number) {
            return Err(fail(Flaw::Twice { first }));
        }
        // Set to nothing is as good as not set.
        if value.is_empty() {
            continue;
        }
        let value = SecretString::from(value.as_str());
        match name {
            COMMAND => file.command = Some(value),
            _ => {
                file.keys.insert(name.to_owned(), value);
            }
        }
    }
    Ok(file)
}

fn is_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(word) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty()
}

/// What stands after `=`, without quotation marks and comment.
fn value_of(written: &str) -> Result<Zeroizing<String>, Flaw> {
    // It gets no longer, so no copy is left behind by growing.
    let mut value = Zeroizing::new(String::with_capacity(written.len()));
    let mut rest = written.chars();
    let quote = rest.clone().next().filter(|c| matches!(c, '\'' | '"'));
    if let Some(quote) = quote {
        rest.next();
        loop {
            let c = rest.next().ok_or(Flaw::Quotes)?;
            if c == quote {
                break;
            }
            let escaped = rest.clone().next().filter(|next| {
                // As in a shell; nothing else is escaped there.
                quote == '"' && c == '\\' && matches!(next, '"' | '\\' | '$' | '`')
            });
            value.push(match escaped {
                Some(next) => {
                    rest.next();
                    next
                }
                None => c,
            });
        }
        let after = rest.as_str();
        if !after.is_empty() && !after.trim_start().starts_with('#') || after.starts_with('#') {
            return Err(Flaw::Quotes);
        }
    } else {
        let comment = written.char_indices().find(|(at, c)| {
            let before = &written[..*at];
            *c == '#' && (before.is_empty() || before.ends_with(char::is_whitespace))
        });
        let plain = written[..comment.map_or(written.len(), |(at, _)| at)].trim_end();
        if plain.contains(['\'', '"']) {
            return Err(Flaw::Quotes);
        }
        if plain.contains(char::is_whitespace) {
            return Err(Flaw::Blanks);
        }
        value.push_str(plain);
    }
    match value.contains(char::is_control) {
        true => Err(Flaw::Control),
        false => Ok(value),
    }
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that is there now; none where there is none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok()?;
        Some(Self {
            place: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn keys(text: &str) -> Result<Vec<(String, String)>, (usize, Flaw)> {
        let file = parse(text.as_bytes())?;
        let command = file.command.iter().map(|it| (COMMAND.to_owned(), it));
        let all = file.keys.iter().map(|(name, key)| (name.clone(), key));
        Ok(all
            .chain(command)
            .map(|(name, key)| (name, key.expose_secret().to_owned()))
            .collect())
    }

    #[test]
    fn lines_are_read_as_a_shell_would_without_replacing_anything() {
        let rows = [
            ("A_API_KEY=sk-1", "sk-1"),
            ("  export A_API_KEY=sk-1  \r", "sk-1"),
            ("A_API_KEY = sk-1 # mine", "sk-1"),
            ("A_API_KEY=sk-1#2", "sk-1#2"),
            ("A_API_KEY=a=b==", "a=b=="),
            ("A_API_KEY='sk $X \\n \"#\"' # mine", "sk $X \\n \"#\""),
            (r#"A_API_KEY="a \"b\" \\ \$c \n $D""#, r#"a "b" \ $c \n $D"#),
        ];
        for (line, value) in rows {
            let text = format!("# mine\n\n{line}\n");
            let want = vec![("A_API_KEY".to_owned(), value.to_owned())];
            assert_eq!(keys(&text), Ok(want), "{line}");
        }
        let nothing = "A_API_KEY=\nB_API_KEY=''\nC_API_KEY= # none\n";
        assert_eq!(keys(nothing), Ok(vec![]));
        let command = "FACTORY_KEY_COMMAND='pass show \"$FACTORY_KEY_NAME\"'";
        let want = "pass show \"$FACTORY_KEY_NAME\"".to_owned();
        assert_eq!(keys(command), Ok(vec![(COMMAND.to_owned(), want)]));
    }

    #[test]
    fn a_wrong_line_is_named_and_not_quoted() {
        let rows = [
            ("sk-ant-pasted", Flaw::NoName),
            ("sk-ant=pasted", Flaw::NoName),
            ("=pasted", Flaw::NoName),
            ("1_API_KEY=pasted", Flaw::NoName),
            ("my key_API_KEY=pasted", Flaw::NoName),
            ("exportA_API_KEY pasted", Flaw::NoName),
            ("ANTHROPIC_APIKEY=pasted", Flaw::UnknownName),
            ("GITHUB_TOKEN=pasted", Flaw::UnknownName),
            ("A_API_KEY=\"pasted", Flaw::Quotes),
            ("A_API_KEY=pas\"ted\"", Flaw::Quotes),
            ("A_API_KEY='pasted'more", Flaw::Quotes),
            ("A_API_KEY='pasted'#more", Flaw::Quotes),
            ("A_API_KEY=pas ted", Flaw::Blanks),
            ("A_API_KEY=pas\u{7}ted", Flaw::Control),
            ("FIRST_API_KEY=pasted", Flaw::Twice { first: 2 }),
        ];
        for (line, flaw) in rows {
            let text = format!("# pasted\nFIRST_API_KEY=x\n{line}\n");
            assert_eq!(keys(&text), Err((3, flaw)), "{line}");
            assert!(!flaw.to_string().contains("past"), "{flaw}");
        }
        assert_eq!(parse(b"\nA_API_KEY=\xff").unwrap_err(), (2, Flaw::NotText));
    }

    #[test]
    fn only_a_file_of_the_users_own_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("factory");
        let elsewhere = dir.path().join("elsewhere");
        for made in [&folder, &elsewhere] {
            std::fs::create_dir(made).unwrap();
        }
        let path = folder.join("keys.env");
        assert!(read(&path).unwrap().is_none(), "there is none");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let write = |path: &Path| {
            std::fs::write(path, "A_API_KEY=sk-1\n").unwrap();
            mode(path, 0o600);
        };
        mode(&folder, 0o700);
        write(&path);
        assert_eq!(read(&path).unwrap().unwrap().keys.len(), 1);
        for wrong in [0o640, 0o604, 0o620, 0o602, 0o610] {
            mode(&path, wrong);
            let refused = read(&path).unwrap_err();
            assert!(
                matches!(refused, KeyFileError::Open { mode, .. } if mode == wrong),
                "{refused}"
            );
            assert!(refused.help().contains("chmod 600"), "{}", refused.help());
        }
        mode(&path, 0o400);
        assert!(read(&path).unwrap().is_some());
        for wrong in [0o720, 0o702] {
            mode(&folder, wrong);
            let refused = read(&path).unwrap_err();
            assert!(
                matches!(refused, KeyFileError::OpenFolder { .. }),
                "{refused}"
            );
        }
        mode(&folder, 0o755);
        assert!(read(&path).unwrap().is_some());
        // A link: by what it leads to.
        std::fs::remove_file(&path).unwrap();
        let real = elsewhere.join("keys");
        write(&real);
        symlink(&real, &path).unwrap();
        assert!(read(&path).unwrap().is_some());
        mode(&real, 0o644);
        assert!(matches!(
            read(&path).unwrap_err(),
            KeyFileError::Open { .. }
        ));
        mode(&real, 0o600);
        mode(&elsewhere, 0o777);
        assert!(matches!(
            read(&path).unwrap_err(),
            KeyFileError::OpenFolder { .. }
        ));
        mode(&elsewhere, 0o700);
        // What is no file is not waited for, nor is what has no end.
        std::fs::remove_file(&real).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &real,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(matches!(
            read(&path).unwrap_err(),
            KeyFileError::NotAFile { .. }
        ));
        std::fs::remove_file(&real).unwrap();
        assert!(read(&path).unwrap().is_none(), "the link leads nowhere");
        std::fs::write(&real, "#".repeat(LIMIT + 1)).unwrap();
        mode(&real, 0o600);
        assert!(matches!(
            read(&path).unwrap_err(),
            KeyFileError::TooLong { .. }
        ));
        if geteuid().is_root() {
            write(&real);
            std::os::unix::fs::chown(&real, Some(54_321), None).unwrap();
            let refused = read(&path).unwrap_err();
            assert!(
                matches!(refused, KeyFileError::NotYours { owner: 54_321, .. }),
                "{refused}"
            );
        }
    }
}
