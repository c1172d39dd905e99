//! Paths as `.dockerignore` and `COPY` name them.

/// Whether a pattern names this path or a folder above it. `*` and `?` stay
/// within a part of a path, `**` is any number of parts.
pub fn names(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = parts(pattern).collect();
    let path: Vec<&str> = parts(path).collect();
    let mut upto = 1..=path.len();
    !pattern.is_empty() && upto.any(|n| whole(&pattern, &path[..n]))
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
}

fn whole(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            whole(rest, path)
                || path
                    .split_first()
                    .is_some_and(|(_, below)| whole(pattern, below))
        }
        (Some((first, rest)), Some((part, below))) => {
            part_matches(first.as_bytes(), part.as_bytes()) && whole(rest, below)
        }
        _ => false,
    }
}

/// Goes back to the last `*` only: linear for one, never exponential.
fn part_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The rules of a `.dockerignore`.
#[derive(Debug, Default)]
pub struct Ignore {
    /// Pattern, and whether it takes out or puts back.
    rules: Vec<(String, bool)>,
}

impl Ignore {
    /// Reads them.
    pub fn read(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let rule = |line: &str| match line.strip_prefix('!') {
            Some(pattern) => (pattern.trim().to_owned(), false),
            None => (line.to_owned(), true),
        };
        Self {
            rules: lines.map(rule).collect(),
        }
    }

    /// Whether a file is left out: the last rule that names it decides.
    pub fn leaves_out(&self, path: &str) -> bool {
        let last = self
            .rules
            .iter()
            .rev()
            .find(|(pattern, _)| names(pattern, path));
        last.is_some_and(|(_, out)| *out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let yes = [
            ("a", "a"),
            ("a", "a/b/c"),
            ("/a/", "a/b"),
            ("./a", "a"),
            ("*.md", "README.md"),
            ("a/*.txt", "a/x.txt"),
            ("**/node_modules", "x/y/node_modules/z"),
            ("**", "a/b"),
            ("a/**/c", "a/c"),
            ("a/**/c", "a/b/b/c"),
            ("?at", "cat"),
            ("a*b*c", "aXbYbZc"),
        ];
        for (pattern, path) in yes {
            assert!(names(pattern, path), "{pattern} {path}");
        }
        let no = [
            ("a", "ab"),
            ("*.md", "docs/README.md"),
            ("a/b", "a"),
            ("", "a"),
            (".", "a"),
            ("a*c", "a/c"),
            ("?at", "at"),
        ];
        for (pattern, path) in no {
            assert!(!names(pattern, path), "{pattern} {path}");
        }
        assert!(!names(&"*a".repeat(40), &"a".repeat(39)));
    }

    #[test]
    fn the_last_rule_decides() {
        let rules = Ignore::read("# all\n*\n!src\n!Cargo.toml\n\nsrc/secret\n");
        for (path, out) in [
            ("README", true),
            ("src/a", false),
            ("src/secret/x", true),
            ("Cargo.toml", false),
        ] {
            assert_eq!(rules.leaves_out(path), out, "{path}");
        }
    }
}
