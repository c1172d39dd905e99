//! A disk that fills up while an image is built: on an engine of the test's
//! own, whose directory is a small file system.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use bollard::Docker;
use bollard::query_parameters::{
    ImportImageOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
};
use factory_runtime::docker::{connect, connect_to};
use factory_runtime::image::{HostNetwork, ImageError, ImageRequest, Layer, Progress, build, find};
use factory_tests::{EngineSetup, OwnEngine};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

const MB: u64 = 1 << 20;
/// Holds the base (170 MB) twice: as a layer, and on its way there.
const DISK: u64 = 700 * MB;

/// Bytes that are free on the disk below `dir`.
fn free(dir: &Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Fills the disk below `dir` until `left` bytes are free; dropping the file frees them.
fn fill_but(dir: &Path, left: u64) -> Filler {
    let path = dir.join("filler");
    let file = File::create(&path).unwrap();
    let flags = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(&file, flags, 0, free(dir) - left).unwrap();
    Filler(path)
}

struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            eprintln!("cannot remove the filler: {error}");
        }
    }
}

/// Untagged images and containers of any kind: nobody else uses this engine.
async fn leftovers(docker: &Docker) -> (usize, usize) {
    let filters = HashMap::from([("dangling", vec!["true"])]);
    let options = ListImagesOptionsBuilder::default()
        .filters(&filters)
        .build();
    let images = docker.list_images(Some(options)).await.unwrap();
    let options = ListContainersOptionsBuilder::default().all(true).build();
    (
        images.len(),
        docker.list_containers(Some(options)).await.unwrap().len(),
    )
}

#[tokio::test]
async fn a_full_disk_is_named_nothing_half_done_stays_and_the_next_build_goes_on() {
    let setup = EngineSetup {
        disk: Some(DISK),
        ..EngineSetup::default()
    };
    let Some(engine) = OwnEngine::start("disk full", setup) else {
        return;
    };
    let disk = engine.data_from_here();
    let docker = connect_to(&engine.path("docker.sock"))
        .await
        .unwrap()
        .client;
    let agent = engine.path("factory-agent");
    std::fs::write(&agent, vec![7_u8; 60 << 20]).unwrap();
    let request = ImageRequest {
        base: "debian:bookworm-slim".to_owned(),
        packages: Vec::new(),
        engine: None,
        agent,
    };
    let host = HostNetwork::from_vars(std::env::vars());
    let mut events = Vec::new();

    // The base does not fit.
    let filler = fill_but(&disk, 80 * MB);
    let before = free(&disk);
    let error = build(&docker, &request, &host, std::future::pending(), |event| {
        events.push(event)
    })
    .await
    .unwrap_err();
    assert!(
        matches!(&error, ImageError::NoSpace { layer: Layer::Base, place } if Path::new(place).starts_with(engine.data())),
        "{error:?} {events:?}"
    );
    println!("{error}");
    assert_eq!(leftovers(&docker).await, (0, 0));
    let lost = before.saturating_sub(free(&disk)) / MB;
    assert!(lost < 10, "{lost} MB of the failed build stay on the disk");
    drop(filler);

    // The base is there: copied from the machine's own engine where that has it.
    let base = events
        .iter()
        .find_map(|event| match event {
            Progress::Started {
                layer: Layer::Base,
                tag,
            } => Some(tag.clone()),
            _ => None,
        })
        .unwrap();
    let machine = connect().await.unwrap().client;
    let copied = find(&machine, &base).await.unwrap().is_some();
    if copied {
        let archive = machine
            .export_image(&base)
            .map(|chunk| chunk.map_err(std::io::Error::other));
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let read = async {
            let mut archive = std::pin::pin!(archive);
            while let Some(chunk) = archive.next().await {
                sender.send(chunk).await.unwrap();
            }
            drop(sender);
        };
        let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        });
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        let write = docker
            .import_image(options, bollard::body_try_stream(body), None)
            .collect::<Vec<_>>();
        let (loaded, ()) = tokio::join!(write, read);
        assert!(loaded.iter().all(Result::is_ok), "{loaded:?}");
        assert!(find(&docker, &base).await.unwrap().is_some());
    }

    // The agent does not fit; the base stays.
    let filler = if copied {
        Some(fill_but(&disk, 40 * MB))
    } else {
        None
    };
    if filler.is_some() {
        let error = build(&docker, &request, &host, std::future::pending(), |_| {})
            .await
            .unwrap_err();
        assert!(
            matches!(
                &error,
                ImageError::NoSpace {
                    layer: Layer::Agent,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(leftovers(&docker).await, (0, 0));
        assert!(find(&docker, &base).await.unwrap().is_some());
    }
    drop(filler);

    // With room again the build goes on from there.
    events.clear();
    build(&docker, &request, &host, std::future::pending(), |event| {
        events.push(event)
    })
    .await
    .unwrap();
    if copied {
        assert_eq!(
            events[0],
            Progress::Found {
                layer: Layer::Base,
                tag: base
            }
        );
    }
    assert!(
        matches!(
            events.last(),
            Some(Progress::Done {
                layer: Layer::Agent,
                ..
            })
        ),
        "{events:?}"
    );
    assert_eq!(leftovers(&docker).await, (0, 0));
}
