"""Runs mini-swe-agent on the task of standard input; each message becomes one line of JSON."""

import json
import sys

import litellm
from minisweagent.agents.default import DefaultAgent
from minisweagent.config import get_config_from_spec
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel

# It would print advertisements between the lines.
litellm.suppress_debug_info = True
SHOWN = 20_000


def say(**event):
    print(json.dumps(event), flush=True)


class Model(LitellmModel):
    # What the door or the provider refuses for good would be asked for minutes.
    abort_exceptions = [*LitellmModel.abort_exceptions, litellm.exceptions.BadRequestError]


class Agent(DefaultAgent):
    def add_messages(self, *messages):
        for message in messages:
            content = message.get("content") or ""
            text = content if isinstance(content, str) else json.dumps(content)
            actions = message.get("extra", {}).get("actions") or []
            commands = [action.get("command", "") for action in actions]
            if message["role"] != "system":
                say(type="mini.message", role=message["role"], text=text[:SHOWN], commands=commands)
        return super().add_messages(*messages)


def main():
    settings = json.loads(sys.argv[1])
    with open(settings["system_file"], encoding="utf-8") as file:
        system = file.read()
    config = get_config_from_spec("mini.yaml")
    model = {**config["model"], "model_name": settings["model"], "cost_tracking": "ignore_errors"}
    model["model_kwargs"] = {**model.get("model_kwargs", {}), "api_base": settings["api_base"]}
    agent = Agent(
        Model(**model),
        LocalEnvironment(**{**config["environment"], "timeout": settings["command_seconds"]}),
        # A variable, since the text is no template.
        system_template="{{ factory_system }}",
        instance_template=config["agent"]["instance_template"],
        step_limit=settings["step_limit"],
        cost_limit=settings["cost_limit"],
    )
    status, words = "", ""
    try:
        ended = agent.run(sys.stdin.read(), factory_system=system)
        status, words = ended.get("exit_status", ""), ended.get("submission", "")
    except Exception as error:
        status, words = type(error).__name__, str(error)
    say(
        type="mini.result",
        exit_status=status,
        result=words[-SHOWN:],
        api_calls=agent.n_calls,
        cost_usd=round(agent.cost, 4),
    )
    return 0 if status == "Submitted" else 1


sys.exit(main())
