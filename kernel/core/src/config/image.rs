//! What the image of agents is built from.

use serde::{Deserialize, Serialize};

/// The base where the repository names none.
pub const DEFAULT_BASE: &str = "debian:bookworm-slim";

/// What the image of agents is built from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    /// Base image. Where this and `dockerfile` are absent: what the repository's
    /// `devcontainer.json` says, else [`DEFAULT_BASE`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// A Dockerfile of the repository that makes the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    /// Distribution packages to add.
    pub packages: Vec<String>,
}

impl Image {
    /// The key that is wrong, what is wrong with it, and what to write.
    pub(super) fn flaw(&self) -> Option<(&'static str, String, &'static str)> {
        if self.base.is_some() && self.dockerfile.is_some() {
            return Some((
                "image",
                "image names both a base and a dockerfile".to_owned(),
                "keep one of them: what the Dockerfile makes is the base",
            ));
        }
        if let Some(base) = self.base.as_ref().filter(|base| !valid_base(base)) {
            return Some((
                "base",
                format!("image.base `{base}` is not the name of an image"),
                "write it like `debian:bookworm-slim`: letters, digits and `._-/:@`",
            ));
        }
        if let Some(path) = self.dockerfile.as_ref().filter(|path| !is_inside(path)) {
            return Some((
                "dockerfile",
                format!("image.dockerfile `{path}` leads out of the repository"),
                "write its path relative to its top, for example `docker/Dockerfile`",
            ));
        }
        if self.packages.iter().any(|p| !valid_package(p)) {
            return Some((
                "packages",
                "a name in image.packages is no package name".to_owned(),
                "use the distribution's package names, for example python3",
            ));
        }
        None
    }
}

/// The characters of image names: nothing else may reach a Dockerfile.
fn valid_base(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 256
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b))
}

fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

fn valid_package(name: &str) -> bool {
    name.bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.' | b':' | b'='))
}
