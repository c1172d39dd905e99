//! Calls to a model provider: what is sent, how long is waited, what is tried again.

use crate::{api, stores::Timing};
use bytes::Bytes;
use factory_core::grant::WireApi;
use hyper::{
    HeaderMap, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use reqwest::{Client, Response, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::OnceLock,
    time::Duration,
};
use tokio::time::Instant;

/// Most tries of one call.
const TRIES: u32 = 5;
/// Most tries where another provider can be asked.
const TRIES_BEFORE_NEXT: u32 = 2;
/// Time to connect to a provider.
const CONNECT_WAIT: Duration = Duration::from_secs(20);
/// Most bytes of an answer that is no stream.
const ANSWER_LIMIT: usize = 32 << 20;
/// Longest `retry-after` that the gateway itself waits for; a longer one is
/// handed to the engine, which sleeps without holding a connection.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(20);

/// Why a provider cannot be called at all. Trying again does not help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadProvider {
    /// The address is none.
    #[error("base_url `{base_url}` is no address; mend models.*.base_url in factory.yaml")]
    Url { base_url: String },
    /// A key would travel readable.
    #[error(
        "base_url `{base_url}` is neither https nor on this machine; mend models.*.base_url in factory.yaml"
    )]
    Clear { base_url: String },
    /// The key cannot be sent.
    #[error("the key in {key_env} holds characters that no header can carry; set it again")]
    Key { key_env: String },
    /// TLS could not be set up.
    #[error(
        "no TLS connection can be made: {reason}; install ca-certificates or set SSL_CERT_FILE"
    )]
    Tls { reason: String },
}

/// How a call ended before its first byte.
pub(crate) enum Outcome {
    /// The provider answered; its status may be an error that is final.
    Answered(Response),
    /// The provider is away or busy, and was asked often enough.
    GaveUp {
        /// 429 where the provider said so, else 503.
        status: StatusCode,
        /// What the provider asked for.
        retry_after: Option<HeaderValue>,
        /// What happened last.
        reason: String,
    },
    /// The account behind the key has nothing left to pay with.
    NoCredit {
        /// What the provider said.
        message: String,
    },
}

/// The connections to providers, kept open between calls.
#[derive(Default)]
pub(crate) struct Upstream {
    clear: OnceLock<Result<Client, String>>,
    tls: OnceLock<Result<Client, String>>,
}

/// One call, ready to be sent as often as needed.
pub(crate) struct Call {
    client: Client,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
}

/// The status with which a provider answers a call without a key, for those who
/// only want to know whether it is there.
///
/// # Errors
/// Why there was no answer, in words.
pub async fn reach(base_url: &str, path: &str, limit: Duration) -> Result<u16, String> {
    let upstream = Upstream::default();
    let json = HeaderValue::from_static("application/json");
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, json)]);
    let call = upstream
        .call(base_url, path, headers, Bytes::from_static(b"{}"))
        .map_err(|error| error.to_string())?;
    let timing = Timing {
        header_wait: limit,
        ..Timing::default()
    };
    Ok(call.once(&timing).await?.status().as_u16())
}

impl Upstream {
    /// Makes the call of `path_and_query` at `base_url`.
    pub(crate) fn call(
        &self,
        base_url: &str,
        path_and_query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Call, BadProvider> {
        let bad = || BadProvider::Url {
            base_url: base_url.to_owned(),
        };
        let url = Url::parse(&format!(
            "{}{path_and_query}",
            base_url.trim_end_matches('/')
        ))
        .map_err(|_| bad())?;
        let client = match url.scheme() {
            "https" => self.tls.get_or_init(tls_client),
            "http" if is_loopback(&url) => self.clear.get_or_init(clear_client),
            "http" => {
                return Err(BadProvider::Clear {
                    base_url: base_url.to_owned(),
                });
            }
            _ => return Err(bad()),
        };
        let client = client
            .as_ref()
            .map_err(|reason| BadProvider::Tls {
                reason: reason.clone(),
            })?
            .clone();
        Ok(Call {
            client,
            url,
            headers,
            body,
        })
    }
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}

fn base_client() -> reqwest::ClientBuilder {
    // The first to come installs it for the process; everybody would install the same.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::trace!("the TLS provider was installed before");
    }
    // A redirect would carry the key to a place that factory.yaml does not name.
    Client::builder()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_WAIT)
        .http1_only()
}

fn clear_client() -> Result<Client, String> {
    // A proxy does not know this machine's loopback, and no certificate is needed.
    base_client()
        .no_proxy()
        .tls_certs_only([])
        .build()
        .map_err(|error| crate::error::chain(&error))
}

fn tls_client() -> Result<Client, String> {
    base_client()
        .build()
        .map_err(|error| crate::error::chain(&error))
}

/// The headers a provider gets: those that this API knows, and the real key.
pub(crate) fn provider_headers(
    from_agent: &HeaderMap,
    api: WireApi,
    key_env: &str,
    key: &SecretString,
) -> Result<HeaderMap, BadProvider> {
    let mut headers = HeaderMap::new();
    for (name, value) in from_agent.iter().filter(|(name, _)| is_passed(name)) {
        headers.append(name, value.clone());
    }
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    let (name, value) = api::key_header(api, key.expose_secret().trim());
    let mut value = HeaderValue::try_from(value).map_err(|_| BadProvider::Key {
        key_env: key_env.to_owned(),
    })?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}

/// A list of what passes: whatever else an agent sends could mean something to
/// a proxy or a provider beside the key.
fn is_passed(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "accept"
            | "content-type"
            | "user-agent"
            | "x-app"
            | "session-id"
            | "thread-id"
            | "originator"
            | "openai-beta"
            | "x-client-request-id"
    ) || ["anthropic-", "x-stainless-", "x-claude-code-", "x-codex-"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// The headers of an answer that an engine gets.
pub(crate) fn answer_headers(from_provider: &HeaderMap) -> HeaderMap {
    let hop_by_hop = |name: &HeaderName| {
        matches!(
            name.as_str(),
            "connection"
                | "keep-alive"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
                | "content-length"
                | "set-cookie"
                | "alt-svc"
        )
    };
    from_provider
        .iter()
        .filter(|(name, _)| !hop_by_hop(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

impl Call {
    /// Sends the call until it is answered with something final, or often and long enough.
    /// Where it is not the last provider that can be asked, fewer tries are enough.
    pub(crate) async fn send(&self, timing: &Timing, is_last: bool) -> Outcome {
        let most = if is_last { TRIES } else { TRIES_BEFORE_NEXT };
        let started = Instant::now();
        let mut backoff = timing.first_backoff;
        let mut tries = 0;
        loop {
            tries += 1;
            let answered = match self.once(timing).await {
                Ok(refusal) if refusal.status().is_client_error() => {
                    match refused(refusal, timing.stream_silence).await {
                        Ok((refusal, None)) => Ok(refusal),
                        Ok((_, Some(message))) => return Outcome::NoCredit { message },
                        Err(reason) => Err(reason),
                    }
                }
                other => other,
            };
            let (status, retry_after, reason) = match answered {
                Ok(response) => {
                    let status = response.status();
                    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
                        return Outcome::Answered(response);
                    }
                    let retry_after = response.headers().get(header::RETRY_AFTER).cloned();
                    (
                        status,
                        retry_after,
                        format!("the provider answered {status}"),
                    )
                }
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, None, reason),
            };
            let asked = retry_after.as_ref().and_then(seconds);
            let pause = asked.map_or_else(|| jittered(backoff), |asked| asked.max(backoff));
            let too_late = started.elapsed() + pause > timing.retry_for;
            if tries == most || too_late || asked.is_some_and(|asked| asked > LONGEST_RETRY_AFTER) {
                let busy = status == StatusCode::TOO_MANY_REQUESTS;
                let status = if busy {
                    status
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                };
                return Outcome::GaveUp {
                    status,
                    retry_after,
                    reason,
                };
            }
            tracing::debug!(tries, reason, "a model call is tried again");
            tokio::time::sleep(pause).await;
            backoff *= 2;
        }
    }

    async fn once(&self, timing: &Timing) -> Result<Response, String> {
        let request = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .body(self.body.clone());
        match tokio::time::timeout(timing.header_wait, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            // The address is in factory.yaml; a log line needs only the reason.
            Ok(Err(error)) => Err(crate::error::chain(&error.without_url())),
            Err(_) => Err(format!(
                "the provider sent no headers for {} s",
                timing.header_wait.as_secs()
            )),
        }
    }
}

/// A refusal as it came, and what it says where it is for want of credit.
async fn refused(
    mut refusal: Response,
    silence: Duration,
) -> Result<(Response, Option<String>), String> {
    let (status, headers) = (refusal.status(), std::mem::take(refusal.headers_mut()));
    let body = read_whole(refusal, silence).await?;
    let message = match status {
        StatusCode::PAYMENT_REQUIRED => Some(api::error_message(&body)),
        _ => api::no_credit(&body),
    };
    let mut again = hyper::Response::new(body);
    *again.status_mut() = status;
    *again.headers_mut() = headers;
    Ok((again.into(), message))
}

/// The body of an answer that is no stream.
///
/// # Errors
/// It broke off, fell silent for so long, or is too long.
pub(crate) async fn read_whole(mut response: Response, silence: Duration) -> Result<Bytes, String> {
    let mut body = Vec::new();
    loop {
        match tokio::time::timeout(silence, response.chunk()).await {
            Ok(Ok(Some(piece))) if body.len() + piece.len() > ANSWER_LIMIT => {
                return Err("the provider's answer is too long".to_owned());
            }
            Ok(Ok(Some(piece))) => body.extend_from_slice(&piece),
            Ok(Ok(None)) => return Ok(body.into()),
            Ok(Err(error)) => return Err(crate::error::chain(&error.without_url())),
            Err(_) => return Err("the provider fell silent".to_owned()),
        }
    }
}

/// A `retry-after` in seconds; the other form, a date, is left to the engine.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    let seconds: f64 = value.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Half to all of `pause`, so that engines that failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    // std's hasher keys are random per state: enough to spread retries.
    let random = RandomState::new().build_hasher().finish();
    pause / 2 + (pause / 2).mul_f64((random % 1024) as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn the_agents_credentials_stay_behind() {
        let sent = provider_headers(
            &headers(&[
                ("x-api-key", "placeholder"),
                ("authorization", "Bearer placeholder"),
                ("cookie", "a=b"),
                ("proxy-authorization", "x"),
                ("x-forwarded-for", "10.0.0.1"),
                ("host", "127.0.0.1:8377"),
                ("content-length", "7"),
                ("connection", "keep-alive"),
                ("accept-encoding", "gzip"),
                ("anthropic-version", "2023-06-01"),
                ("anthropic-beta", "a,b"),
                ("x-stainless-lang", "js"),
                ("content-type", "application/json"),
            ]),
            WireApi::Messages,
            "A_KEY",
            &SecretString::from("the-real-key"),
        )
        .unwrap();
        let mut sent: Vec<_> = sent
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        sent.sort_unstable();
        assert_eq!(
            sent,
            [
                ("accept-encoding", "identity"),
                ("anthropic-beta", "a,b"),
                ("anthropic-version", "2023-06-01"),
                ("content-type", "application/json"),
                ("x-api-key", "the-real-key"),
                ("x-stainless-lang", "js"),
            ]
        );
    }

    #[test]
    fn each_api_has_its_own_header_for_the_key() {
        let from_agent = headers(&[
            ("x-api-key", "placeholder"),
            ("authorization", "Bearer placeholder"),
            ("openai-organization", "somebody-elses"),
            ("originator", "codex_exec"),
            ("session-id", "s"),
            ("x-codex-window-id", "w"),
        ]);
        let key = SecretString::from("the-real-key");
        for api in [WireApi::Responses, WireApi::ChatCompletions] {
            let sent = provider_headers(&from_agent, api, "A_KEY", &key).unwrap();
            let mut names: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            let passed = [
                "accept-encoding",
                "authorization",
                "originator",
                "session-id",
                "x-codex-window-id",
            ];
            assert_eq!(names, passed);
            assert_eq!(sent["authorization"], "Bearer the-real-key");
            assert!(sent["authorization"].is_sensitive());
        }
    }

    #[test]
    fn a_key_travels_in_clear_on_this_machine_only() {
        let upstream = Upstream::default();
        let call = |base: &str| upstream.call(base, "/v1/messages", HeaderMap::new(), Bytes::new());
        for base in [
            "http://127.0.0.1:1",
            "http://localhost:1/",
            "http://[::1]:1/prefix",
        ] {
            assert!(call(base).is_ok(), "{base}");
        }
        // Depends on the machine's certificates, but never panics.
        let tls = call("https://models.example");
        assert!(matches!(tls, Ok(_) | Err(BadProvider::Tls { .. })));
        for base in [
            "http://models.example",
            "http://10.0.0.1",
            "http://localhost.example",
        ] {
            assert!(
                matches!(call(base), Err(BadProvider::Clear { .. })),
                "{base}"
            );
        }
        for base in ["", "models.example", "ftp://127.0.0.1", "file:///x"] {
            assert!(matches!(call(base), Err(BadProvider::Url { .. })), "{base}");
        }
        let url = call("http://localhost:1/prefix/").unwrap().url;
        assert_eq!(url.as_str(), "http://localhost:1/prefix/v1/messages");
    }

    #[test]
    fn pauses_are_spread_and_bounded() {
        let pause = Duration::from_millis(1000);
        for _ in 0..100 {
            let jittered = jittered(pause);
            assert!((pause / 2..=pause).contains(&jittered), "{jittered:?}");
        }
        assert_eq!(
            seconds(&HeaderValue::from_static("2")),
            Some(Duration::from_secs(2))
        );
        assert_eq!(
            seconds(&HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT")),
            None
        );
        assert_eq!(seconds(&HeaderValue::from_static("-1")), None);
    }
}
