//! The host's own apt sources for one Debian suite, so that a base is made from
//! the mirror this host uses.

use std::path::Path;

/// Apt entries (`deb URI SUITE COMPONENTS`) for `suite` and its updates as the
/// files below `apt` (`/etc/apt`) list them. Empty when they do not carry the
/// suite itself: the tool's own default mirror is used then.
///
/// Left out: entries signed by another key than Debian's (a vendor's packages
/// under the same suite name), entries that carry a password (they would stay
/// in the image) and ones that are no network location.
pub(super) fn for_suite(apt: &Path, suite: &str) -> Vec<String> {
    let mut texts = vec![(apt.join("sources.list"), false)];
    match std::fs::read_dir(apt.join("sources.list.d")) {
        Ok(entries) => {
            for entry in entries.flatten() {
                let path = entry.path();
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("list") => texts.push((path, false)),
                    Some("sources") => texts.push((path, true)),
                    _ => {}
                }
            }
        }
        Err(error) => tracing::debug!(%error, "no folder of apt sources"),
    }
    texts.sort();
    let mut found = Vec::new();
    for (path, is_deb822) in texts {
        match std::fs::read_to_string(&path) {
            Ok(text) if is_deb822 => deb822(&text, &mut found),
            Ok(text) => one_line(&text, &mut found),
            Err(error) => tracing::debug!(%error, path = %path.display(), "apt source not read"),
        }
    }
    let suites = [
        suite.to_owned(),
        format!("{suite}-updates"),
        format!("{suite}-security"),
        format!("{suite}/updates"),
    ];
    found.retain(|source| suites.contains(&source.suite) && source.is_usable());
    if !found.iter().any(|source| source.suite == suite) {
        return Vec::new();
    }
    let mut lines: Vec<String> = Vec::new();
    for source in found {
        let line = format!("deb {} {} {}", source.uri, source.suite, source.components);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

struct Source {
    uri: String,
    suite: String,
    components: String,
    signed_by: Option<String>,
}

impl Source {
    fn is_usable(&self) -> bool {
        let is_network = self.uri.starts_with("http://") || self.uri.starts_with("https://");
        let has_password = self.uri.contains('@');
        let is_debian = self
            .signed_by
            .as_ref()
            .is_none_or(|keys| keys.contains("debian-archive"));
        let has_main = self
            .components
            .split_whitespace()
            .any(|component| component == "main");
        is_network && !has_password && is_debian && has_main
    }
}

fn one_line(text: &str, found: &mut Vec<Source>) {
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line
            .strip_prefix("deb")
            .filter(|rest| rest.starts_with([' ', '\t']))
        else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest.trim_start()),
            None => ("", rest),
        };
        let signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned);
        let mut words = rest.split_whitespace();
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            continue;
        };
        let components: Vec<&str> = words.collect();
        found.push(Source {
            uri: uri.to_owned(),
            suite: suite.to_owned(),
            components: components.join(" "),
            signed_by,
        });
    }
}

fn deb822(text: &str, found: &mut Vec<Source>) {
    // Comment lines may stand inside a stanza and do not end it.
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in kept.split(|line| line.trim().is_empty()) {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in stanza {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let field = |name: &str| {
            fields
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, value)| value.as_str())
        };
        if field("enabled").is_some_and(|value| {
            matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "0")
        }) || !field("types")
            .unwrap_or_default()
            .split_whitespace()
            .any(|kind| kind == "deb")
        {
            continue;
        }
        for uri in field("uris").unwrap_or_default().split_whitespace() {
            for suite in field("suites").unwrap_or_default().split_whitespace() {
                found.push(Source {
                    uri: uri.to_owned(),
                    suite: suite.to_owned(),
                    components: field("components").unwrap_or_default().to_owned(),
                    signed_by: field("signed-by").map(str::to_owned),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::for_suite;

    fn apt(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn both_formats_are_read_and_only_debians_own_entries_are_taken() {
        let dir = apt(&[
            (
                "sources.list",
                "# old\ndeb http://mirror.example/debian bookworm main contrib # ours\n\
                 deb-src http://mirror.example/debian bookworm main\n\
                 deb [arch=amd64 signed-by=/etc/apt/keyrings/vendor.asc] https://vendor.example/linux bookworm main\n\
                 deb http://mirror.example/debian trixie main\n\
                 deb http://user:password@secret.example/debian bookworm main\n\
                 deb file:/srv/debian bookworm main\n",
            ),
            (
                "sources.list.d/debian.sources",
                "Types: deb deb-src\n# why\nURIs: http://mirror.example/security\nSuites: bookworm-security\n\
                 Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
                 Types: deb\nEnabled: no\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n",
            ),
            (
                "sources.list.d/old.sources.disabled",
                "Types: deb\nURIs: http://x.example\nSuites: bookworm\n",
            ),
        ]);
        assert_eq!(
            for_suite(dir.path(), "bookworm"),
            [
                "deb http://mirror.example/debian bookworm main contrib",
                "deb http://mirror.example/security bookworm-security main",
            ]
        );
    }

    #[test]
    fn without_the_suite_itself_nothing_is_taken() {
        let dir = apt(&[(
            "sources.list",
            "deb http://mirror.example/debian bookworm-updates main\n",
        )]);
        assert!(for_suite(dir.path(), "bookworm").is_empty());
        assert!(for_suite(&dir.path().join("absent"), "bookworm").is_empty());
    }
}
