//! What a provider was asked and how it answered.

use crate::anthropic::{Request, Usage};
use crate::plan::FaultCounts;
use crate::scenario::{Conversation, Fault};
use bytes::Bytes;
use hyper::{HeaderMap, Method};
use std::time::Duration;

/// Bodies kept of all requests together; the oldest give way to new ones.
const KEPT_BODY_BYTES: usize = 128 << 20;

/// What a request was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A scripted answer.
    Answer {
        /// Name of the conversation.
        conversation: String,
        /// Number of the answer, from 0.
        answer: usize,
        /// Its tokens.
        usage: Usage,
    },
    /// A scripted fault.
    Fault {
        /// Name of the conversation.
        conversation: String,
        /// The fault.
        fault: Fault,
    },
    /// A request without tools, such as for a title; it got a harmless text.
    SideRequest {
        /// Tokens of the text.
        usage: Usage,
    },
    /// Refused, scripted by nobody; the text says why.
    Refused {
        /// HTTP status.
        status: u16,
        /// What was wrong.
        message: String,
    },
}

impl Outcome {
    pub(crate) fn fault(conversation: &Conversation, fault: &Fault) -> Self {
        Self::Fault {
            conversation: conversation.name.clone(),
            fault: fault.clone(),
        }
    }
}

/// One request, as it arrived.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers, as sent.
    pub headers: HeaderMap,
    /// Body; empty where much newer bodies took its place.
    pub body: Bytes,
    /// Time from the provider's start to the arrival of the whole request.
    pub at: Duration,
    /// What it was answered with.
    pub outcome: Outcome,
}

impl Recorded {
    /// A header's value, where it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// What of the body decides the answer; none where it is no model request.
    pub fn request(&self) -> Option<Request> {
        let path = self.path.split('?').next().unwrap_or_default();
        Request::parse(path, &self.body).ok()
    }
}

/// Everything a provider remembers.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) requests: Vec<Recorded>,
    pub(crate) faults: FaultCounts,
    body_bytes: usize,
    /// Bodies of the requests before this one were dropped.
    dropped: usize,
}

impl Record {
    pub(crate) fn add(
        &mut self,
        head: &hyper::http::request::Parts,
        body: Bytes,
        at: Duration,
        outcome: Outcome,
    ) -> usize {
        self.body_bytes += body.len();
        while self.body_bytes > KEPT_BODY_BYTES && self.dropped < self.requests.len() {
            let old = std::mem::take(&mut self.requests[self.dropped].body);
            self.body_bytes -= old.len();
            self.dropped += 1;
        }
        self.requests.push(Recorded {
            method: head.method.clone(),
            path: head
                .uri
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            headers: head.headers.clone(),
            body,
            at,
            outcome,
        });
        self.requests.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_bodies_give_way() {
        let body = Bytes::from(vec![b' '; KEPT_BODY_BYTES / 2]);
        let (head, ()) = hyper::Request::new(()).into_parts();
        let mut record = Record::default();
        for _ in 0..4 {
            let message = "none".to_owned();
            let outcome = Outcome::Refused {
                status: 400,
                message,
            };
            record.add(&head, body.clone(), Duration::ZERO, outcome);
        }
        let kept: Vec<bool> = record
            .requests
            .iter()
            .map(|one| !one.body.is_empty())
            .collect();
        assert_eq!(kept, [false, false, true, true]);
    }
}
