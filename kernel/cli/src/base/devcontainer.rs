//! `devcontainer.json`: which image it wants. Everything else in it is for
//! editors, and is passed over with a word.

use jsonc_parser::{ParseOptions, parse_to_serde_value};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Where it is looked for, the usual place first.
pub const PLACES: [&str; 2] = [".devcontainer/devcontainer.json", ".devcontainer.json"];

/// What says how an image is had.
const READ: [&str; 5] = ["image", "build", "dockerFile", "context", "name"];

/// The image that it wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Wants {
    /// One by name.
    Image(String),
    /// One that is built.
    Build(Build),
}

/// How it is built; paths are from the top of the repository.
#[derive(Debug, PartialEq, Eq)]
pub struct Build {
    /// The Dockerfile.
    pub dockerfile: String,
    /// The folder that is sent along; `""` for the whole repository.
    pub context: String,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// The stage to stop at.
    pub target: Option<String>,
}

/// Reads it. The second part is what was passed over; the error is what is wrong.
pub fn read(path: &str, text: &str) -> Result<(Wants, Vec<String>), String> {
    let parsed: Option<Value> = parse_to_serde_value(text, &ParseOptions::default())
        .map_err(|error| format!("no JSON that can be read: {error}"))?;
    let Some(Value::Object(all)) = parsed else {
        return Err("holds no JSON object".to_owned());
    };
    let mut notes = Vec::new();
    let passed_over: Vec<&str> = all
        .keys()
        .map(String::as_str)
        .filter(|key| !READ.contains(key))
        .collect();
    if !passed_over.is_empty() {
        notes.push(format!(
            "{path}: only image and build are read; passed over: {}",
            passed_over.join(", ")
        ));
    }
    if let Some(image) = all.get("image") {
        return Ok((Wants::Image(plain("image", image)?), notes));
    }
    let empty = Map::new();
    let build = match all.get("build") {
        Some(build) => build.as_object().ok_or("build is no object")?,
        None => &empty,
    };
    // The older names are at the top.
    let file = build.get("dockerfile").or_else(|| all.get("dockerFile"));
    let Some(file) = file else {
        return Err("names neither an image nor build.dockerfile".to_owned());
    };
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let dockerfile = inside(dir, &plain("build.dockerfile", file)?)?;
    let context = build.get("context").or_else(|| all.get("context"));
    let context = match context {
        Some(context) => inside(dir, &plain("build.context", context)?)?,
        None => dir.to_owned(),
    };
    let mut args = BTreeMap::new();
    if let Some(given) = build.get("args") {
        let given = given.as_object().ok_or("build.args is no object")?;
        for (name, value) in given {
            args.insert(name.clone(), plain(&format!("build.args.{name}"), value)?);
        }
    }
    let target = build.get("target");
    let target = target
        .map(|target| plain("build.target", target))
        .transpose()?;
    let more: Vec<&str> = build
        .keys()
        .map(String::as_str)
        .filter(|key| !["dockerfile", "context", "args", "target"].contains(key))
        .collect();
    if !more.is_empty() {
        notes.push(format!("{path}: passed over in build: {}", more.join(", ")));
    }
    let build = Build {
        dockerfile,
        context,
        args,
        target,
    };
    Ok((Wants::Build(build), notes))
}

/// A text without variables: an editor would fill them in, and here is none.
fn plain(key: &str, value: &Value) -> Result<String, String> {
    let text = value.as_str().ok_or(format!("{key} is no text"))?;
    match text.contains("${") {
        true => Err(format!(
            "{key} uses a variable (`{text}`), and no editor fills it in here"
        )),
        false => Ok(text.to_owned()),
    }
}

/// A path from `dir`, as one from the top of the repository.
fn inside(dir: &str, path: &str) -> Result<String, String> {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts
                    .pop()
                    .ok_or(format!("`{path}` leads out of the repository"))?;
            }
            part => parts.push(part),
        }
    }
    match path.starts_with('/') {
        true => Err(format!("`{path}` leads out of the repository")),
        false => Ok(parts.join("/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(dockerfile: &str, context: &str) -> Wants {
        Wants::Build(Build {
            dockerfile: dockerfile.to_owned(),
            context: context.to_owned(),
            args: BTreeMap::new(),
            target: None,
        })
    }

    #[test]
    fn images_and_builds_are_read() {
        let usual = PLACES[0];
        let (wants, notes) = read(
            usual,
            "// For details, see https://aka.ms/devcontainer.json\n{\n  \"name\": \"x\",\n  /* why */\n  \
             \"image\": \"mcr.microsoft.com/devcontainers/rust:1\",\n  \"features\": {\"a\": {}},\n  \
             \"forwardPorts\": [1,],\n}\n",
        )
        .unwrap();
        assert_eq!(
            wants,
            Wants::Image("mcr.microsoft.com/devcontainers/rust:1".to_owned())
        );
        assert_eq!(notes.len(), 1);
        assert!(
            notes[0].contains("features") && notes[0].contains("forwardPorts"),
            "{notes:?}"
        );
        assert!(!notes[0].contains("name"), "{notes:?}");

        let rows = [
            (
                "{\"build\": {\"dockerfile\": \"Dockerfile\"}}",
                ".devcontainer/Dockerfile",
                ".devcontainer",
            ),
            (
                "{\"build\": {\"dockerfile\": \"../Dockerfile\", \"context\": \"..\"}}",
                "Dockerfile",
                "",
            ),
            (
                "{\"dockerFile\": \"./D\", \"context\": \"../a\"}",
                ".devcontainer/D",
                "a",
            ),
        ];
        for (text, dockerfile, context) in rows {
            assert_eq!(
                read(usual, text).unwrap(),
                (build(dockerfile, context), Vec::new()),
                "{text}"
            );
        }
        let (wants, _) = read(PLACES[1], "{\"build\": {\"dockerfile\": \"D\"}}").unwrap();
        assert_eq!(wants, build("D", ""));

        let text = "{\"build\": {\"dockerfile\": \"D\", \"args\": {\"A\": \"1\"}, \"target\": \"dev\", \"cacheFrom\": \"x\"}}";
        let (wants, notes) = read(usual, text).unwrap();
        let Wants::Build(build) = wants else {
            panic!("{wants:?}");
        };
        assert_eq!(
            (build.args["A"].as_str(), build.target.as_deref()),
            ("1", Some("dev"))
        );
        assert!(notes[0].contains("cacheFrom"), "{notes:?}");
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let rows = [
            ("{", "no JSON"),
            ("[]", "no JSON object"),
            ("", "no JSON object"),
            ("{\"dockerComposeFile\": \"x\"}", "neither an image nor"),
            ("{\"image\": 3}", "image is no text"),
            ("{\"image\": \"${localEnv:X}\"}", "uses a variable"),
            ("{\"build\": []}", "build is no object"),
            ("{\"build\": {\"dockerfile\": \"../../D\"}}", "leads out"),
            ("{\"build\": {\"dockerfile\": \"/D\"}}", "leads out"),
            (
                "{\"build\": {\"dockerfile\": \"D\", \"args\": {\"A\": 1}}}",
                "build.args.A is no text",
            ),
        ];
        for (text, part) in rows {
            let why = read(PLACES[0], text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
