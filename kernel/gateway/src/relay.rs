//! The way of a model's stream to the engine.

use crate::{
    door::RunDoor,
    http::{Body, BodyError},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::task::Poll;
use tokio::sync::mpsc;

/// The way of a stream's events to the engine.
pub(crate) struct Relay {
    pub(crate) pieces: mpsc::Sender<Result<Bytes, BodyError>>,
    /// Whole events that were not sent yet.
    pub(crate) ready: Vec<u8>,
    /// The answer's call is counted.
    pub(crate) counted: bool,
}

impl Relay {
    /// Sends what is ready. An engine that is gone is noticed by the caller's loop.
    pub(crate) async fn flush(&mut self, door: &RunDoor) {
        if !self.ready.is_empty() {
            let piece = Bytes::from(std::mem::take(&mut self.ready));
            self.send(door, Ok(piece)).await;
        }
    }

    /// Breaks the engine's connection, so that it does not take the answer for whole.
    pub(crate) async fn cut(&mut self, door: &RunDoor, reason: String) {
        self.send(door, Err(reason.into())).await;
    }

    async fn send(&self, door: &RunDoor, piece: Result<Bytes, BodyError>) {
        let sent = tokio::select! {
            biased;
            sent = self.pieces.send(piece) => sent.is_ok(),
            () = door.cut_calls.cancelled() => false,
        };
        if !sent {
            tracing::debug!(run = %door.run(), "a piece of a stream found no engine");
        }
    }
}

/// A body of what is received.
pub(crate) fn stream_body(mut received: mpsc::Receiver<Result<Bytes, BodyError>>) -> Body {
    let mut broken = None;
    let frames = stream::poll_fn(move |context| {
        if let Some(error) = broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let piece = std::task::ready!(received.poll_recv(context));
        if let Some(Err(error)) = piece {
            // hyper drops what it did not write yet when a body fails; while
            // it waits for a body it writes.
            broken = Some(error);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(piece)
    });
    let frames = frames.map(|piece| piece.map(Frame::data));
    BodyExt::boxed_unsync(StreamBody::new(frames))
}
