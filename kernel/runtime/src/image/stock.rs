//! The images of ours that an engine has, and taking some of them away.

use super::{ImageError, lock};
use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use std::collections::{BTreeSet, HashMap};

/// How names of ours begin. Others may carry our label: whatever is built on one of ours.
const NAMES: [&str; 4] = [
    "factory-own:",
    "factory-base:",
    "factory-engine:",
    "factory-agent:",
];

/// One image of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stocked {
    /// Its name.
    pub tag: String,
    /// Bytes, with those of the layers that it shares.
    pub bytes: u64,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// A container is made from it, running or not.
    pub used: bool,
}

/// All images of ours by name, of whatever factory.
///
/// # Errors
/// When the engine does not answer.
pub async fn stock(docker: &Docker) -> Result<Vec<Stocked>, ImageError> {
    let filters = HashMap::from([("label", vec!["factory.image=1"])]);
    let options = ListImagesOptionsBuilder::default()
        .filters(&filters)
        .build();
    let images = docker
        .list_images(Some(options))
        .await
        .map_err(ImageError::engine("list its images"))?;
    let options = ListContainersOptionsBuilder::default().all(true).build();
    let containers = docker
        .list_containers(Some(options))
        .await
        .map_err(ImageError::engine("list its containers"))?;
    let used: BTreeSet<String> = containers
        .into_iter()
        .filter_map(|container| container.image_id)
        .collect();
    let mut found = Vec::new();
    for image in images {
        let tags = image.repo_tags.iter();
        let tags = tags.filter(|tag| NAMES.iter().any(|name| tag.starts_with(name)));
        found.extend(tags.map(|tag| Stocked {
            tag: tag.clone(),
            bytes: u64::try_from(image.size).unwrap_or(0),
            created: image.created,
            used: used.contains(&image.id),
        }));
    }
    found.sort_by(|a, b| a.tag.cmp(&b.tag));
    Ok(found)
}

/// How taking an image away went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Removed,
    /// A container needs it.
    Used,
    /// Somebody else took it away.
    Gone,
}

/// Takes images away, while no image is being built on this engine. Layers that
/// another image stands on stay with it.
///
/// # Errors
/// When the engine does not do it.
pub async fn remove(
    docker: &Docker,
    tags: &[String],
    waiting: impl FnMut(),
) -> Result<Vec<Removal>, ImageError> {
    let engine_id = lock::key(docker).await?;
    let _held = lock::acquire(&engine_id, waiting).await?;
    let mut done = Vec::with_capacity(tags.len());
    for tag in tags {
        let options = RemoveImageOptionsBuilder::default().build();
        done.push(match docker.remove_image(tag, Some(options), None).await {
            Ok(_) => Removal::Removed,
            Err(Error::DockerResponseServerError {
                status_code: 409, ..
            }) => Removal::Used,
            Err(Error::DockerResponseServerError {
                status_code: 404, ..
            }) => Removal::Gone,
            Err(error) => return Err(ImageError::engine("remove an image")(error)),
        });
    }
    Ok(done)
}
