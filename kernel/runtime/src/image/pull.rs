//! Getting a base from a registry, within bounded time.

use super::request::{Layer, Progress};
use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::time::Duration;

/// How long a registry may take for its first answer. Where packets are dropped
/// instead of refused, this is what a user waits before the fallback begins.
const FIRST_ANSWER: Duration = Duration::from_secs(20);
/// How long a transfer that has begun may stand still.
const STALL: Duration = Duration::from_secs(90);

/// Pulls `base`. The error is the reason in words: what to do next depends on
/// the base, so the caller decides.
pub(super) async fn pull(
    docker: &Docker,
    base: &str,
    progress: &mut impl FnMut(Progress),
) -> Result<(), String> {
    let layer = Layer::Base;
    progress(Progress::Line {
        layer,
        text: format!("pulling {base}"),
    });
    let options = CreateImageOptionsBuilder::default()
        .from_image(&with_tag(base))
        .build();
    let mut stream = std::pin::pin!(docker.create_image(Some(options), None, None));
    let mut limit = FIRST_ANSWER;
    // Bytes per image layer: (so far, in all).
    let mut sizes: HashMap<String, (u64, u64)> = HashMap::new();
    loop {
        let item = tokio::time::timeout(limit, stream.next())
            .await
            .map_err(|_| format!("the registry did not answer for {} s", limit.as_secs()))?;
        let info = match item {
            None => return Ok(()),
            Some(Ok(info)) => info,
            Some(Err(
                Error::DockerResponseServerError { message, .. }
                | Error::DockerStreamError { error: message },
            )) => {
                return Err(message.trim().to_owned());
            }
            Some(Err(error)) => return Err(error.to_string()),
        };
        limit = STALL;
        let Some(detail) = info.progress_detail else {
            continue;
        };
        let (Some(id), Some(current), Some(total)) = (info.id, detail.current, detail.total) else {
            continue;
        };
        if info.status.as_deref() == Some("Downloading") {
            sizes.insert(
                id,
                (
                    u64::try_from(current).unwrap_or(0),
                    u64::try_from(total).unwrap_or(0),
                ),
            );
            let (done, total) = sizes
                .values()
                .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            progress(Progress::Bytes {
                layer,
                done,
                total: Some(total),
            });
        }
    }
}

/// Without a tag the engine would pull every tag there is.
fn with_tag(base: &str) -> String {
    let name = base.rsplit('/').next().unwrap_or(base);
    if name.contains(':') || name.contains('@') {
        base.to_owned()
    } else {
        format!("{base}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::with_tag;

    #[test]
    fn a_reference_without_a_tag_means_latest() {
        assert_eq!(with_tag("debian"), "debian:latest");
        assert_eq!(
            with_tag("mirror.example:5000/debian"),
            "mirror.example:5000/debian:latest"
        );
        assert_eq!(with_tag("debian:bookworm-slim"), "debian:bookworm-slim");
        assert_eq!(with_tag("debian@sha256:00"), "debian@sha256:00");
    }
}
