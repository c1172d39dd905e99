//! One build at a time per Docker engine: what is left over from a broken build
//! can then be told from what another build is just making.

use super::ImageError;
use crate::docker::is_podman;
use bollard::Docker;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use tokio::io::AsyncReadExt;

/// Held while building; the operating system gives it back when the process
/// ends, however it ends.
pub(super) struct BuildLock {
    _listener: UnixListener,
}

/// Names the engine: by its id, or where that is another with each call (as
/// Podman's is), by where it keeps its images.
pub(super) async fn key(docker: &Docker) -> Result<String, ImageError> {
    let info = docker.info().await;
    let info = info.map_err(ImageError::engine("tell its id"))?;
    let version = docker.version().await;
    let version = version.map_err(ImageError::engine("tell its version"))?;
    Ok(match is_podman(&version) {
        true => info.docker_root_dir.unwrap_or_default(),
        false => info.id.unwrap_or_default(),
    })
}

/// Takes the lock for the engine `engine_id`, calling `waiting` once if another
/// build holds it.
pub(super) async fn acquire(
    engine_id: &str,
    mut waiting: impl FnMut(),
) -> Result<BuildLock, ImageError> {
    const OPERATION: &str = "take the lock on image builds";
    // An abstract socket name: no file to be left behind, and whoever waits
    // sees the end of the connection at the moment the holder is gone.
    let name = format!("factory-image-build-{engine_id}");
    let address =
        SocketAddr::from_abstract_name(name.as_bytes()).map_err(ImageError::host(OPERATION))?;
    let mut told = false;
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => {
                return Ok(BuildLock {
                    _listener: listener,
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(ImageError::host(OPERATION)(error)),
        }
        if !told {
            waiting();
            told = true;
        }
        // Refused: the holder ended in between, so bind again.
        let Ok(stream) = UnixStream::connect_addr(&address) else {
            continue;
        };
        stream
            .set_nonblocking(true)
            .map_err(ImageError::host(OPERATION))?;
        let mut stream =
            tokio::net::UnixStream::from_std(stream).map_err(ImageError::host(OPERATION))?;
        if let Err(error) = stream.read(&mut [0_u8; 1]).await {
            tracing::debug!(%error, "the other image build ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn the_second_waits_for_the_first_to_go() {
        let name = format!("test-{}", std::process::id());
        let first = acquire(&name, || panic!("nobody holds it")).await.unwrap();
        let (told, heard) = tokio::sync::oneshot::channel();
        let mut told = Some(told);
        let second = acquire(&name, move || {
            if let Some(told) = told.take() {
                told.send(()).unwrap();
            }
        });
        tokio::pin!(second);
        tokio::select! {
            _ = &mut second => panic!("two builds at once"),
            heard = heard => heard.unwrap(),
        }
        drop(first);
        tokio::time::timeout(Duration::from_secs(10), second)
            .await
            .unwrap()
            .unwrap();
    }
}
