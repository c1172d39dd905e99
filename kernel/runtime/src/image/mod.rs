//! The images agents run in: a base, an engine, `factory-agent`, each a layer
//! that is found again by the hash of what went into it.

mod bootstrap;
mod build;
mod clean;
mod context;
mod error;
mod host;
mod lock;
mod own;
mod pull;
mod request;
mod sources;
mod stock;
mod verify;

pub use build::{BaseSource, base_source, build, find};
pub use error::ImageError;
pub use host::HostNetwork;
pub use own::{OwnBase, OwnFile, build_own, own_tag};
pub use request::{ImageId, ImageRequest, Layer, Progress, tag, tags};
pub use stock::{Removal, Stocked, remove, stock};
pub use verify::{Attempt, attempt};
