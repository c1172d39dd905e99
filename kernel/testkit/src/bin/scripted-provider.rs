//! Answers model requests from a scenario file until it is interrupted.
//!
//! Prints its base URL on standard output; what it was asked goes to standard error.

use factory_testkit::{provider::Provider, scenario::Scenario};
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: scripted-provider --scenario FILE [--port PORT]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scripted-provider: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut file = None;
    let mut port = 0;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match argument.as_str() {
            "--scenario" => file = Some(PathBuf::from(value)),
            "--port" => port = value.parse().map_err(|_| USAGE)?,
            _ => return Err(USAGE.into()),
        }
    }
    let scenario = Scenario::load(&file.ok_or(USAGE)?)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let provider = Provider::start_on(port, scenario).await?;
    println!("{}", provider.base_url());
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    for request in provider.requests() {
        eprintln!(
            "{} {} -> {:?}",
            request.method, request.path, request.outcome
        );
    }
    provider.stop().await;
    Ok(())
}
