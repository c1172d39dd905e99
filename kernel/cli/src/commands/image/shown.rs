//! A build as a person sees it.

use crate::views::{self, Drawn};
use factory_runtime::image::{Layer, Progress};
use std::time::{Duration, Instant};

/// Where no line can be rewritten, a layer says this often that it goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// On a terminal, the line is rewritten at most this often.
const REDRAW: Duration = Duration::from_millis(100);

/// A build on standard error: one line per layer, rewritten on a terminal.
pub(super) struct Shown {
    terminal: bool,
    columns: usize,
    /// When the layer under way began, and what was last said of it.
    began: Instant,
    said: Instant,
    /// The step of the build under way, and how many there are.
    steps: Option<(u64, u64)>,
}

impl Shown {
    pub(super) fn new() -> Self {
        let columns = Drawn::Err.columns().filter(|columns| *columns > 20);
        Self {
            terminal: Drawn::Err.is_terminal(),
            columns: columns.unwrap_or(80),
            began: Instant::now(),
            said: Instant::now(),
            steps: None,
        }
    }

    pub(super) fn step(&mut self, step: Progress) {
        match step {
            Progress::Waiting => self.line("another image is being built; waiting for it"),
            Progress::Found { .. } => {}
            Progress::Started { layer, tag } => {
                self.began = Instant::now();
                self.said = self.began;
                self.steps = None;
                let size = match layer {
                    Layer::Own => ", as the repository's Dockerfile says",
                    Layer::Base | Layer::Engine => "; it takes about a minute, once",
                    Layer::Agent => "",
                };
                self.line(&format!(
                    "building the {layer} layer of the image ({tag}){size}"
                ));
            }
            Progress::Line { layer, text } => {
                let text = text.trim();
                if let Some((step, steps)) = step_of(text) {
                    self.steps = Some((step, steps));
                }
                let bar = self.steps.map(|(step, steps)| self.bar(step, steps));
                self.update(layer, &format!("{}{text}", bar.unwrap_or_default()));
            }
            Progress::Bytes { layer, done, total } => {
                let mega = |bytes: u64| bytes / 1_000_000;
                let text = match total {
                    Some(total) => {
                        format!(
                            "{}{} of {} MB",
                            self.bar(done, total),
                            mega(done),
                            mega(total)
                        )
                    }
                    None => format!("{} MB", mega(done)),
                };
                self.update(layer, &text);
            }
            Progress::Done { layer, .. } => {
                let seconds = self.began.elapsed().as_secs_f32();
                self.line(&format!("built the {layer} layer in {seconds:.1} s"));
            }
        }
    }

    /// A bar on a terminal, nothing elsewhere.
    fn bar(&self, done: u64, total: u64) -> String {
        match self.terminal {
            true => bar(done, total),
            false => String::new(),
        }
    }

    fn update(&mut self, layer: Layer, text: &str) {
        let often = if self.terminal { REDRAW } else { SIGN_OF_LIFE };
        if self.said.elapsed() < often {
            return;
        }
        self.said = Instant::now();
        let seconds = self.began.elapsed().as_secs();
        let line = format!("{layer} layer, {seconds} s: {text}");
        if self.terminal {
            let line: String = views::line(&line).chars().take(self.columns - 1).collect();
            Drawn::Err.draw(true, &line);
        } else {
            Drawn::Err.draw(false, &format!("{line}\n"));
        }
    }

    /// A line that stays.
    fn line(&mut self, text: &str) {
        self.clear();
        Drawn::Err.draw(false, &format!("{text}\n"));
    }

    /// Takes the rewritten line away.
    pub(super) fn clear(&mut self) {
        if self.terminal {
            Drawn::Err.draw(true, "");
        }
    }
}

/// How far something is, such as `[####----------------] `.
fn bar(done: u64, total: u64) -> String {
    const WIDTH: usize = 20;
    let part = u128::from(done.min(total)) * WIDTH as u128;
    let filled = part.checked_div(u128::from(total)).unwrap_or(0) as usize;
    let open = WIDTH - filled;
    format!("[{}{}] ", "#".repeat(filled), "-".repeat(open))
}

/// The numbers in what the builder says at the begin of a step: `Step 2/5 : RUN …`.
fn step_of(text: &str) -> Option<(u64, u64)> {
    let (numbers, _) = text.strip_prefix("Step ")?.split_once(" : ")?;
    let (step, steps) = numbers.split_once('/')?;
    Some((step.parse().ok()?, steps.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_steps() {
        assert_eq!(bar(0, 10), "[--------------------] ");
        assert_eq!(bar(5, 10), "[##########----------] ");
        assert_eq!(bar(11, 10), "[####################] ");
        assert_eq!(bar(3, 0), "[--------------------] ");
        assert_eq!(bar(u64::MAX, u64::MAX), bar(1, 1));
        assert_eq!(step_of("Step 2/15 : RUN apt-get update"), Some((2, 15)));
        for other in [
            "Step by step",
            "Step 1 : x",
            "Get:1 http://x",
            "Step a/b : x",
        ] {
            assert_eq!(step_of(other), None, "{other}");
        }
    }
}
