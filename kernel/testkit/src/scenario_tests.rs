use super::*;

const ALL: &str = r#"
conversations:
  - name: everything
    when: {contains: "a task", model: claude-sonnet-4-5, turn: 2}
    steps:
      - text: Let me look.
        tool: Read
        input: {file_path: /workspace/a, limit: 3}
        wait: reading
      - {status: 429, retry_after: 2}
      - {status: 401, times: always}
      - {cut_after_events: 3, times: 4}
      - {error_event: overloaded_error}
      - {silent_after_events: 2}
      - {bad_call: true}
      - {too_long: true}
      - {no_credit: true}
      - hang: true
      - wait: both
      - tools:
          - {tool: Bash, input: {command: "printf '%s\n' \"no: yes\" # 1", description: "1"}}
          - tool: Write
            input:
              file_path: /workspace/b
              content: |
                on: 012

                - "x"   
      - text: "null"
"#;

#[test]
fn a_scenario_survives_being_written_and_read() {
    let scenario = Scenario::parse(ALL, "all.yaml").unwrap();
    let yaml = scenario.to_yaml().unwrap();
    assert_eq!(Scenario::parse(&yaml, "again").unwrap(), scenario, "{yaml}");
    let steps = &scenario.conversations[0].steps;
    assert_eq!(steps.len(), 12);
    assert_eq!(
        steps[1],
        Step::Fault {
            fault: Fault::Status {
                code: 429,
                retry_after: Some(2)
            },
            times: Times::Limited(1)
        }
    );
    assert!(matches!(&steps[10], Step::Answer(answer) if answer.wait.as_deref() == Some("both")));
    let Step::Answer(Answer { tools, .. }) = &steps[10] else {
        panic!("{:?}", steps[10])
    };
    assert_eq!(tools[0].input["description"], "1");
    assert_eq!(tools[1].input["content"], "on: 012\n\n- \"x\"   \n");
    assert_eq!(
        scenario.waits().collect::<Vec<_>>(),
        ["reading", HANG, "both"]
    );
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("{}", "says nothing"),
        ("{tool: Bash}", "needs `input`"),
        ("{input: {}}", "says nothing"),
        ("{text: a, status: 500}", "mixes"),
        ("{status: 500, hang: true}", "mixes"),
        ("{status: 200}", "is no error"),
        ("{status: 500, times: 0}", "from 1"),
        ("{status: 500, times: often}", "always"),
        ("{text: a, times: 2}", "belong to faults"),
        ("{hang: true, wait: a}", "belong to answers"),
        ("{hang: false}", "only be true"),
        ("{hang: true, retry_after: 1}", "needs `status`"),
        ("{cut_after_events: 1}", "needs an answer"),
        ("{wait: a}", "needs an answer"),
        ("{wait: a}\n      - {text: b, wait: c}", "keep one"),
        ("{txet: a}", "txet"),
    ];
    for (step, expected) in cases {
        let yaml = format!("conversations:\n  - name: fix\n    steps:\n      - {step}\n");
        let error = Scenario::parse(&yaml, "bad.yaml").unwrap_err();
        let source = std::error::Error::source(&error)
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(
            format!("{error} {source}").contains(expected),
            "{step}: {error}: {source}"
        );
        assert!(error.to_string().contains("bad.yaml"), "{error}");
    }
    let error = Scenario::parse("conversations: [{name: a, steps: []}]", "x").unwrap_err();
    assert!(matches!(error, ScenarioError::Empty { .. }), "{error}");
}

#[test]
fn thousands_of_steps_are_fine() {
    let step = Step::Answer(Answer {
        text: None,
        tools: vec![ToolCall::bash("true", "Do nothing")],
        wait: None,
    });
    let steps = vec![step; 20_000];
    let conversations = vec![Conversation {
        name: "long".to_owned(),
        when: When::default(),
        steps,
    }];
    let yaml = Scenario { conversations }.to_yaml().unwrap();
    assert_eq!(
        Scenario::parse(&yaml, "long").unwrap().conversations[0]
            .steps
            .len(),
        20_000
    );
}
