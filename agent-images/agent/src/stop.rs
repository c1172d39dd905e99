//! Why a run is to end early: asked from outside, or out of time.

use std::{convert::Infallible, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};

/// Counts a span of time that this process itself saw pass. The monotonic clock
/// stands still in suspend, but not while this process is stopped or its
/// container frozen: a tick that arrives late counts at most twice its length.
#[derive(Debug)]
pub struct Awake {
    limit: Duration,
    left: Duration,
}

impl Awake {
    /// All of `limit` is left.
    pub fn new(limit: Duration) -> Self {
        Self { limit, left: limit }
    }

    /// All of the limit is left again.
    pub fn reset(&mut self) {
        self.left = self.limit;
    }

    /// Waits for the next tick; true once nothing of the limit is left.
    pub async fn tick(&mut self) -> bool {
        // Few wake-ups for limits of minutes, precision for short ones.
        let tick = (self.limit / 60).clamp(Duration::from_millis(100), Duration::from_secs(10));
        let tick = tick.min(self.left);
        let before = Instant::now();
        tokio::time::sleep(tick).await;
        self.left = self.left.saturating_sub(before.elapsed().min(tick * 2));
        self.left.is_zero()
    }
}

/// How long an engine has between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(10);

/// Reason to end what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// SIGTERM or SIGINT reached the agent.
    Asked,
    /// The run's awake time is used up.
    Deadline,
    /// The workspace takes more of the disk than it may.
    Disk,
}

impl Why {
    /// For logs and for texts of a run's end.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Asked => "the agent was told to stop",
            Why::Deadline => "the run's time was used up",
            Why::Disk => "the work tree took more of the disk than its limit (limits.disk)",
        }
    }

    /// How long what runs has to end by itself. What fills the disk would go on with it.
    pub fn grace(self) -> Duration {
        match self {
            Why::Asked | Why::Deadline => GRACE,
            Why::Disk => Duration::ZERO,
        }
    }
}

/// Says whether, and lets wait until, the run is to end.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Option<Why>>);

/// Makes a [`Stop`] come true. The first reason stays.
#[derive(Debug)]
pub struct Stopper(watch::Sender<Option<Why>>);

/// A stop that has not happened, and what brings it about.
pub fn pair() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(None);
    (Stopper(sender), Stop(receiver))
}

impl Stop {
    /// The reason, once there is one.
    pub fn now(&self) -> Option<Why> {
        *self.0.borrow()
    }

    /// Returns when the run is to end.
    pub async fn wait(&self) -> Why {
        let mut receiver = self.0.clone();
        match receiver.wait_for(Option::is_some).await {
            Ok(why) => why.unwrap_or(Why::Asked),
            // The stopper lives as long as the process; without it nothing can stop.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Stopper {
    /// The run is to end for this reason.
    pub fn stop(&self, why: Why) {
        self.0.send_if_modified(|now| {
            let first = now.is_none();
            if first {
                crate::log(format_args!("stop: {}", why.as_str()));
                *now = Some(why);
            }
            first
        });
    }

    /// Watches for signals for ever. Pid 1 gets only signals it has asked for.
    ///
    /// # Errors
    /// The system refuses a signal handler.
    pub fn signals(&self) -> std::io::Result<impl Future<Output = Infallible> + use<'_>> {
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        Ok(async move {
            loop {
                tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
                self.stop(Why::Asked);
            }
        })
    }

    /// Stops once `wall` of awake time is used up.
    pub async fn deadline(&self, wall: Duration) -> Infallible {
        let mut awake = Awake::new(wall);
        while !awake.tick().await {}
        self.stop(Why::Deadline);
        std::future::pending().await
    }
}
