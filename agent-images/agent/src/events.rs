//! The transcript on its way to the gateway: in order, in batches, bounded.

use crate::door::{Door, HOLD};
use bytes::{Bytes, BytesMut};
use factory_core::wire::PATH_EVENTS;
use hyper::{Method, StatusCode};
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinSet};

/// A batch takes no further lines from here on.
const BATCH: usize = 256 * 1024;
/// Pieces that wait; each is at most one read or one line (1 MiB).
const WAITING: usize = 4;

/// Where output lines go. A slow gateway makes the writer wait.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Bytes>);

impl Events {
    /// Starts to deliver in a task of `tasks`, which ends once all [`Events`]
    /// are dropped and all lines are delivered or given up.
    pub fn start(door: Door, tasks: &mut JoinSet<()>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        tasks.spawn(deliver(door, receiver));
        Self(sender)
    }

    /// Hands over whole lines.
    pub async fn lines(&self, lines: Bytes) {
        if !lines.is_empty() && self.0.send(lines).await.is_err() {
            crate::log(format_args!("events: nobody takes them any more"));
        }
    }
}

async fn deliver(door: Door, mut waiting: mpsc::Receiver<Bytes>) {
    // How long the next batch may wait for a gateway that is away.
    let mut patience = HOLD;
    let mut closed = false;
    while let Some(first) = waiting.recv().await {
        let mut batch = BytesMut::from(first);
        while batch.len() < BATCH
            && let Ok(more) = waiting.try_recv()
        {
            batch.extend_from_slice(&more);
        }
        if closed {
            continue;
        }
        match door
            .ask(Method::POST, PATH_EVENTS, batch.freeze(), patience)
            .await
        {
            Ok(answer) if answer.status.is_success() => patience = HOLD,
            Ok(answer) => {
                crate::log(format_args!(
                    "events: the gateway answers {}; a part is lost",
                    answer.status
                ));
                closed = answer.status == StatusCode::FORBIDDEN;
            }
            Err(e) => {
                // The engine has been held up for long enough.
                crate::log(format_args!("events: a part is lost: {}", crate::chain(&e)));
                patience = Duration::ZERO;
            }
        }
    }
}
