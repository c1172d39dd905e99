//! Bodies and small answers, shared by all endpoints.

use bytes::Bytes;
use factory_core::wire::Refusal;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{Request, Response, StatusCode, body::Incoming, header};
use serde::Serialize;

/// What went wrong while a body was read or produced; an answer whose body ends
/// with it is cut, so the client sees a broken connection and not a short body.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Most bytes that are read of a refused request.
const DRAIN_LIMIT: usize = 1 << 20;

/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body that is wholly in memory.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// An answer whose body is `value` as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(text) => {
            let mut response = Response::new(full(text));
            *response.status_mut() = status;
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                header::HeaderValue::from_static("application/json"),
            );
            response
        }
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            empty(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// A [`Refusal`]: what is wrong and what to do.
pub fn refuse(status: StatusCode, error: impl Into<String>) -> Response<Body> {
    json(
        status,
        &Refusal {
            error: error.into(),
        },
    )
}

/// Reads the body of a request that is refused: a client that is still writing
/// would miss its answer. Gives up on a long one.
pub async fn drain(request: Request<Incoming>) {
    let (mut body, mut seen) = (request.into_body(), 0);
    while let Some(frame) = body.frame().await {
        let read = frame.map(|frame| frame.data_ref().map_or(0, |data| data.len()));
        seen += read.unwrap_or(DRAIN_LIMIT);
        if seen >= DRAIN_LIMIT {
            tracing::debug!("the body of a refused request was not read to its end");
            return;
        }
    }
}
