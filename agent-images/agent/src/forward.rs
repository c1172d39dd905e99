//! 127.0.0.1:8377 in the container leads, byte for byte, to the gateway socket.

use crate::door::{BackOff, HOLD};
use factory_core::wire::DOOR_PORT;
use std::{
    convert::Infallible,
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{Interest, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinSet,
    time::Instant,
};

/// The listening end of the door.
///
/// # Errors
/// What the system says when the port cannot be had.
pub async fn bind() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, DOOR_PORT)).await
}

/// Forwards for ever.
pub async fn serve(listener: TcpListener, socket: PathBuf) -> Infallible {
    let socket: Arc<Path> = socket.into();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(forward(client, socket.clone()));
                }
                Err(e) => {
                    // Out of descriptors: those in use come back.
                    crate::log(format_args!("door: cannot accept: {e}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(mut client: TcpStream, socket: Arc<Path>) {
    if let Err(e) = client.set_nodelay(true) {
        crate::log(format_args!("door: {e}"));
    }
    let Some(mut gateway) = held_connect(&client, &socket).await else {
        return;
    };
    // A broken connection is the client's to see: dropping both ends tells it.
    if copy_bidirectional(&mut client, &mut gateway).await.is_err() {
        crate::log(format_args!("door: a connection broke"));
    }
}

/// Connects to the gateway and, while it is away, holds the client: engines
/// survive a held connection for minutes, but not one that is closed at once.
async fn held_connect(client: &TcpStream, socket: &Path) -> Option<UnixStream> {
    let until = Instant::now() + HOLD;
    let mut back_off = BackOff::new();
    loop {
        let failed = match UnixStream::connect(socket).await {
            Ok(gateway) => return Some(gateway),
            Err(e) => e,
        };
        if Instant::now() >= until {
            crate::log(format_args!("door: the gateway stayed away: {failed}"));
            return None;
        }
        back_off.wait().await;
        // A client that closed has given up and will ask again: forwarding its
        // first request as well would pay for an answer that nobody reads.
        match client.ready(Interest::READABLE | Interest::WRITABLE).await {
            Ok(ready) if !ready.is_read_closed() => {}
            _ => return None,
        }
    }
}
