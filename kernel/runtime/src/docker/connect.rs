//! Finding the engine.

use crate::runtime::RuntimeError;
use bollard::{API_DEFAULT_VERSION, Docker};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Seconds that the engine has to begin its answer to a call that does not
/// wait for a container. Creating takes long on a busy machine.
const ANSWER_SECONDS: u64 = 60;

/// Oldest API with all that we ask for (Docker 20.10).
const OLDEST_API: (usize, usize) = (1, 41);

/// An engine that answered.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The client, at the API version that both sides speak.
    pub client: Docker,
    /// The engine's socket.
    pub socket: PathBuf,
}

/// Connects to the engine that the process's environment names: `DOCKER_HOST`,
/// else the system's socket, else the user's own rootless one.
///
/// # Errors
/// [`RuntimeError::NoEngine`], [`RuntimeError::Denied`],
/// [`RuntimeError::RemoteEngine`], [`RuntimeError::TooOld`] or
/// [`RuntimeError::Unreachable`], each with what to do about it.
pub async fn connect() -> Result<Connection, RuntimeError> {
    let sockets = sockets(|name| std::env::var(name).ok())?;
    let mut worst = None;
    for socket in &sockets {
        match connect_to(socket).await {
            Ok(connection) => return Ok(connection),
            // Other sockets may still do; one that exists says more than one that does not.
            Err(RuntimeError::NoEngine { .. }) => {}
            Err(error) => worst = worst.or(Some(error)),
        }
    }
    Err(worst.unwrap_or(RuntimeError::NoEngine { looked_at: sockets }))
}

/// Connects to the engine behind one socket.
///
/// # Errors
/// As [`connect`], apart from [`RuntimeError::RemoteEngine`].
pub async fn connect_to(socket: &Path) -> Result<Connection, RuntimeError> {
    const OPERATION: &str = "connect";
    // bollard reports an absent, a forbidden and a dead socket alike.
    if let Err(error) = UnixStream::connect(socket).await {
        return Err(not_connected(socket, error));
    }
    let unreachable = |source: bollard::errors::Error| RuntimeError::Unreachable {
        socket: socket.to_owned(),
        operation: OPERATION,
        source: source.into(),
    };
    let path = socket.to_string_lossy();
    let client = Docker::connect_with_unix(&path, ANSWER_SECONDS, API_DEFAULT_VERSION)
        .map_err(unreachable)?
        .negotiate_version()
        .await
        .map_err(unreachable)?;
    let api = client.client_version();
    if (api.major_version, api.minor_version) < OLDEST_API {
        return Err(RuntimeError::TooOld {
            socket: socket.to_owned(),
            api: api.to_string(),
        });
    }
    Ok(Connection {
        client,
        socket: socket.to_owned(),
    })
}

fn not_connected(socket: &Path, error: std::io::Error) -> RuntimeError {
    let socket = socket.to_owned();
    match error.kind() {
        ErrorKind::NotFound => RuntimeError::NoEngine {
            looked_at: vec![socket],
        },
        ErrorKind::PermissionDenied => RuntimeError::Denied {
            socket,
            source: error,
        },
        _ => RuntimeError::Unreachable {
            socket,
            operation: "connect",
            source: error.into(),
        },
    }
}

/// The sockets to try in order, from an environment.
fn sockets(env: impl Fn(&str) -> Option<String>) -> Result<Vec<PathBuf>, RuntimeError> {
    let value = |name| env(name).filter(|text| !text.is_empty());
    if let Some(address) = value("DOCKER_HOST") {
        return match address.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(vec![path.into()]),
            _ => Err(RuntimeError::RemoteEngine { address }),
        };
    }
    let mut sockets = vec![PathBuf::from(DEFAULT_SOCKET)];
    sockets.extend(value("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("docker.sock")));
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn from(env: &[(&str, &str)]) -> Result<Vec<PathBuf>, RuntimeError> {
        let env: Vec<(String, String)> = env
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        sockets(|name| {
            env.iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn docker_host_wins_then_system_then_rootless() {
        let host = [
            ("DOCKER_HOST", "unix:///tmp/d.sock"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
        ];
        assert_eq!(from(&host).unwrap(), [PathBuf::from("/tmp/d.sock")]);
        let none = [("DOCKER_HOST", ""), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let expected = ["/var/run/docker.sock", "/run/user/7/docker.sock"];
        assert_eq!(from(&none).unwrap(), expected.map(PathBuf::from));
        assert_eq!(from(&[]).unwrap(), [PathBuf::from("/var/run/docker.sock")]);
    }

    #[test]
    fn remote_engines_are_refused_by_name() {
        for address in [
            "tcp://10.0.0.7:2375",
            "ssh://me@there",
            "unix://relative.sock",
        ] {
            let error = from(&[("DOCKER_HOST", address)]).unwrap_err();
            assert!(
                matches!(&error, RuntimeError::RemoteEngine { address: a } if a == address),
                "{error}"
            );
            assert!(error.to_string().contains(address));
        }
    }

    #[tokio::test]
    async fn an_absent_a_dead_and_a_foreign_socket_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent.sock");
        let error = connect_to(&absent).await.unwrap_err();
        assert!(
            matches!(&error, RuntimeError::NoEngine { looked_at } if looked_at[..] == [absent]),
            "{error}"
        );

        let dead = dir.path().join("dead.sock");
        drop(UnixListener::bind(&dead).unwrap());
        let error = connect_to(&dead).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Unreachable { .. }), "{error}");

        // Somebody who is no Docker engine: closes each connection.
        let foreign = dir.path().join("foreign.sock");
        let listener = tokio::net::UnixListener::bind(&foreign).unwrap();
        let closes = async {
            loop {
                drop(listener.accept().await);
            }
        };
        tokio::select! {
            () = closes => unreachable!(),
            connected = connect_to(&foreign) => {
                let error = connected.unwrap_err();
                assert!(matches!(error, RuntimeError::Unreachable { .. }), "{error}");
            }
        }
    }

    #[test]
    fn a_forbidden_socket_says_how_to_get_in() {
        let error = not_connected(Path::new("/d.sock"), ErrorKind::PermissionDenied.into());
        assert!(matches!(error, RuntimeError::Denied { .. }));
        assert!(error.to_string().contains("usermod -aG docker"), "{error}");
    }
}
