//! The figures, how they are printed, and which of them are held to a limit.

use std::fmt;

/// Values of one thing, measured several times.
#[derive(Debug, Default, Clone)]
pub struct Values(pub Vec<f64>);

impl Values {
    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The middle value; the mean of the two middle ones of an even number.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        let (low, high) = ((sorted.len() - 1) / 2, sorted.len() / 2);
        (sorted[low] + sorted[high]) / 2.0
    }

    /// The smallest value that this share of all does not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let sorted = self.sorted();
        let at = (sorted.len() as f64 * share).ceil() as usize;
        sorted[at.clamp(1, sorted.len()) - 1]
    }

    /// Each beside its floor, which was measured in turns with it: whatever else
    /// the machine does falls on both.
    pub fn beside(&self, floor: &Self) -> Self {
        assert_eq!(self.0.len(), floor.0.len(), "not measured in turns");
        Self(self.0.iter().zip(&floor.0).map(|(a, b)| a / b).collect())
    }
}

/// Lines of text, under headings.
#[derive(Debug, Default)]
pub struct Table {
    text: String,
    exceeded: Vec<String>,
}

const FIRST: usize = 62;

impl Table {
    /// Begins a part whose values are in milliseconds.
    pub fn times(&mut self, title: &str) {
        self.heading(title, &["min", "median", "max"]);
    }

    /// Begins a part with columns of its own.
    pub fn heading(&mut self, title: &str, columns: &[&str]) {
        self.text.push('\n');
        self.line(title, columns.iter().copied().map(str::to_owned));
    }

    /// One line.
    pub fn line(&mut self, name: &str, cells: impl IntoIterator<Item = String>) {
        let cells: String = cells.into_iter().map(|c| format!("{c:>11}")).collect();
        self.text.push_str(&format!("{name:<FIRST$}{cells}\n"));
    }

    /// Minimum, median and maximum.
    pub fn row(&mut self, name: &str, values: &Values) {
        let sorted = values.sorted();
        let shown = [sorted[0], values.median(), sorted[sorted.len() - 1]];
        self.line(name, shown.map(|v| format!("{v:.1}")));
    }

    /// The median of one beside the median of its floor.
    pub fn ratio(&mut self, name: &str, values: &Values, floor: &Values) {
        let ratio = values.median() / floor.median();
        self.line(name, ["".to_owned(), format!("{ratio:.2} x")]);
    }

    /// A ratio that stands for itself.
    pub fn ratio_of(&mut self, name: &str, ratio: f64) {
        self.line(
            &format!("  {name}"),
            [String::new(), format!("{ratio:.2} x")],
        );
    }

    /// A value that may be `most` at the most.
    pub fn limit(&mut self, name: &str, value: f64, most: f64, unit: &str) {
        let holds = value <= most;
        let verdict = if holds { "holds" } else { "EXCEEDED" };
        self.line(
            &format!("  {name} (at most {most}{unit})"),
            [
                String::new(),
                format!("{value:.2}{unit}"),
                verdict.to_owned(),
            ],
        );
        if !holds {
            let line = format!("{name}: {value:.2}{unit}, at most {most}{unit}");
            self.exceeded.push(line);
        }
    }

    /// A ratio that has to be at least this.
    pub fn least(&mut self, name: &str, ratio: f64, least: f64) {
        let holds = ratio >= least;
        let verdict = if holds { "holds" } else { "MISSED" };
        self.line(
            &format!("  {name} (at least {least})"),
            [format!("{ratio:.2}"), verdict.to_owned()],
        );
        if !holds {
            let line = format!("{name}: {ratio:.2}, at least {least}");
            self.exceeded.push(line);
        }
    }

    /// What is beyond its limit.
    pub fn exceeded(&self) -> &[String] {
        &self.exceeded
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
