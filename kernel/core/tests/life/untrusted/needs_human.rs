//! What runs wrote and printed, in the comment that tells a person to look.

use crate::{
    given::{config, file},
    world::World,
};
use factory_core::{
    event::{Command, Event, MergeResult},
    ids::{IssueNo, PrNo},
    model::Stage,
};

/// No token of anybody, put together here so that nobody takes this file for a leak.
fn token() -> String {
    format!("gh{}_{}", 'p', "aZ3kQ9xL7mB2vN8cT5rW1yH6jD4fS0gPqEuI")
}

/// The comment that comes of what breaks rules until the rounds are used up, and the pull
/// request's note.
fn told(findings: &str) -> (String, String) {
    let (one, pr) = (IssueNo(1), PrNo(1));
    let by = |command| Event::Command {
        by: "ann".into(),
        command,
    };
    let mut world = World::new(7, false, config(false));
    file(&mut world, "One");
    assert!(world.journal(by(Command::Approve(one))));
    loop {
        world.until_idle();
        if *world.state.jobs[&one].stage() == Stage::NeedsHuman {
            break;
        }
        assert!(world.journal(by(Command::MergePr(pr))));
        let event = Event::MergeMade {
            pr,
            target: world.target.clone(),
            result: MergeResult::Forbidden {
                findings: findings.to_owned(),
                person: None,
            },
        };
        assert!(world.journal(event));
    }
    let comment = world.state.comments_of(one).last().unwrap().text.clone();
    let note = world.state.prs[&pr].note.clone().unwrap();
    (comment, note)
}

#[test]
fn what_runs_wrote_tells_nobody_and_holds_no_secret() {
    let token = token();
    let (comment, note) = told(&format!("@ann look at {token}\n```\n# Mine"));
    for text in [&comment, &note] {
        assert!(!text.contains(&token), "{text}");
        assert!(text.contains("[secret removed: github-pat]"), "{text}");
    }
    // The output cannot end its fence, and in the story nobody is told.
    let fenced = "\n````text\n@ann look at [secret removed: github-pat]\n```\n# Mine\n````\n";
    assert!(comment.contains(fenced), "{comment}");
    assert!(
        comment.contains(": ````@ann```` look at [secret"),
        "{comment}"
    );
    assert!(note.contains("`@ann`"), "{note}");
    // The draft of a postmortem is whole, and cannot end its fence either.
    let (_, draft) = comment.split_once("into `postmortems/`:\n\n").unwrap();
    let parts = [
        "# Issue 1: One\n",
        "**What was wanted.** body",
        "**What happened.**\n\n- tier medium",
        "**What did not converge.** Your work breaks rules of the target branch",
        "**What we learn:**\n",
        "**Principle or prohibition:**\n````\n",
    ];
    let at: Vec<Option<usize>> = parts.iter().map(|part| draft.find(part)).collect();
    assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{draft}");
    assert!(
        draft.starts_with("````text\n") && draft.ends_with("\n````\n"),
        "{draft}"
    );
    assert!(
        comment.contains("`factory issue approve 1` tries again"),
        "{comment}"
    );
}
