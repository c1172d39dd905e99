//! The report of a plan.

use super::reading::{Kind, Reading, count, each};
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
        let paths: Vec<String> = self.paths.iter().map(|path| format!("`{path}`")).collect();
        for (heading, lines) in [
            ("Paths", &paths),
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

impl Reading for PlanReport {
    const EXAMPLE: &'static str = r#"{"summary": "The way, in a few sentences.", "steps": ["First this."], "paths": ["src/a.py"], "tests": ["What is tested, and where."], "risks": ["What may go wrong."]}"#;

    fn texts(&self) -> Vec<(String, &str, Kind)> {
        let summary = ("summary".to_owned(), self.summary.as_str(), Kind::Prose);
        std::iter::once(summary)
            .chain(each("steps", &self.steps, Kind::Line))
            .chain(each("paths", &self.paths, Kind::Path))
            .chain(each("tests", &self.tests, Kind::Line))
            .chain(each("risks", &self.risks, Kind::Line))
            .collect()
    }

    fn prose_mut(&mut self) -> Vec<&mut String> {
        std::iter::once(&mut self.summary)
            .chain(&mut self.steps)
            .chain(&mut self.tests)
            .chain(&mut self.risks)
            .collect()
    }

    fn flaw(&self) -> Option<String> {
        count("steps", self.steps.len(), 1, 30)
            .or_else(|| count("paths", self.paths.len(), 0, 50))
            .or_else(|| count("tests", self.tests.len(), 0, 50))
            .or_else(|| count("risks", self.risks.len(), 0, 50))
    }
}
