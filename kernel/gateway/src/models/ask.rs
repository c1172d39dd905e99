//! One call, asked of the run's providers in turn.

use super::{ModelCall, OVER, refused};
use crate::{
    http::Body,
    upstream::{self, BadProvider, Outcome},
};
use bytes::Bytes;
use factory_core::grant::{ModelGrant, Provider};
use hyper::{HeaderMap, Response, StatusCode};
use std::sync::Arc;
use tokio::time::Instant;

/// How a provider answered, or the answer that ends the call.
type Asked = Result<Outcome, Box<Response<Body>>>;

/// What an engine asks for, for every provider that is asked.
struct Question<'a> {
    target: &'a str,
    from_agent: &'a HeaderMap,
    body: Bytes,
}

/// Asks the run's providers in turn until one answers; before the first byte of
/// an answer only, and the next one only while those before it are away or have
/// nothing left to pay with.
pub(super) async fn ask(
    call: &mut ModelCall,
    models: &ModelGrant,
    target: &str,
    from_agent: &HeaderMap,
    body: Bytes,
) -> Result<reqwest::Response, Box<Response<Body>>> {
    let door = Arc::clone(&call.door);
    let question = Question {
        target,
        from_agent,
        body,
    };
    let all = models.providers().into_iter();
    let (open, exhausted): (Vec<_>, Vec<_>) = all
        .map(|provider| (door.exhausted(&provider), provider))
        .partition(|(said, _)| said.is_none());
    let mut no_credit = exhausted.into_iter().find_map(|(said, _)| said);
    let mut open = open.into_iter().map(|(_, provider)| provider).peekable();
    let mut away = None;
    while let Some(provider) = open.next() {
        let is_last = open.peek().is_none();
        match ask_one(call, &provider, &question, is_last).await? {
            Outcome::Answered(response) => {
                call.provider = Some(provider);
                return Ok(response);
            }
            Outcome::GaveUp {
                status,
                retry_after,
                reason,
            } => {
                if !is_last {
                    let base_url = &provider.base_url;
                    tracing::info!(run = %door.run(), base_url, reason, "the next provider is asked");
                }
                away = Some((status, retry_after, reason));
            }
            Outcome::NoCredit { message } => {
                door.exhaust(&provider, &message);
                no_credit = Some(message);
            }
        }
    }
    if let (None, Some(message)) = (&away, no_credit) {
        let status = StatusCode::PAYMENT_REQUIRED;
        let message = format!("the model provider refused the call ({status}): {message}");
        return Err(Box::new(call.refuse(status, &message).await));
    }
    let (status, retry_after, reason) = away.unwrap_or_else(|| {
        let nobody = "the run's grant names no provider".to_owned();
        (StatusCode::SERVICE_UNAVAILABLE, None, nobody)
    });
    Err(Box::new(call.away(status, retry_after, &reason)))
}

/// Asks one provider; once more where it refuses a key that was changed meanwhile. A refused
/// call used nothing, so it may be said again.
async fn ask_one(
    call: &mut ModelCall,
    provider: &Provider,
    question: &Question<'_>,
    is_last: bool,
) -> Asked {
    let door = Arc::clone(&call.door);
    let stores = door.stores();
    let Provider { base_url, key_env } = provider;
    let found = tokio::select! {
        found = stores.keys.get(key_env, &stores.timing) => found,
        () = door.cut_calls.cancelled() => return left(call).await,
    };
    let mut key = match found {
        Ok(key) => key,
        Err(none) => {
            let (status, why) = (StatusCode::UNAUTHORIZED, none.to_string());
            return Err(Box::new(call.refuse(status, &why).await));
        }
    };
    let mut is_renewed = false;
    loop {
        let headers = upstream::provider_headers(question.from_agent, call.api, key_env, &key);
        let ready = headers.and_then(|headers| {
            let body = question.body.clone();
            stores
                .upstream
                .call(base_url, question.target, headers, body)
        });
        let ready = match ready {
            Ok(ready) => ready,
            Err(problem) => {
                let status = match &problem {
                    BadProvider::Key { .. } => StatusCode::UNAUTHORIZED,
                    BadProvider::Url { .. }
                    | BadProvider::Clear { .. }
                    | BadProvider::Tls { .. } => StatusCode::FORBIDDEN,
                };
                return Err(Box::new(call.refuse(status, &problem.to_string()).await));
            }
        };
        let since = Instant::now();
        let outcome = tokio::select! {
            outcome = ready.send(&stores.timing, is_last) => outcome,
            () = door.cut_calls.cancelled() => return left(call).await,
        };
        let is_refused = matches!(
            &outcome,
            Outcome::Answered(response)
                if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        );
        if is_renewed || !is_refused {
            return Ok(outcome);
        }
        let renewed = tokio::select! {
            renewed = stores.keys.renewed(key_env, &key, since, &stores.timing) => renewed,
            () = door.cut_calls.cancelled() => return left(call).await,
        };
        let Some(renewed) = renewed else {
            return Ok(outcome);
        };
        tracing::info!(run = %door.run(), key_env, "a key that was refused has changed: the call is made again");
        key = renewed;
        is_renewed = true;
    }
}

/// The run ended while its call was under way.
async fn left(call: &mut ModelCall) -> Asked {
    call.left().await;
    Err(Box::new(refused(call.api, OVER)))
}
