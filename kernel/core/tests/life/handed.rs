//! What agents that only read hand in.

use crate::world::World;
use factory_core::{grant::Role, model::Run, report};
use serde_json::json;

/// The report of a run: none where it forgot it.
pub fn report(world: &mut World, run: &Run, luck: u64) -> Option<String> {
    let role = match luck {
        1 => return None,
        // That of another role, which its door would not have let in.
        3 => Role::Code,
        _ => run.grant.role,
    };
    let text = match role {
        Role::Split => split(world, run),
        Role::Plan => json!({"summary": "One way.", "steps": ["Do it.", "Test it."]}),
        Role::Review => return Some(any_review(world)),
        Role::Code | Role::Check => json!({"summary": "All of it is done."}),
    };
    let text = text.to_string();
    Some(report::validate(role, text.as_bytes()).unwrap())
}

/// The report of a review.
pub fn review(verdict: &str, confidence: f64) -> String {
    let remark = json!({"path": "src/a.rs", "line": 7, "severity": "minor", "text": "Why?"});
    let text = json!({
        "verdict": verdict,
        "confidence": confidence,
        "summary": "I read it.",
        "comments": [remark],
    });
    report::validate(Role::Review, text.to_string().as_bytes()).unwrap()
}

fn any_review(world: &mut World) -> String {
    let luck = match world.trouble {
        true => world.dice.roll(10),
        false => 9,
    };
    let (verdict, confidence) = match luck {
        0..3 => ("request_changes", 0.9),
        3 => ("reject", 1.0),
        4 => ("approve", 0.4),
        _ => ("approve", 0.95),
    };
    review(verdict, confidence)
}

/// Up to three issues, of which each may wait for those before; some are open already.
fn split(world: &mut World, run: &Run) -> serde_json::Value {
    let count = 1 + world.dice.roll(3);
    let mut issues = Vec::new();
    for n in 0..count {
        let mut on = Vec::new();
        for before in 0..n {
            if world.dice.roll(2) == 0 {
                on.push(format!("k{before}"));
            }
        }
        let open = match world.trouble && world.dice.roll(4) == 0 {
            true => world.state.issues.values().next(),
            false => None,
        };
        // No two of a report may have the same.
        let open = open.filter(|_| n == 0);
        let title = open.map_or(format!("Part {n} of {}", run.id), |open| open.title.clone());
        let complexity = ["low", "medium", "high"][world.dice.roll(3) as usize];
        issues.push(json!({
            "key": format!("k{n}"),
            "title": title,
            "body": "Do this part.",
            "acceptance": ["It works."],
            "paths": [format!("src/{n}")],
            "depends_on": on,
            "complexity": complexity,
        }));
    }
    json!({"summary": "In parts.", "issues": issues})
}
