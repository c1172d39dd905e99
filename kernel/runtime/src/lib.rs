//! Containers: the Runtime trait, Docker, and the images agents run in.

pub mod docker;
pub mod image;
mod runtime;

pub use runtime::{
    Cause, ContainerState, ContainerStatus, Created, EngineInfo, Exit, LABEL_EPOCH, LABEL_HOME,
    LABEL_RUN, LABEL_SPEC, Runtime, RuntimeError, Started,
};
