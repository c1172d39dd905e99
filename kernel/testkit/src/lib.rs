//! For tests and the demo: a scripted model provider and a Runtime double.

pub mod anthropic;
mod diff;
pub mod double;
mod openai;
mod plan;
pub mod project;
pub mod provider;
mod record;
pub mod scenario;
pub mod served;
mod tools;
