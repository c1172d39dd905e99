//! Changes to files of the state tree.

/// One file written or removed by a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Path from the root of the state tree, with `/`.
    pub path: String,
    /// The new content; none removes the file.
    pub content: Option<Vec<u8>>,
}
