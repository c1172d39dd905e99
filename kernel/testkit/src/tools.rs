//! An answer's tool calls in the words of the engine that asked: scenarios use
//! Claude Code's tools, other engines have one that runs shell commands.

use crate::anthropic::Request;
use crate::scenario::{Answer, ToolCall};
use serde_json::{Value, json};
use std::borrow::Cow;

/// Replaces the one place in file `$ARGV[0]`; perl is wherever git is.
const EDIT: &str = r#"($f,$a,$b)=@ARGV; open F,"<",$f or die $!; local $/; $_=<F>; close F; $i=index($_,$a); die "not found" if $i<0; substr($_,$i,length $a)=$b; open F,">",$f or die $!; print F $_"#;
/// What ends a run of mini-swe-agent.
const SUBMIT: &str = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT";

/// The answer as the engine of `request` can carry it out.
pub(crate) fn translated<'a>(answer: &'a Answer, request: &Request) -> Cow<'a, Answer> {
    let offered = |name: &str| request.offered.iter().any(|offered| offered == name);
    let shell = if offered("exec_command") {
        Shell::Codex
    } else if offered("bash") {
        Shell::Mini
    } else {
        return Cow::Borrowed(answer);
    };
    let mut answer = answer.clone();
    for call in &mut answer.tools {
        if !offered(&call.tool) {
            shell.translate(call);
        }
    }
    // It takes an answer without a call for a mistake.
    if answer.tools.is_empty() && shell == Shell::Mini {
        answer
            .tools
            .push(ToolCall::new("bash", [("command", SUBMIT.into())]));
    }
    Cow::Owned(answer)
}

/// How an engine runs a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shell {
    Codex,
    Mini,
}

impl Shell {
    fn translate(self, call: &mut ToolCall) {
        let input = |name: &str| call.input.get(name).and_then(Value::as_str);
        let quoted = |name: &str| quote(input(name).unwrap_or_default());
        let command = match call.tool.as_str() {
            "Bash" => input("command").map(str::to_owned),
            "Read" => Some(format!("cat {}", quoted("file_path"))),
            "Write" => Some(format!(
                "mkdir -p \"$(dirname {path})\" && printf %s {} >{path}",
                quoted("content"),
                path = quoted("file_path")
            )),
            "Edit" => Some(format!(
                "perl -e {} {} {} {}",
                quote(EDIT),
                quoted("file_path"),
                quoted("old_string"),
                quoted("new_string")
            )),
            // A call that is wrong on purpose.
            _ => return,
        };
        let (tool, argument) = match self {
            Shell::Codex => ("exec_command", "cmd"),
            Shell::Mini => ("bash", "command"),
        };
        call.tool = tool.to_owned();
        if let Some(command) = command {
            call.input = [(argument.to_owned(), json!(command))]
                .into_iter()
                .collect();
        }
    }
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use factory_core::grant::WireApi;
    use std::process::Command;

    fn request(tool: &str) -> Request {
        Request {
            api: WireApi::Responses,
            model: String::new(),
            stream: true,
            tools: true,
            offered: vec![tool.to_owned()],
            turns: Vec::new(),
            system: String::new(),
            prompt: String::new(),
        }
    }

    #[test]
    fn commands_do_what_the_tools_would() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it's here/a.txt");
        let file = path.to_str().unwrap();
        let answer = Answer {
            tools: vec![
                ToolCall::new(
                    "Write",
                    [
                        ("file_path", file.into()),
                        ("content", "one\n$two\n'three'\n".into()),
                    ],
                ),
                ToolCall::new(
                    "Edit",
                    [
                        ("file_path", file.into()),
                        ("old_string", "$two\n'".into()),
                        ("new_string", "\\2 \"x\"\n'".into()),
                    ],
                ),
                ToolCall::new("Read", [("file_path", file.into())]),
            ],
            ..Answer::default()
        };
        for (tool, argument) in [("exec_command", "cmd"), ("bash", "command")] {
            let mut said = String::new();
            for call in &translated(&answer, &request(tool)).tools {
                assert_eq!(call.tool, tool);
                let command = call.input[argument].as_str().unwrap();
                let output = Command::new("sh").args(["-c", command]).output().unwrap();
                assert!(output.status.success(), "{command}: {output:?}");
                said = String::from_utf8(output.stdout).unwrap();
            }
            assert_eq!(said, "one\n\\2 \"x\"\n'three'\n");
        }
    }

    #[test]
    fn what_an_engine_knows_or_nobody_knows_stays() {
        let done = Answer {
            text: Some("Done.".to_owned()),
            ..Answer::default()
        };
        assert_eq!(*translated(&done, &request("Bash")), done);
        assert_eq!(*translated(&done, &request("exec_command")), done);
        let submitted = translated(&done, &request("bash"));
        assert_eq!(submitted.tools[0].input["command"], SUBMIT);
        let wrong = Answer {
            tools: vec![
                ToolCall::new("Nothing", []),
                ToolCall::new("Bash", [("x", 1.into())]),
            ],
            ..Answer::default()
        };
        let sent = translated(&wrong, &request("exec_command"));
        assert_eq!(sent.tools[0], wrong.tools[0]);
        assert_eq!(
            sent.tools[1],
            ToolCall::new("exec_command", [("x", 1.into())])
        );
    }
}
