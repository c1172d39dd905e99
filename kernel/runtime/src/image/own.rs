//! A base that the repository itself describes with a Dockerfile.

use super::context::Context;
use super::request::{Layer, Progress, hash};
use super::{HostNetwork, ImageError, build, clean, lock};
use bollard::Docker;
use std::collections::{BTreeMap, HashMap};

/// Under which name the Dockerfile is sent, beside the repository's own files.
const DOCKERFILE: &str = ".factory.Dockerfile";

/// A base to be built.
#[derive(Debug, Clone)]
pub struct OwnBase {
    /// The name it gets, from [`own_tag`].
    pub tag: String,
    /// The Dockerfile's text.
    pub dockerfile: String,
    /// The context.
    pub files: Vec<OwnFile>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// The stage to stop at.
    pub target: Option<String>,
}

/// A file or link of a context.
#[derive(Debug, Clone)]
pub struct OwnFile {
    path: String,
    kind: Kind,
    content: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    Program,
    Link,
}

impl OwnFile {
    /// A regular file.
    pub fn file(path: String, executable: bool, content: Vec<u8>) -> Self {
        let kind = match executable {
            true => Kind::Program,
            false => Kind::Plain,
        };
        Self {
            path,
            kind,
            content,
        }
    }

    /// A symbolic link, with where it leads.
    pub fn link(path: String, target: Vec<u8>) -> Self {
        Self {
            path,
            kind: Kind::Link,
            content: target,
        }
    }
}

/// The name of a base made from these inputs.
pub fn own_tag(inputs: &[&[u8]]) -> String {
    let mut parts: Vec<&[u8]> = vec![b"own"];
    parts.extend(inputs);
    format!("factory-own:{}", hash(&parts))
}

/// Builds a base under its name. Docker's own cache of build steps is used, as
/// for any Dockerfile of a user's.
///
/// # Errors
/// Every [`ImageError`] says what to do next.
pub async fn build_own(
    docker: &Docker,
    own: &OwnBase,
    host: &HostNetwork,
    cancel: impl Future<Output = ()> + Send,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<(), ImageError> {
    let docker = &docker.clone().with_timeout(build::LONGEST_CALL);
    let mut cancel = std::pin::pin!(cancel);
    let engine_id = lock::key(docker).await?;
    let held = tokio::select! {
        held = lock::acquire(&engine_id, || progress(Progress::Waiting)) => held?,
        () = &mut cancel => return Err(ImageError::Cancelled),
    };
    clean::sweep(docker).await;
    let work = async {
        let (layer, tag) = (Layer::Own, own.tag.clone());
        progress(Progress::Started {
            layer,
            tag: tag.clone(),
        });
        let options = build::options(host, true)
            .dockerfile(DOCKERFILE)
            .labels(&HashMap::from([
                ("factory.image", "1"),
                ("factory.layer", "own"),
            ]));
        let mut arguments = host.build_args();
        arguments.extend(own.args.clone());
        let mut options = options.buildargs(&arguments);
        if let Some(target) = &own.target {
            options = options.target(target);
        }
        let id =
            build::stream(docker, layer, options.build(), context(own)?, &mut progress).await?;
        build::name(docker, &id, &own.tag).await?;
        progress(Progress::Done { layer, tag });
        Ok(())
    };
    let result = tokio::select! {
        result = work => result,
        () = &mut cancel => Err(ImageError::Cancelled),
    };
    clean::sweep(docker).await;
    drop(held);
    result
}

fn context(own: &OwnBase) -> Result<bytes::Bytes, ImageError> {
    let mut context = Context::empty();
    context.file(DOCKERFILE, 0o644, own.dockerfile.as_bytes())?;
    for file in own.files.iter().filter(|file| file.path != DOCKERFILE) {
        match file.kind {
            Kind::Plain => context.file(&file.path, 0o644, &file.content)?,
            Kind::Program => context.file(&file.path, 0o755, &file.content)?,
            Kind::Link => context.link(&file.path, &file.content)?,
        }
    }
    context.finish()
}
