//! The fault sweep: wherever launcher, kernel, gateway or a container die, the
//! factory comes to the same end.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at what it did not expect, its helpers too"
)]

mod agent;
mod docker;
mod double;
mod pass;
mod random;
mod scene;

use factory_tests::{Difference, End};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Each sweep wants the machine for itself.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all ends of a sweep come to.
#[derive(Debug, Default)]
struct Sum {
    passes: usize,
    kills: usize,
    lost: usize,
    doubled: usize,
    /// What went wrong, with the story.
    stories: Vec<String>,
}

impl Sum {
    /// Holds an end against the undisturbed one; `story` is told where they differ.
    fn add(&mut self, end: &End, undisturbed: &End, story: impl FnOnce() -> String) {
        self.passes += 1;
        let Difference { lost, doubled } = end.beside(undisturbed);
        if !lost.is_empty() || !doubled.is_empty() {
            let story = story();
            self.stories
                .push(format!("lost: {lost:#?}\ndoubled: {doubled:#?}\n{story}"));
        }
        self.lost += lost.len();
        self.doubled += doubled.len();
    }
}
