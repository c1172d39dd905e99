//! The scripted model, served from a thread of its own.

use factory_testkit::{
    provider::{Provider, Recorded},
    scenario::Scenario,
};
use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
};
use tokio::{runtime::Builder, sync::oneshot};

/// A provider on loopback; ends with this value.
pub struct Model {
    provider: Arc<Provider>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Model {
    /// Serves a scenario's YAML.
    pub fn yaml(text: &str) -> Self {
        Self::serve(Scenario::parse(text, "scenario").unwrap())
    }

    /// Serves a scenario.
    pub fn serve(scenario: Scenario) -> Self {
        let (ready, provider) = mpsc::channel();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let provider = Provider::start(scenario).await.unwrap();
                ready.send(Arc::new(provider)).unwrap();
                // Dropped or told: both mean the end.
                ended.await.ok();
            });
        });
        Self {
            provider: provider.recv().unwrap(),
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// What `factory.yaml` names as `base_url`.
    pub fn base_url(&self) -> String {
        self.provider.base_url()
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.provider.requests()
    }

    /// Blocks until an answer is held under `name`.
    pub fn reached(&self, name: &str) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(crate::start::LONGEST, self.provider.reached(name))
                .await
                .expect("the model was asked in time")
                .unwrap();
        });
    }

    /// Lets what is held under `name` go on.
    pub fn release(&self, name: &str) {
        self.provider.release(name).unwrap();
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}
