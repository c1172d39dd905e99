//! What a call is counted with.

use super::ModelCall;
use crate::api::BYTES_OF_A_TOKEN;
use factory_core::inbox::{InboxEntry, Usage};
use hyper::StatusCode;
use std::sync::PoisonError;

impl ModelCall {
    /// The call as it is counted. Where an answer came and the provider does not say what
    /// it used, or was cut short before, it is estimated: nobody calls models for nothing.
    pub(super) fn usage(&self, status: StatusCode, cut: bool) -> Usage {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut usage = Usage {
            status: status.as_u16(),
            millis,
            cut,
            ..self.meter.usage().clone()
        };
        if status.is_success() && self.heard > 0 && (cut || !self.meter.is_told()) {
            let told = [
                usage.input_tokens,
                usage.cache_read_tokens,
                usage.cache_write_tokens,
            ];
            if told == [0; 3] {
                usage.input_tokens = self.asked / BYTES_OF_A_TOKEN;
            }
            usage.output_tokens = usage.output_tokens.max(self.heard);
        }
        usage
    }

    pub(super) fn set_away(&self, usage: Option<Usage>) {
        let mut away = self
            .door
            .away
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *away = usage;
    }

    /// Counts the call: durable when this is true.
    pub(super) async fn count(&self, status: StatusCode, cut: bool) -> bool {
        let usage = self.usage(status, cut);
        self.note(&usage);
        let grant = self.door.grant();
        let spent = grant.models.as_ref().map(|models| models.spent(&usage));
        match self.door.append(InboxEntry::Usage(usage)).await {
            Ok(_) => {
                self.door.spending.add(spent.unwrap_or_default());
                self.set_away(None);
                true
            }
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::error!(run = %self.door.run(), error, "a model call was not counted");
                false
            }
        }
    }

    /// Nobody waits for an answer any more of which nothing came. The provider may have
    /// worked on it.
    pub(super) async fn left(&mut self) {
        self.heard = 1;
        self.count(StatusCode::OK, true).await;
    }

    pub(super) fn note(&self, usage: &Usage) {
        let stores = self.door.stores();
        stores
            .transcripts
            .call(self.door.run(), (stores.clock)(), usage);
    }
}
