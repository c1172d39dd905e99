//! Which files of the repository a Dockerfile takes into the image.

/// What `COPY` and `ADD` name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Patterns of files and folders.
    pub named: Vec<String>,
    /// Lines that take everything, or what only the builder could tell.
    pub whole: Vec<String>,
}

/// Reads them out of a Dockerfile.
pub fn sources(text: &str) -> Sources {
    let mut found = Sources::default();
    for line in instructions(text) {
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((&line, ""));
        if !["COPY", "ADD"]
            .iter()
            .any(|known| word.eq_ignore_ascii_case(known))
        {
            continue;
        }
        let mut words: Vec<&str> = rest.split_whitespace().collect();
        // From another stage, or another image.
        if words.iter().any(|word| word.starts_with("--from=")) {
            continue;
        }
        words.retain(|word| !word.starts_with("--"));
        let rest = words.join(" ");
        let mut paths: Vec<String> = match serde_json::from_str(&rest) {
            Ok(list) => list,
            Err(_) => words.iter().map(|&word| word.to_owned()).collect(),
        };
        // The last one is where they go.
        paths.pop();
        for path in paths.into_iter().filter(|path| !path.contains("://")) {
            let is_all = path
                .split('/')
                .all(|part| matches!(part, "" | "." | "*" | "**"));
            match is_all || path.contains('$') {
                true => found.whole.push(line.clone()),
                false => found.named.push(path),
            }
        }
    }
    found
}

/// Lines as the builder joins them.
fn instructions(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = String::new();
    for line in text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        match line.trim_end().strip_suffix('\\') {
            Some(part) => {
                open.push_str(part);
                open.push(' ');
            }
            None => {
                open.push_str(line);
                all.push(std::mem::take(&mut open).trim().to_owned());
            }
        }
    }
    all.push(open.trim().to_owned());
    all.retain(|line| !line.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_copy_and_add() {
        let found = sources(
            "FROM a AS b\n# COPY comment x\ncopy --chown=1:1 requirements.txt \\\n  ./scripts/ /app/\n\
             COPY [\"a b\", \"c\", \"/x/\"]\nADD https://example.org/x.tar /x\nCOPY --from=b /y /y\nRUN COPY z z\n\
             COPY . /src\nADD $FILE /z\nCOPY *.lock /",
        );
        assert_eq!(
            found.named,
            ["requirements.txt", "./scripts/", "a b", "c", "*.lock"]
        );
        assert_eq!(found.whole, ["COPY . /src", "ADD $FILE /z"]);
        assert_eq!(sources("COPY"), Sources::default());
        assert_eq!(sources("COPY a \\"), Sources::default());
    }
}
