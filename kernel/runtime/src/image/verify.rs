//! Tries a program in an image, the way a run would: no network, no
//! capabilities, not as root.

use super::ImageError;
use super::clean::{CHECK_LABEL, remove_container};
use super::request::ImageId;
use crate::docker::{is_podman, ulimits};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, LogsOptionsBuilder};
use factory_core::engine::EngineImage;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::time::Duration;

/// A version is printed within a second; a loaded machine may need longer.
const LIMIT: Duration = Duration::from_secs(120);

/// Checks that `engine` tells its pinned version in `image`.
pub(super) async fn engine(
    docker: &Docker,
    engine: &EngineImage,
    image: &ImageId,
    inputs: &str,
    base: &str,
) -> Result<(), ImageError> {
    let output = match attempt(docker, image, inputs, engine.probe).await? {
        Attempt {
            code: Some(0),
            output,
        } if tells(&output, engine.version) => return Ok(()),
        Attempt {
            code: Some(0) | None,
            output,
        } => output,
        Attempt {
            code: Some(code),
            output,
        } => format!("exit code {code}: {output}"),
    };
    let program = engine.probe.first().copied().unwrap_or_default();
    Err(ImageError::EngineDoesNotRun {
        program: format!("{program} {}", engine.version),
        base: base.to_owned(),
        detail: format!("`{}` gave: {}", engine.probe.join(" "), output.trim()),
    })
}

/// Whether `version` stands in `output` as a word of its own.
fn tells(output: &str, version: &str) -> bool {
    output
        .split_whitespace()
        .any(|word| word.trim_end_matches('.') == version)
}

/// Prints what the fetching of any engine cannot do without, as `EngineImage::lacks`.
const FETCH_LACKS: &str = "command -v apt-get >/dev/null || command -v apk >/dev/null || \
     command -v dnf >/dev/null || python3 -m pip --version >/dev/null 2>&1 || \
     echo 'pip, and no apt-get, apk or dnf to install it'\n";

/// Checks, before much is fetched, that an engine can work on the base.
pub(super) async fn suits(
    docker: &Docker,
    engine: &EngineImage,
    base_tag: &str,
    inputs: &str,
    base: &str,
) -> Result<(), ImageError> {
    let mark = format!("{inputs}-base");
    let image = ImageId(base_tag.to_owned());
    let script = format!("{}{FETCH_LACKS}true", engine.lacks);
    let detail = match attempt(docker, &image, &mark, &["/bin/sh", "-c", &script]).await? {
        Attempt {
            code: Some(0),
            output,
        } if output.trim().is_empty() => return Ok(()),
        Attempt {
            code: Some(0),
            output,
        } => {
            let lacks: Vec<&str> = output.trim().lines().collect();
            format!("the base has no {}", lacks.join(", no "))
        }
        Attempt { output, .. } => format!("no shell runs in it: {}", output.trim()),
    };
    let program = engine.probe.first().copied().unwrap_or_default();
    Err(ImageError::EngineDoesNotRun {
        program: format!("{program} {}", engine.version),
        base: base.to_owned(),
        detail,
    })
}

/// What came of running a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its exit code; none where it could not be started, or did not end in time.
    pub code: Option<i64>,
    /// What it printed, or why there is no code.
    pub output: String,
}

/// Runs a program in an image to its end, within two minutes: no network, no
/// capabilities, not as root, nothing of this host. `mark` tells the container's
/// name from others' at the same time.
///
/// # Errors
/// When the engine does not do it.
pub async fn attempt(
    docker: &Docker,
    image: &ImageId,
    mark: &str,
    argv: &[&str],
) -> Result<Attempt, ImageError> {
    let name = format!("factory-image-check-{mark}");
    let outcome = match tokio::time::timeout(LIMIT, run(docker, image, &name, argv)).await {
        Ok(outcome) => outcome,
        Err(_) => Ok(Attempt {
            code: None,
            output: format!("no answer within {} s", LIMIT.as_secs()),
        }),
    };
    remove_container(docker, &name).await;
    outcome
}

async fn run(
    docker: &Docker,
    image: &ImageId,
    name: &str,
    argv: &[&str],
) -> Result<Attempt, ImageError> {
    let version = docker.version().await;
    let podman = is_podman(&version.map_err(ImageError::engine("tell its version"))?);
    let (label, value) = CHECK_LABEL.split_once('=').unwrap_or((CHECK_LABEL, ""));
    let body = ContainerCreateBody {
        image: Some(image.as_str().to_owned()),
        entrypoint: Some(Vec::new()),
        cmd: Some(argv.iter().map(|&word| word.to_owned()).collect()),
        env: Some(vec![
            "HOME=/tmp".to_owned(),
            // As in a run, whatever the image says.
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            "DISABLE_AUTOUPDATER=1".to_owned(),
        ]),
        user: Some("10001:10001".to_owned()),
        working_dir: Some("/tmp".to_owned()),
        labels: Some(HashMap::from([(label.to_owned(), value.to_owned())])),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            memory: Some(512 << 20),
            pids_limit: Some(128),
            ulimits: Some(ulimits(podman)),
            tmpfs: Some(HashMap::from([(
                "/tmp".to_owned(),
                "rw,exec,nosuid,nodev,size=64m".to_owned(),
            )])),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    docker
        .create_container(Some(options), body)
        .await
        .map_err(ImageError::engine(
            "create the container that tries a program",
        ))?;
    match docker
        .start_container(
            name,
            None::<bollard::query_parameters::StartContainerOptions>,
        )
        .await
    {
        Ok(()) => {}
        // The program cannot be started at all: wrong processor, or no loader.
        Err(bollard::errors::Error::DockerResponseServerError { message, .. }) => {
            return Ok(Attempt {
                code: None,
                output: message,
            });
        }
        Err(error) => {
            return Err(ImageError::engine(
                "start the container that tries a program",
            )(error));
        }
    }
    // Following the log ends when the container does, however early that was.
    let options = LogsOptionsBuilder::default()
        .follow(true)
        .stdout(true)
        .stderr(true)
        .build();
    let mut logs = std::pin::pin!(docker.logs(name, Some(options)));
    let mut output = String::new();
    while let Some(chunk) = logs.next().await {
        let chunk = chunk.map_err(ImageError::engine("read what a program printed"))?;
        output.push_str(&String::from_utf8_lossy(&chunk.into_bytes()));
    }
    let inspected = docker
        .inspect_container(
            name,
            None::<bollard::query_parameters::InspectContainerOptions>,
        )
        .await
        .map_err(ImageError::engine(
            "inspect the container that tried a program",
        ))?;
    Ok(Attempt {
        code: inspected.state.and_then(|state| state.exit_code),
        output,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_whole_word() {
        for output in [
            "2.1.329 (Claude Code)\n",
            "codex-cli 2.1.329\n",
            "This is mini-swe-agent version 2.1.329.\nUsage: mini",
        ] {
            assert!(tells(output, "2.1.329"), "{output}");
        }
        for output in ["", "12.1.329", "exit code 1: 2.1.3290"] {
            assert!(!tells(output, "2.1.329"), "{output}");
        }
    }
}
