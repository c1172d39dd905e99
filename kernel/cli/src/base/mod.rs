//! What an image begins with: an image by name, or one that the repository
//! itself describes, by a Dockerfile or a `devcontainer.json`. All of it is read
//! from a commit, never from a work tree.

mod context;
mod devcontainer;
mod dockerfile;
mod patterns;

use crate::failure::{Class, Failure};
use factory_core::{
    config::{DEFAULT_BASE, Image},
    ids::Oid,
};
use factory_ledger::user::UserRepo;
use factory_runtime::image::OwnBase;
use std::collections::BTreeMap;

/// Largest `devcontainer.json`, in bytes.
const LIMIT: u64 = 1 << 20;

/// Where an image begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Name of the image.
    pub name: String,
    /// How that image is made, where the repository makes it.
    pub recipe: Option<Recipe>,
    /// What was passed over, for people.
    pub notes: Vec<String>,
}

/// A Dockerfile of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The commit that everything is read from.
    commit: Oid,
    /// Its path.
    dockerfile: String,
    /// The folder that is sent to the engine; `""` for the whole repository.
    context: String,
    args: BTreeMap<String, String>,
    target: Option<String>,
}

/// The base that a configuration asks for at a commit.
pub fn base_of(user: &UserRepo, commit: &Oid, image: &Image) -> Result<Base, Failure> {
    if let Some(base) = &image.base {
        return Ok(named(base));
    }
    let (recipe, notes) = match &image.dockerfile {
        Some(path) => {
            let recipe = Recipe {
                commit: commit.clone(),
                dockerfile: path.clone(),
                context: String::new(),
                args: BTreeMap::new(),
                target: None,
            };
            (recipe, Vec::new())
        }
        None => match devcontainer(user, commit)? {
            Some((devcontainer::Wants::Image(name), notes)) => {
                return Ok(Base {
                    notes,
                    ..named(&name)
                });
            }
            Some((devcontainer::Wants::Build(build), notes)) => {
                let recipe = Recipe {
                    commit: commit.clone(),
                    dockerfile: build.dockerfile,
                    context: build.context,
                    args: build.args,
                    target: build.target,
                };
                (recipe, notes)
            }
            None => return Ok(named(DEFAULT_BASE)),
        },
    };
    let (name, more) = context::name(user, &recipe)?;
    let notes = notes.into_iter().chain(more).collect();
    Ok(Base {
        name,
        recipe: Some(recipe),
        notes,
    })
}

fn named(name: &str) -> Base {
    Base {
        name: name.to_owned(),
        recipe: None,
        notes: Vec::new(),
    }
}

/// What the commit's `devcontainer.json` says, and what of it is passed over.
fn devcontainer(
    user: &UserRepo,
    commit: &Oid,
) -> Result<Option<(devcontainer::Wants, Vec<String>)>, Failure> {
    let mut found = user.read_files(commit, &devcontainer::PLACES, LIMIT)?;
    for path in devcontainer::PLACES {
        let Some(bytes) = found.remove(path) else {
            continue;
        };
        let wrong = |what: String| {
            Failure::new(
                Class::Config,
                format!("{path} (commit {}): {what}", commit.short()),
            )
            .help("mend it, or write image.base into factory.yaml: then it is not read")
        };
        let text = String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8 text".to_owned()))?;
        return devcontainer::read(path, &text).map(Some).map_err(wrong);
    }
    Ok(None)
}

impl Recipe {
    /// All that the engine gets to build it.
    pub fn load(&self, user: &UserRepo, name: &str) -> Result<OwnBase, Failure> {
        context::load(user, self, name)
    }
}
