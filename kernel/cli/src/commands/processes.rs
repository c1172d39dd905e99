//! `start` and the processes that it starts.

use crate::{
    args::Start,
    clock,
    commands::image,
    factory::Factory,
    failure::{Class, Failure},
    kernel::{self, ImageOf, Options},
    keys, launcher,
    views::Traced,
};
use factory_core::state::State;
use factory_gateway::{GatewayOptions, Keys, Redactor, keys::file};
use factory_ledger::state::StateRepo;
use factory_runtime::docker::{self, DockerRuntime};
use std::{
    ffi::OsString,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tracing_subscriber::fmt::MakeWriter;

/// `factory start`.
pub fn start(cwd: &Path, options: &Start) -> Result<ExitCode, Failure> {
    let mut passed_on: Vec<OsString> = vec!["--directory".into(), cwd.into()];
    if let Some(slots) = options.slots {
        passed_on.extend(["--slots".into(), slots.to_string().into()]);
    }
    if options.until_idle {
        passed_on.push("--until-idle".into());
    }
    if let Some(config) = &options.config {
        passed_on.extend(["--config".into(), config.into()]);
    }
    if let Some(target) = &options.target {
        passed_on.extend(["--target".into(), target.into()]);
    }
    if options.take_over {
        passed_on.push("--take-over".into());
    }
    if let Some(remote) = &options.remote {
        passed_on.extend(["--remote".into(), remote.into()]);
    }
    if options.merges_only {
        passed_on.push("--merges-only".into());
    }
    let key_file = match options.merges_only {
        // Merging needs no key, and is not held up by what is wrong with one.
        true => keys::file().unwrap_or_default(),
        false => keys::file()?,
    };
    let code = launcher::launch(&cwd.into(), &passed_on, key_file)?;
    Ok(ExitCode::from(code))
}

/// A runtime on this thread: none of our processes has enough to do for two.
pub fn on_this_thread<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// Shows what is traced on standard error: warnings, or what `RUST_LOG` asks for.
pub fn log_to_stderr() {
    log_to(|| Traced);
}

fn log_to(writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static) {
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .without_time()
        .init();
}

/// The kernel's process.
pub fn kernel(cwd: &Path, options: Start) -> Result<ExitCode, Failure> {
    log_to_stderr();
    let opened = kernel::open(cwd, options.target, options.config.as_deref());
    let (factory, lock) = match opened {
        // The other one settles them too, and its caller sees that.
        Err(busy) if options.merges_only && busy.class() == Class::Busy => {
            return Ok(ExitCode::from(Class::Busy.code()));
        }
        opened => opened?,
    };
    let options = Options {
        slots: options.slots,
        until_idle: options.until_idle,
        merges_only: options.merges_only,
        follow_target: options.config.is_none(),
    };
    on_this_thread(async move {
        let connection = docker::connect().await?;
        let client = connection.client.clone();
        let user = factory.user.clone();
        let images: ImageOf = Arc::new(move |config, commit| {
            let (client, user) = (client.clone(), user.clone());
            Box::pin(async move { image::find(&client, config, user, commit).await })
        });
        let runtime = DockerRuntime::new(connection).await?;
        Ok(ExitCode::from(
            kernel::run(factory, lock, runtime, images, options).await?,
        ))
    })
}

/// The gateway's process: model keys come over standard input, and from the user's `keys.env`.
pub fn gateway(cwd: &Path) -> Result<ExitCode, Failure> {
    let redactor = Redactor::default();
    let log = redactor.clone();
    log_to(move || log.before(Traced));
    let internal = |error| Failure::of(Class::Internal, error);
    let given = factory_gateway::keys::read_stdin().map_err(internal)?;
    let keys = Keys::new(given, file::place(), redactor);
    let factory = Factory::open(cwd)?;
    let places = factory.places.clone();
    let newest = AtomicU64::new(factory.state.meta.step);
    let options = GatewayOptions {
        places: places.clone(),
        keys,
        clock: Arc::new(|| clock::now().0),
        grants: Arc::new(move || {
            let store = StateRepo::open(&places)?;
            // A state that is gone or set back must close no door of a run that lives.
            let head = store.head()?.ok_or("the state is gone")?;
            let state = State::decode(&store.read_live(&head)?)?;
            if newest.fetch_max(state.meta.step, Ordering::Relaxed) > state.meta.step {
                return Err("the state was set back".into());
            }
            Ok(state
                .runs
                .into_values()
                .filter(|run| run.is_open())
                .map(|run| run.grant)
                .collect())
        }),
        timing: factory_gateway::Timing::default(),
    };
    on_this_thread(async move { factory_gateway::run(options).await.map_err(internal) })?;
    Ok(ExitCode::SUCCESS)
}
