//! What an image is made of, and the names that follow from it.

use super::ImageError;
use factory_core::engine::EngineImage;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// In every image, whatever the repository asks for.
pub(super) const REQUIRED_PACKAGES: [&str; 4] = ["bash", "ca-certificates", "coreutils", "git"];

pub(super) const BASE_RECIPE: &str =
    include_str!("../../../../agent-images/recipes/base.Dockerfile");
pub(super) const ENGINE_RECIPE: &str =
    include_str!("../../../../agent-images/recipes/engine.Dockerfile");
/// What every engine's own script begins with.
const FETCH: &str = include_str!("../../../../agent-images/recipes/fetch.sh");
pub(super) const AGENT_RECIPE: &str =
    include_str!("../../../../agent-images/recipes/agent.Dockerfile");

/// What an image is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// Image reference, such as `debian:bookworm-slim`.
    pub base: String,
    /// The base's distribution's packages on top of the required ones.
    pub packages: Vec<String>,
    /// The engine that is laid on top; none where the repository's own command is one.
    pub engine: Option<EngineImage>,
    /// The static `factory-agent` binary on this host.
    pub agent: PathBuf,
}

/// Content address of an image (`sha256:…`); never a moving tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageId(pub(super) String);

impl ImageId {
    /// The id as the engine writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One layer of ours; each is an image with a tag of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    /// What the repository's own Dockerfile makes.
    Own,
    /// The base with the packages.
    Base,
    /// The engine on it.
    Engine,
    /// `factory-agent` and the mount points.
    Agent,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "own",
            Self::Base => "base",
            Self::Engine => "engine",
            Self::Agent => "agent",
        })
    }
}

/// What a build is doing, for whoever watches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Another build runs on this engine; this one begins when it has ended.
    Waiting,
    /// A layer was found under its tag and is used as it is.
    Found {
        /// Which one.
        layer: Layer,
        /// Its tag.
        tag: String,
    },
    /// A layer is being made.
    Started {
        /// Which one.
        layer: Layer,
        /// The tag it will have.
        tag: String,
    },
    /// A line of output.
    Line {
        /// The layer being made.
        layer: Layer,
        /// Without its line end.
        text: String,
    },
    /// Bytes moved so far.
    Bytes {
        /// The layer being made.
        layer: Layer,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// A layer is finished.
    Done {
        /// Which one.
        layer: Layer,
        /// Its tag.
        tag: String,
    },
}

/// The tag of the finished image, `factory-agent:<12 hex>`: a hash of every
/// input, so equal inputs name the same image on every host.
///
/// # Errors
/// When the agent binary cannot be read, or a base or package name is malformed.
pub fn tag(request: &ImageRequest) -> Result<String, ImageError> {
    Ok(Names::of(request)?.agent)
}

/// The tags of all layers of a request, the base's first.
///
/// # Errors
/// As [`tag`].
pub fn tags(request: &ImageRequest) -> Result<Vec<String>, ImageError> {
    let names = Names::of(request)?;
    let mut tags = vec![names.base];
    tags.extend(names.engine);
    tags.push(names.agent);
    Ok(tags)
}

/// The tags of all layers of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) base: String,
    pub(super) engine: Option<String>,
    pub(super) agent: String,
    /// Required and asked-for packages, sorted, each once.
    pub(super) packages: Vec<String>,
    /// The agent binary, read once so that hash and content agree.
    pub(super) agent_binary: Vec<u8>,
}

impl Names {
    pub(super) fn of(request: &ImageRequest) -> Result<Self, ImageError> {
        check_base(&request.base)?;
        let packages = packages(&request.packages, request.engine)?;
        let agent_binary = std::fs::read(&request.agent).map_err(|source| ImageError::Agent {
            path: request.agent.clone(),
            source,
        })?;

        let bootstrap = super::bootstrap::arguments("SUITE", "PACKAGES").join("\0");
        let joined = packages.join(" ");
        let base_hash = hash(&[
            b"base",
            BASE_RECIPE.as_bytes(),
            bootstrap.as_bytes(),
            request.base.as_bytes(),
            joined.as_bytes(),
        ]);
        let engine_hash = request.engine.map(|engine| {
            hash(&[
                b"engine",
                base_hash.as_bytes(),
                ENGINE_RECIPE.as_bytes(),
                fetch_script(&engine).as_bytes(),
                engine.requirements.join(" ").as_bytes(),
                engine.probe.join(" ").as_bytes(),
                engine.version.as_bytes(),
            ])
        });
        let parent = engine_hash.as_ref().unwrap_or(&base_hash);
        let agent_hash = hash(&[
            b"agent",
            parent.as_bytes(),
            AGENT_RECIPE.as_bytes(),
            format!("{:?}", super::context::MOUNT_POINTS).as_bytes(),
            &agent_binary,
        ]);
        Ok(Self {
            base: format!("factory-base:{base_hash}"),
            engine: engine_hash.map(|hash| format!("factory-engine:{hash}")),
            agent: format!("factory-agent:{agent_hash}"),
            packages,
            agent_binary,
        })
    }
}

/// The hash part of one of our tags, for the label `factory.inputs`.
pub(super) fn inputs_of(tag: &str) -> &str {
    tag.split_once(':').map_or(tag, |(_, hash)| hash)
}

/// Twelve hexadecimal digits over all parts; each part's length goes in too, so
/// that moving a byte from one part to the next changes the hash.
pub(super) fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher
        .finalize()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Image references reach a Dockerfile, so nothing but their own characters may.
fn check_base(base: &str) -> Result<(), ImageError> {
    let starts_well = base.starts_with(|c: char| c.is_ascii_alphanumeric());
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if starts_well && base.len() <= 256 && base.chars().all(allowed) {
        Ok(())
    } else {
        Err(ImageError::Base {
            name: base.to_owned(),
        })
    }
}

/// The whole script that fetches an engine.
pub(super) fn fetch_script(engine: &EngineImage) -> String {
    format!("{FETCH}{}", engine.fetch)
}

fn packages(asked: &[String], engine: Option<EngineImage>) -> Result<Vec<String>, ImageError> {
    let engines = engine.map_or(&[][..], |engine| engine.packages);
    let required = REQUIRED_PACKAGES.iter().chain(engines);
    let mut all: BTreeSet<String> = required.map(|&name| name.to_owned()).collect();
    for name in asked {
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        let allowed = |c: char| c.is_ascii_alphanumeric() || "+.-_".contains(c);
        // apt reads a trailing `-` as "remove" and `+` as "install".
        let ends_well = !name.ends_with('-') && (!name.ends_with('+') || name.ends_with("++"));
        if name.len() < 2 || !starts_well || !name.chars().all(allowed) || !ends_well {
            return Err(ImageError::Package { name: name.clone() });
        }
        all.insert(name.clone());
    }
    Ok(all.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use factory_core::engine::ENGINES;

    fn request(dir: &tempfile::TempDir) -> ImageRequest {
        let agent = dir.path().join("factory-agent");
        std::fs::write(&agent, b"binary").unwrap();
        ImageRequest {
            base: "debian:bookworm-slim".to_owned(),
            packages: vec!["python3".to_owned()],
            engine: Some(ENGINES[0].image),
            agent,
        }
    }

    #[test]
    fn every_input_changes_the_tag_and_only_the_layers_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = request(&dir);
        let names = Names::of(&first).unwrap();
        assert_eq!(names, Names::of(&first).unwrap());
        assert_eq!(names.agent.len(), "factory-agent:".len() + 12);

        let other_base = Names::of(&ImageRequest {
            base: "debian:trixie-slim".to_owned(),
            ..first.clone()
        })
        .unwrap();
        assert_ne!(names.base, other_base.base);
        assert_ne!(names.engine, other_base.engine);
        assert_ne!(names.agent, other_base.agent);

        let other_engine = Names::of(&ImageRequest {
            engine: None,
            ..first.clone()
        })
        .unwrap();
        assert_eq!(names.base, other_engine.base);
        assert_ne!(names.agent, other_engine.agent);

        let mut changed = ENGINES[0].image;
        changed.version = "another";
        let other_version = Names::of(&ImageRequest {
            engine: Some(changed),
            ..first.clone()
        })
        .unwrap();
        assert_eq!(names.base, other_version.base);
        assert_ne!(names.engine, other_version.engine);

        let mut hungry = ENGINES[0].image;
        hungry.packages = &["tcl"];
        let more_packages = Names::of(&ImageRequest {
            engine: Some(hungry),
            ..first.clone()
        })
        .unwrap();
        assert_ne!(names.base, more_packages.base);

        std::fs::write(&first.agent, b"other binary").unwrap();
        let other_agent = Names::of(&first).unwrap();
        assert_eq!(names.engine, other_agent.engine);
        assert_ne!(names.agent, other_agent.agent);
    }

    #[test]
    fn package_order_and_repetition_do_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let first = ImageRequest {
            packages: vec!["jq".to_owned(), "make".to_owned()],
            ..request(&dir)
        };
        let same = ImageRequest {
            packages: vec![
                "make".to_owned(),
                "jq".to_owned(),
                "git".to_owned(),
                "jq".to_owned(),
            ],
            ..first.clone()
        };
        assert_eq!(tag(&first).unwrap(), tag(&same).unwrap());
    }

    #[test]
    fn names_that_would_reach_a_shell_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in [
            "",
            "x",
            "a b",
            "$(id)",
            "-y",
            "git-",
            "foo+",
            "a;b",
            "a\nRUN id",
            "../x",
            "@group",
        ] {
            let refused = tag(&ImageRequest {
                packages: vec![bad.to_owned()],
                ..request(&dir)
            });
            assert!(
                matches!(refused, Err(ImageError::Package { .. })),
                "{bad:?} was accepted"
            );
        }
        // Some distributions' names have capitals.
        for good in [
            "g++",
            "libstdc++6",
            "python3.11",
            "openjdk-17-jdk-headless",
            "perl-JSON",
        ] {
            assert!(
                tag(&ImageRequest {
                    packages: vec![good.to_owned()],
                    ..request(&dir)
                })
                .is_ok(),
                "{good}"
            );
        }
        for bad in ["", "debian bookworm", "x\nRUN id", "$BASE", "-x"] {
            let refused = tag(&ImageRequest {
                base: bad.to_owned(),
                ..request(&dir)
            });
            assert!(
                matches!(refused, Err(ImageError::Base { .. })),
                "{bad:?} was accepted"
            );
        }
    }

    #[test]
    fn a_missing_agent_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let request = ImageRequest {
            agent: dir.path().join("absent"),
            ..request(&dir)
        };
        let error = tag(&request).unwrap_err();
        assert!(matches!(&error, ImageError::Agent { path, .. } if *path == request.agent));
    }
}
