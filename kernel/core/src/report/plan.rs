//! The report of a plan.

use serde::{Deserialize, Serialize};

/// The report of a planning run: how an issue is to be worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanReport {
    /// The way, in a few sentences.
    pub summary: String,
    /// What is done, in this order.
    pub steps: Vec<String>,
    /// Paths that will be touched, from the top of the repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Tests to write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<String>,
    /// What may go wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub risks: Vec<String>,
}

impl PlanReport {
    /// The plan as Markdown.
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.summary.trim_end());
        let steps = self.steps.iter().enumerate();
        let steps: String = steps
            .map(|(n, step)| format!("{}. {step}\n", n + 1))
            .collect();
        out.push_str(&format!("\n{steps}"));
        for (heading, lines) in [
            ("Paths", &self.paths),
            ("Tests", &self.tests),
            ("Risks", &self.risks),
        ] {
            if !lines.is_empty() {
                let lines: String = lines.iter().map(|line| format!("- {line}\n")).collect();
                out.push_str(&format!("\n{heading}:\n\n{lines}"));
            }
        }
        out
    }
}
