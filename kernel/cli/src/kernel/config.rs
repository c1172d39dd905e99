//! Taking up what the target's `factory.yaml` says. A wrong one changes nothing: the one
//! before stays in force until it is mended.

use super::{
    Outcome,
    tools::{Tools, Work},
};
use crate::{
    factory::read_config,
    failure::{Class, Failure},
};
use factory_core::{config::Config, event::Event, ids::Oid, state::State};
use factory_ledger::user::UserRepo;
use factory_runtime::Runtime;
use std::sync::Arc;

/// What looking at `factory.yaml` came to.
pub enum Looked {
    /// It is in force.
    Same,
    /// It differs from the one in force.
    Another(Event),
    /// It is wrong.
    Wrong(Failure),
}

impl Looked {
    /// Compares the `factory.yaml` of a commit with the one in force.
    pub fn at(user: &UserRepo, commit: &Oid, in_force: &Config) -> Result<Self, Failure> {
        match read_config(user, commit, &in_force.engine) {
            Ok((_, config)) if config == *in_force => Ok(Looked::Same),
            Ok((commit, config)) => Ok(Looked::Another(Event::ConfigLoaded {
                commit,
                config: Box::new(config),
            })),
            Err(failure) if failure.class() == Class::Config => Ok(Looked::Wrong(failure)),
            Err(failure) => Err(failure),
        }
    }
}

impl From<Looked> for Outcome {
    fn from(looked: Looked) -> Self {
        match looked {
            Looked::Same => Self {
                config: Some(Ok(())),
                ..Self::default()
            },
            Looked::Another(event) => Self {
                events: vec![event],
                config: Some(Ok(())),
                ..Self::default()
            },
            Looked::Wrong(failure) => Self {
                config: Some(Err(failure)),
                ..Self::default()
            },
        }
    }
}

/// Looks at the target's `factory.yaml`.
pub fn look<R: Runtime>(tools: Arc<Tools<R>>, state: &State) -> Work {
    let target = state.meta.target.clone();
    let in_force = state.config.config.clone();
    Box::pin(async move {
        let looked = tools.git(move |repos| match repos.user.tip(&target)? {
            Some(tip) => Looked::at(&repos.user, &tip, &in_force),
            // Whoever wants to work says so.
            None => Ok(Looked::Same),
        });
        Ok(looked.await?.into())
    })
}
