//! Finding an image, or building the layers it lacks.

use super::bootstrap::{
    Leaving, Plan, bootstrap, host_is_debian, suite_of, tool_is_there, wait_for_leavers,
};
use super::context::{Context, MOUNT_POINTS, fill};
use super::error::{says_disk_full, unknown_package};
use super::request::{
    AGENT_RECIPE, BASE_RECIPE, ENGINE_RECIPE, ImageRequest, Layer, Names, Progress, fetch_script,
    inputs_of,
};
use super::{HostNetwork, ImageError, ImageId, clean, host, lock, pull, verify};
use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{
    BuildImageOptions, BuildImageOptionsBuilder, TagImageOptionsBuilder,
};
use bytes::Bytes;
use factory_core::engine::EngineImage;
use futures_util::StreamExt;
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

/// The engine answers an import only when all of it has arrived.
pub(super) const LONGEST_CALL: Duration = Duration::from_secs(60 * 60);
/// Lines of a failed step that go into its error.
const SHOWN_LINES: usize = 8;

/// The image under `tag`, if the engine has it: one call.
///
/// # Errors
/// When the engine does not answer.
pub async fn find(docker: &Docker, tag: &str) -> Result<Option<ImageId>, ImageError> {
    match docker.inspect_image(tag).await {
        Ok(image) => Ok(image.id.map(ImageId)),
        Err(Error::DockerResponseServerError {
            status_code: 404, ..
        }) => Ok(None),
        Err(source) => Err(ImageError::engine("look for an image")(source)),
    }
}

/// Where a build would get a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseSource {
    /// The engine has it.
    Here,
    /// A registry has it.
    Registry,
    /// It is made from Debian packages on this host, as no registry gave it.
    Packages,
    /// From nowhere; with the registry's or the engine's words.
    Nowhere(String),
}

/// Looks where a build would get `base`, asking a registry for at most `limit`.
///
/// # Errors
/// When the engine does not answer.
pub async fn base_source(
    docker: &Docker,
    base: &str,
    limit: Duration,
) -> Result<BaseSource, ImageError> {
    if find(docker, base).await?.is_some() {
        return Ok(BaseSource::Here);
    }
    let asked = tokio::time::timeout(limit, docker.inspect_registry_image(base, None)).await;
    let why = match asked {
        Ok(Ok(_)) => return Ok(BaseSource::Registry),
        Ok(Err(Error::DockerResponseServerError { message, .. })) => message.trim().to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the registry did not answer for {} s", limit.as_secs()),
    };
    let is_made = suite_of(base).is_some() && host_is_debian(Path::new("/etc/os-release"));
    match is_made && tool_is_there() {
        true => Ok(BaseSource::Packages),
        false => Ok(BaseSource::Nowhere(why)),
    }
}

/// Makes sure that the engine has the image of `request`, building only the
/// layers it lacks, and returns its id. With everything there this is one call.
///
/// `cancel` ends the build when it completes. Whatever ends it, finished layers
/// stay, and nothing half-done does: what a killed process left behind is
/// removed by the next build. Builds on one engine wait for each other.
///
/// # Errors
/// Every [`ImageError`] says what to do next.
pub async fn build(
    docker: &Docker,
    request: &ImageRequest,
    host: &HostNetwork,
    cancel: impl Future<Output = ()> + Send,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<ImageId, ImageError> {
    let names = Names::of(request)?;
    if let Some(id) = find(docker, &names.agent).await? {
        progress(Progress::Found {
            layer: Layer::Agent,
            tag: names.agent,
        });
        return Ok(id);
    }
    let docker = &docker.clone().with_timeout(LONGEST_CALL);
    let mut cancel = std::pin::pin!(cancel);
    let engine_id = lock::key(docker).await?;
    let held = tokio::select! {
        held = lock::acquire(&engine_id, || progress(Progress::Waiting)) => held?,
        () = &mut cancel => return Err(ImageError::Cancelled),
    };
    clean::sweep(docker).await;
    let (leaving, left) = mpsc::channel(1);
    let result = tokio::select! {
        result = layers(docker, request, &names, host, leaving, &mut progress) => result,
        () = &mut cancel => Err(ImageError::Cancelled),
    };
    wait_for_leavers(left).await;
    // Also after success: the stages that only fetched have no name.
    clean::sweep(docker).await;
    drop(held);
    result
}

async fn layers(
    docker: &Docker,
    request: &ImageRequest,
    names: &Names,
    host: &HostNetwork,
    leaving: Leaving,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<ImageId, ImageError> {
    let mut last = None;
    let wanted = [
        (Layer::Base, Some(&names.base)),
        (Layer::Engine, names.engine.as_ref()),
        (Layer::Agent, Some(&names.agent)),
    ];
    for (layer, tag) in wanted {
        let Some(tag) = tag else { continue };
        if let Some(id) = find(docker, tag).await? {
            progress(Progress::Found {
                layer,
                tag: tag.clone(),
            });
            last = Some(id);
            continue;
        }
        progress(Progress::Started {
            layer,
            tag: tag.clone(),
        });
        let id = match layer {
            // Built before, by `build_own`.
            Layer::Own => continue,
            Layer::Base => base(docker, request, names, host, leaving.clone(), progress).await?,
            Layer::Engine => {
                let Some(wanted) = request.engine else {
                    continue;
                };
                verify::suits(docker, &wanted, &names.base, inputs_of(tag), &request.base).await?;
                let id = engine(docker, &wanted, &names.base, tag, host, progress).await?;
                // Before it gets its tag: a tagged layer is one that works.
                verify::engine(docker, &wanted, &id, inputs_of(tag), &request.base).await?;
                id
            }
            Layer::Agent => {
                let parent = names.engine.as_ref().unwrap_or(&names.base);
                agent(docker, parent, tag, &names.agent_binary, progress).await?
            }
        };
        name(docker, &id, tag).await?;
        progress(Progress::Done {
            layer,
            tag: tag.clone(),
        });
        last = Some(id);
    }
    last.ok_or_else(|| ImageError::Step {
        layer: Layer::Agent,
        detail: "no layer was asked for".to_owned(),
    })
}

async fn base(
    docker: &Docker,
    request: &ImageRequest,
    names: &Names,
    host: &HostNetwork,
    leaving: Leaving,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<ImageId, ImageError> {
    let base = request.base.as_str();
    if find(docker, base).await?.is_none()
        && let Err(reason) = pull::pull(docker, base, progress).await
    {
        if says_disk_full(&reason) {
            return Err(no_space(docker, Layer::Base).await);
        }
        let suite = suite_of(base).filter(|_| host_is_debian(Path::new("/etc/os-release")));
        let Some(suite) = suite else {
            return Err(ImageError::NoBase {
                base: base.to_owned(),
                reason,
            });
        };
        let plan = Plan {
            base,
            suite: &suite,
            packages: &names.packages,
            tag: &names.base,
            reason: &reason,
        };
        return bootstrap(docker, &plan, host, leaving, progress).await;
    }
    let dockerfile = fill(BASE_RECIPE, base, &names.base, &names.packages)
        .replace("@ASKED@", &request.packages.join(" "));
    let context = Context::new(&dockerfile)?.finish()?;
    step(docker, Layer::Base, context, host, progress).await
}

async fn engine(
    docker: &Docker,
    engine: &EngineImage,
    base: &str,
    tag: &str,
    host: &HostNetwork,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<ImageId, ImageError> {
    let mut context = Context::new(&fill(ENGINE_RECIPE, base, tag, &[]))?;
    let variables = format!(
        "ENGINE_REQUIREMENTS={}\n{}",
        host::shell_quote(&engine.requirements.join(" ")),
        host.pip_exports()
    );
    context.file("host/env.sh", 0o600, variables.as_bytes())?;
    context.file("host/fetch.sh", 0o600, fetch_script(engine).as_bytes())?;
    if let Some(certificates) = host.ca_certificates()? {
        context.file("host/ca.crt", 0o644, &certificates)?;
    }
    step(docker, Layer::Engine, context.finish()?, host, progress).await
}

async fn agent(
    docker: &Docker,
    parent: &str,
    tag: &str,
    binary: &[u8],
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<ImageId, ImageError> {
    let mut context = Context::new(&fill(AGENT_RECIPE, parent, tag, &[]))?;
    for (path, mode) in MOUNT_POINTS {
        context.directory(&format!("rootfs/{path}"), mode)?;
    }
    context.file("rootfs/usr/local/bin/factory-agent", 0o755, binary)?;
    step(
        docker,
        Layer::Agent,
        context.finish()?,
        &HostNetwork::default(),
        progress,
    )
    .await
}

/// Runs one classic build to its end and returns the untagged image.
async fn step(
    docker: &Docker,
    layer: Layer,
    context: Bytes,
    host: &HostNetwork,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<ImageId, ImageError> {
    // No builder cache: our tags are the cache, and a step that was cached with
    // last month's package lists would fail.
    let mut options = options(host, false);
    let arguments = host.build_args();
    if !arguments.is_empty() {
        options = options.buildargs(&arguments);
    }
    stream(docker, layer, options.build(), context, progress).await
}

/// How every build of ours is run.
pub(super) fn options(host: &HostNetwork, cache: bool) -> BuildImageOptionsBuilder {
    let options = BuildImageOptionsBuilder::default()
        .rm(true)
        .forcerm(true)
        .nocache(!cache);
    match host.needs_host_network() {
        true => options.networkmode("host"),
        false => options,
    }
}

/// The same, with all options given.
pub(super) async fn stream(
    docker: &Docker,
    layer: Layer,
    options: BuildImageOptions,
    context: Bytes,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<ImageId, ImageError> {
    let mut stream =
        std::pin::pin!(docker.build_image(options, None, Some(bollard::body_full(context))));
    let mut id = None;
    let mut tail: VecDeque<String> = VecDeque::new();
    while let Some(item) = stream.next().await {
        let info = match item {
            Ok(info) => info,
            Err(Error::DockerStreamError { error }) => {
                let shown = Vec::from(tail).join("\n");
                if says_disk_full(&error) || says_disk_full(&shown) {
                    return Err(no_space(docker, layer).await);
                }
                if let Some(name) = unknown_package(&shown) {
                    return Err(ImageError::NoPackage { name });
                }
                return Err(ImageError::Step {
                    layer,
                    detail: format!("{}\n{shown}", error.trim()),
                });
            }
            Err(source) => {
                return Err(engine_or_full(docker, layer, "build an image", source).await);
            }
        };
        if let Some(built) = info.aux.and_then(|aux| aux.id) {
            id = Some(ImageId(built));
        }
        for text in info
            .stream
            .iter()
            .flat_map(|text| text.lines())
            .filter(|text| !text.trim().is_empty())
        {
            if tail.len() == SHOWN_LINES {
                tail.pop_front();
            }
            tail.push_back(text.to_owned());
            progress(Progress::Line {
                layer,
                text: text.to_owned(),
            });
        }
    }
    id.ok_or_else(|| ImageError::Step {
        layer,
        detail: "the engine named no image at the end".to_owned(),
    })
}

pub(super) async fn name(docker: &Docker, id: &ImageId, tag: &str) -> Result<(), ImageError> {
    let (repository, tag) = tag.split_once(':').unwrap_or((tag, "latest"));
    let options = TagImageOptionsBuilder::default()
        .repo(repository)
        .tag(tag)
        .build();
    docker
        .tag_image(id.as_str(), Some(options))
        .await
        .map_err(ImageError::engine("name an image"))
}

/// An engine's error, or what it amounts to when the engine's disk is full.
pub(super) async fn engine_or_full(
    docker: &Docker,
    layer: Layer,
    operation: &'static str,
    source: Error,
) -> ImageError {
    if says_disk_full(&source.to_string()) {
        no_space(docker, layer).await
    } else {
        ImageError::engine(operation)(source)
    }
}

async fn no_space(docker: &Docker, layer: Layer) -> ImageError {
    let place = match docker.info().await {
        Ok(info) => info.docker_root_dir,
        Err(error) => {
            tracing::warn!(%error, "cannot ask the engine for its directory");
            None
        }
    };
    ImageError::NoSpace {
        layer,
        place: place.unwrap_or_else(|| "the engine's directory".to_owned()),
    }
}
