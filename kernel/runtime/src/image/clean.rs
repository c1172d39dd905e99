//! Removes what a broken build left on the engine. Only called while holding
//! the build lock, so nothing it finds is still being made.

use bollard::Docker;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder,
};
use std::collections::HashMap;

/// Label on the container that tries an engine; images never carry it.
pub(super) const CHECK_LABEL: &str = "factory.build=check";

/// Removes leftover containers and untagged images of ours. Failures are logged
/// only: whoever cleans up has a better error to report, or none.
pub(super) async fn sweep(docker: &Docker) {
    for container in containers(docker, "label", CHECK_LABEL).await {
        remove_container(docker, &container.0).await;
    }
    let filters = HashMap::from([
        ("dangling", vec!["true".to_owned()]),
        ("label", vec!["factory.image=1".to_owned()]),
    ]);
    let options = ListImagesOptionsBuilder::default()
        .filters(&filters)
        .build();
    let images = match docker.list_images(Some(options)).await {
        Ok(images) => images,
        Err(error) => {
            tracing::warn!(%error, "cannot list leftover images");
            return;
        }
    };
    for image in images {
        for (id, is_ours_to_keep) in containers(docker, "ancestor", &image.id).await {
            if !is_ours_to_keep {
                remove_container(docker, &id).await;
            }
        }
        let options = RemoveImageOptionsBuilder::default().build();
        match docker.remove_image(&image.id, Some(options), None).await {
            Ok(_) => tracing::debug!(image = image.id, "removed a leftover image"),
            Err(error) => {
                tracing::warn!(%error, image = image.id, "cannot remove a leftover image")
            }
        }
    }
}

/// Ids of matching containers, and whether each is a run's or has a name of ours
/// (a build's own step containers have neither).
async fn containers(docker: &Docker, filter: &str, value: &str) -> Vec<(String, bool)> {
    let filters = HashMap::from([(filter, vec![value.to_owned()])]);
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&filters)
        .build();
    match docker.list_containers(Some(options)).await {
        Ok(found) => found
            .into_iter()
            .filter_map(|container| {
                let named = container
                    .names
                    .iter()
                    .flatten()
                    .any(|name| name.starts_with("/factory-"));
                let run = container
                    .labels
                    .iter()
                    .flatten()
                    .any(|(label, _)| label == "factory.run");
                container.id.map(|id| (id, named || run))
            })
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "cannot list leftover containers");
            Vec::new()
        }
    }
}

/// Removes a container, running or not.
pub(super) async fn remove_container(docker: &Docker, name: &str) {
    let options = RemoveContainerOptionsBuilder::default()
        .force(true)
        .v(true)
        .build();
    match docker.remove_container(name, Some(options)).await {
        Ok(()) => {}
        Err(bollard::errors::Error::DockerResponseServerError {
            status_code: 404 | 409,
            ..
        }) => {
            tracing::debug!(container = name, "already gone or going");
        }
        Err(error) => {
            tracing::warn!(%error, container = name, "cannot remove a leftover container")
        }
    }
}
