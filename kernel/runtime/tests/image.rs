//! Images on the real engine: built, found again, cancelled, failed. The layers
//! that every build shares stay on the engine.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, ListContainersOptionsBuilder,
    ListImagesOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder, StartContainerOptions,
};
use factory_core::engine::{ENGINES, EngineImage};
use factory_runtime::docker::connect;
use factory_runtime::image::{
    HostNetwork, ImageError, ImageRequest, Layer, Progress, build, find, tag,
};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::time::Instant;
use tokio::sync::{Mutex, MutexGuard};

/// Tests look at what is left on the engine, so one at a time.
static ENGINE: Mutex<()> = Mutex::const_new(());

struct Lab {
    _alone: MutexGuard<'static, ()>,
    docker: Docker,
    dir: tempfile::TempDir,
}

impl Lab {
    /// `None`, with the reason printed, only where Docker was ruled out on purpose.
    async fn new(test: &str) -> Option<Self> {
        if std::env::var_os("FACTORY_NO_DOCKER").is_some() {
            println!("skipped: {test}: FACTORY_NO_DOCKER is set");
            return None;
        }
        let alone = ENGINE.lock().await;
        let docker = connect().await.unwrap().client;
        Some(Self {
            _alone: alone,
            docker,
            dir: tempfile::tempdir().unwrap(),
        })
    }

    /// The usual image with a stand-in for the agent: always the same bytes, so
    /// always the same tag.
    fn request(&self, engine: Option<EngineImage>) -> ImageRequest {
        let agent = self.dir.path().join("factory-agent");
        std::fs::write(&agent, b"#!/bin/sh\necho stand-in\n").unwrap();
        let base = "debian:bookworm-slim".to_owned();
        ImageRequest {
            base,
            packages: Vec::new(),
            engine,
            agent,
        }
    }

    async fn build(&self, request: &ImageRequest) -> Result<String, ImageError> {
        let mut began = Instant::now();
        let hear = |event| match event {
            Progress::Started { .. } => began = Instant::now(),
            Progress::Done { layer, tag } => {
                println!("built {layer} {tag} in {:?}", began.elapsed())
            }
            Progress::Line { text, .. } => println!("  {text}"),
            other => println!("{other:?}"),
        };
        let id = build(
            &self.docker,
            request,
            &network(),
            std::future::pending(),
            hear,
        )
        .await?;
        Ok(id.as_str().to_owned())
    }

    /// Tag of the usual base layer, which exists afterwards: a base that the
    /// engine has without a registry.
    async fn base(&self) -> String {
        // Another agent, so that the build goes through its layers and names them.
        let request = self.request(None);
        std::fs::write(&request.agent, b"other").unwrap();
        let mut base = None;
        let hear = |event| {
            if let Progress::Found {
                layer: Layer::Base,
                tag,
            }
            | Progress::Done {
                layer: Layer::Base,
                tag,
            } = event
            {
                base = Some(tag);
            }
        };
        build(
            &self.docker,
            &request,
            &network(),
            std::future::pending(),
            hear,
        )
        .await
        .unwrap();
        self.remove_image(&tag(&request).unwrap()).await;
        base.unwrap()
    }

    async fn remove_image(&self, name: &str) {
        let options = RemoveImageOptionsBuilder::default().force(true).build();
        self.docker
            .remove_image(name, Some(options), None)
            .await
            .unwrap();
    }

    /// Untagged images of ours, and containers that hold an untagged image.
    async fn leftovers(&self) -> (Vec<String>, Vec<String>) {
        let filters = HashMap::from([
            ("dangling", vec!["true"]),
            ("label", vec!["factory.image=1"]),
        ]);
        let options = ListImagesOptionsBuilder::default()
            .filters(&filters)
            .build();
        let images = self.docker.list_images(Some(options)).await.unwrap();
        let filters = HashMap::from([("label", vec!["factory.image=1"])]);
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters)
            .build();
        let containers = self.docker.list_containers(Some(options)).await.unwrap();
        // Agents of a factory that works beside the test are made by image id.
        let is_agent = |labels: &Option<HashMap<String, String>>| {
            labels
                .as_ref()
                .is_some_and(|l| l.contains_key("factory.run"))
        };
        let is_step = |image: &String| !image.starts_with("factory-");
        (
            images.into_iter().map(|image| image.id).collect(),
            containers
                .into_iter()
                .filter(|container| !is_agent(&container.labels))
                .filter_map(|container| container.image)
                .filter(is_step)
                .collect(),
        )
    }

    /// What `command` prints in `image` without network.
    async fn run(&self, image: &str, command: &str) -> String {
        let name = format!("factory-image-test-{}", std::process::id());
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            cmd: Some(["sh", "-c", command].map(str::to_owned).to_vec()),
            network_disabled: Some(true),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        self.docker
            .create_container(Some(options), body)
            .await
            .unwrap();
        let output = async {
            self.docker
                .start_container(&name, None::<StartContainerOptions>)
                .await?;
            let options = LogsOptionsBuilder::default()
                .follow(true)
                .stdout(true)
                .stderr(true)
                .build();
            let mut logs = std::pin::pin!(self.docker.logs(&name, Some(options)));
            let mut output = String::new();
            while let Some(chunk) = logs.next().await {
                output.push_str(&String::from_utf8_lossy(&chunk?.into_bytes()));
            }
            Ok::<_, bollard::errors::Error>(output)
        }
        .await;
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        self.docker
            .remove_container(&name, Some(options))
            .await
            .unwrap();
        output.unwrap()
    }
}

fn network() -> HostNetwork {
    HostNetwork::from_vars(std::env::vars())
}

fn nothing() -> (Vec<String>, Vec<String>) {
    (Vec::new(), Vec::new())
}

#[tokio::test]
async fn the_claude_image_is_built_and_found_again() {
    let Some(lab) = Lab::new("claude image").await else {
        return;
    };
    let request = lab.request(Some(ENGINES[0].image));
    let id = lab.build(&request).await.unwrap();
    let name = tag(&request).unwrap();
    assert_eq!(
        find(&lab.docker, &name).await.unwrap().unwrap().as_str(),
        id
    );

    let again = Instant::now();
    let mut events = Vec::new();
    let hear = |event| events.push(event);
    let same = build(
        &lab.docker,
        &request,
        &network(),
        std::future::pending(),
        hear,
    )
    .await
    .unwrap();
    println!("found again in {:?}", again.elapsed());
    assert_eq!(same.as_str(), id);
    assert_eq!(
        events,
        [Progress::Found {
            layer: Layer::Agent,
            tag: name.clone()
        }]
    );

    let image = lab.docker.inspect_image(&name).await.unwrap();
    println!("size {} MB", image.size.unwrap() / 1_000_000);
    let config = image.config.unwrap();
    assert!(config.entrypoint.unwrap_or_default().is_empty());
    assert_eq!(
        config
            .labels
            .unwrap()
            .get("factory.image")
            .map(String::as_str),
        Some("1")
    );

    let look = "ls -d /workspace /run/factory /factory/out /state; factory-agent; claude --version; \
                bash --version; git --version";
    let seen = lab.run(&name, look).await;
    let wanted = [
        "/workspace\n",
        "/run/factory\n",
        "/factory/out\n",
        "/state\n",
        "stand-in\n",
        "2.1.329 (",
        "GNU bash",
        "git version",
    ];
    for wanted in wanted {
        assert!(seen.contains(wanted), "{wanted} is missing: {seen}");
    }
    assert_eq!(lab.leftovers().await, nothing());
}

#[tokio::test]
async fn nothing_of_the_host_is_in_the_image() {
    let Some(lab) = Lab::new("clean of the host").await else {
        return;
    };
    let request = ImageRequest {
        base: lab.base().await,
        ..lab.request(Some(ENGINES[0].image))
    };
    let marked = lab.dir.path().join("ca.crt");
    // The host's own bundle with a mark in it, and settings that cannot do harm.
    let bundle = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap();
    std::fs::write(&marked, format!("# MARKED-BY-TEST\n{bundle}")).unwrap();
    let own = [
        ("PIP_CERT", marked.to_str().unwrap()),
        ("PIP_TRUSTED_HOST", "marked-by-test.invalid"),
        ("no_proxy", "MARKED-BY-TEST.invalid"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let vars = std::env::vars()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("no_proxy"))
        .chain(own);
    let host = HostNetwork::from_vars(vars);
    let cold = tag(&request).unwrap();
    let mut layers = vec![cold.clone()];
    let hear = |event| {
        if let Progress::Done {
            layer: Layer::Engine,
            tag,
        } = event
        {
            layers.push(tag);
        }
    };
    build(&lab.docker, &request, &host, std::future::pending(), hear)
        .await
        .unwrap();
    let inspected = format!(
        "{:?} {:?}",
        lab.docker.image_history(&cold).await.unwrap(),
        lab.docker.inspect_image(&cold).await.unwrap().config
    );
    let look = "grep -rliF --exclude-dir=proc --exclude-dir=sys MARKED-BY-TEST / 2>/dev/null; env; \
                ls -d /host /engine /wheel 2>/dev/null; command -v pip3";
    let seen = lab.run(&cold, look).await;
    // The engine layer too, so that the next test run builds it again.
    for layer in &layers {
        lab.remove_image(layer).await;
    }
    assert_eq!(
        layers.len(),
        2,
        "the engine layer was not built: {layers:?}"
    );
    for (what, text) in [
        ("history and settings", &inspected),
        ("files and environment", &seen),
    ] {
        for word in [
            "marked-by-test",
            "pip",
            "ssl_cert",
            "ca_bundle",
            "proxy",
            "/host",
            "/wheel",
        ] {
            assert!(
                !text.to_ascii_lowercase().contains(word),
                "{word} is in its {what}: {text}"
            );
        }
    }
    assert_eq!(lab.leftovers().await, nothing());
}

#[tokio::test]
async fn a_cancelled_build_leaves_nothing() {
    let Some(lab) = Lab::new("cancel").await else {
        return;
    };
    let request = ImageRequest {
        base: lab.base().await,
        ..lab.request(Some(ENGINES[0].image))
    };
    let (running, seen) = tokio::sync::oneshot::channel();
    let mut running = Some(running);
    let cancel = async { seen.await.unwrap() };
    let hear = |event| {
        // apt's first lines: the step's container runs.
        if let Progress::Line {
            layer: Layer::Engine,
            text,
        } = event
            && (text.starts_with("Get:") || text.starts_with("Hit:"))
            && let Some(running) = running.take()
        {
            running.send(()).unwrap();
        }
    };
    let result = build(&lab.docker, &request, &network(), cancel, hear).await;
    assert!(matches!(result, Err(ImageError::Cancelled)), "{result:?}");
    assert_eq!(lab.leftovers().await, nothing());
    assert!(
        find(&lab.docker, &tag(&request).unwrap())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_cancelled_bootstrap_removes_its_files() {
    let Some(lab) = Lab::new("cancelled bootstrap").await else {
        return;
    };
    // A combination that is never finished, so that it is never found.
    let packages = vec!["tree".to_owned(), "sl".to_owned()];
    let request = ImageRequest {
        packages,
        ..lab.request(None)
    };
    let (running, seen) = tokio::sync::oneshot::channel();
    let mut running = Some(running);
    let cancel = async { seen.await.unwrap() };
    let mut directory = None;
    let mut by_registry = false;
    let hear = |event| {
        let Progress::Line { text, .. } = event else {
            return;
        };
        let used = text
            .strip_prefix("I: using ")
            .and_then(|rest| rest.strip_suffix(" as tempdir"));
        directory = used.map(std::path::PathBuf::from).or(directory.take());
        by_registry |= text.starts_with("Step ");
        if (text.starts_with("I: extracting") || text.starts_with("Step 4"))
            && let Some(running) = running.take()
        {
            assert!(
                by_registry
                    || directory
                        .as_ref()
                        .is_some_and(|directory| directory.exists())
            );
            running.send(()).unwrap();
        }
    };
    let result = build(&lab.docker, &request, &network(), cancel, hear).await;
    assert!(matches!(result, Err(ImageError::Cancelled)), "{result:?}");
    assert_eq!(lab.leftovers().await, nothing());
    if by_registry {
        println!("skipped: cancelled bootstrap: a registry answered");
        return;
    }
    let directory = directory.unwrap();
    assert!(
        !directory.exists(),
        "{} is still there",
        directory.display()
    );
}

#[tokio::test]
async fn a_package_that_the_base_lacks_is_named_and_leaves_nothing() {
    let Some(lab) = Lab::new("failed step").await else {
        return;
    };
    let packages = vec!["factory-no-such-package".to_owned()];
    let request = ImageRequest {
        base: lab.base().await,
        packages,
        ..lab.request(None)
    };
    let error = lab.build(&request).await.unwrap_err();
    let ImageError::NoPackage { name } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(name, "factory-no-such-package");
    assert_eq!(lab.leftovers().await, nothing());
}

#[tokio::test]
async fn a_package_that_the_suite_lacks_is_named() {
    let Some(lab) = Lab::new("bootstrap failure").await else {
        return;
    };
    let packages = vec!["factory-no-such-package".to_owned()];
    let error = lab
        .build(&ImageRequest {
            packages,
            ..lab.request(None)
        })
        .await
        .unwrap_err();
    let ImageError::NoPackage { name } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(name, "factory-no-such-package");
    assert_eq!(lab.leftovers().await, nothing());
}

#[tokio::test]
async fn a_base_that_nobody_has_is_refused_with_the_next_step() {
    let Some(lab) = Lab::new("no base").await else {
        return;
    };
    let base = "registry.invalid/none:1".to_owned();
    let error = lab
        .build(&ImageRequest {
            base: base.clone(),
            ..lab.request(None)
        })
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ImageError::NoBase { base: named, .. } if *named == base),
        "{error:?}"
    );
    assert!(error.to_string().contains("docker load"), "{error}");
}

#[tokio::test]
async fn an_empty_base_is_refused_and_leaves_nothing() {
    let Some(lab) = Lab::new("empty base").await else {
        return;
    };
    let version = std::process::id().to_string();
    let base = format!("factory-image-test:{version}");
    let archive = tar::Builder::new(Vec::new()).into_inner().unwrap();
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo("factory-image-test")
        .tag(&version)
        .build();
    let body = bollard::body_full(archive.into());
    let imported: Vec<_> = lab
        .docker
        .create_image(Some(options), Some(body), None)
        .collect()
        .await;
    assert!(imported.iter().all(Result::is_ok), "{imported:?}");
    let result = lab
        .build(&ImageRequest {
            base: base.clone(),
            ..lab.request(None)
        })
        .await;
    let left = lab.leftovers().await;
    lab.remove_image(&base).await;
    assert!(
        matches!(
            result,
            Err(ImageError::Step {
                layer: Layer::Base,
                ..
            })
        ),
        "{result:?}"
    );
    assert_eq!(left, nothing());
}
