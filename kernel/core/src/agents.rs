//! Agents: who does the work of each role, and with what words.

use crate::grant::Role;

/// The built-in agent of a role: front matter and prompt. A check has none.
pub fn builtin(role: Role) -> &'static str {
    match role {
        Role::Split => include_str!("../../../agent-images/agents/splitter.md"),
        Role::Plan => include_str!("../../../agent-images/agents/planner.md"),
        Role::Code => include_str!("../../../agent-images/agents/worker.md"),
        Role::Review => include_str!("../../../agent-images/agents/reviewer.md"),
        Role::Check => "",
    }
}

/// What follows the front matter.
pub fn prompt(agent: &str) -> &str {
    agent
        .strip_prefix("---\n")
        .and_then(|rest| rest.split_once("\n---\n"))
        .map_or(agent, |(_, prompt)| prompt)
}
