"""The pages of the reference, from the code: command line, keys of configurations, and what of Python is public."""

from __future__ import annotations

import argparse
import functools
import textwrap
from collections.abc import Iterable, Iterator, Mapping

from site_text import escaped

from metarl import cli, studies
from metarl.config import lookup, messages
from metarl.config.messages import Key
from metarl.config.schema import AgentConfig, Frozen, RunConfig, TaskConfig

FOLDER = "reference"
# Page: title, introduction, and what it documents: a module, or a name with a dot before what is left out of its path.
PYTHON = {
    "python_use": (
        "Training and using agents",
        "What `import metarl` offers. [Using a trained agent](../trained_agents.md) shows it at work.",
        [
            *("metarl.train", "metarl.Run", "metarl.load", "metarl.load_policy", "metarl.TrainedAgent"),
            *("metarl.AdaptedPolicy", "metarl.Adaptation", "metarl.record", "metarl.MetaWorldAgent", "metarl.Notice"),
            *("metarl.api.episodes", "metarl.api.fit"),
        ],
    ),
    "python_agents": (
        "Agents and their configuration",
        "What an agent is to the rest. [An agent of your own](../own_agent.md) explains how to write one.",
        ["metarl.agent", "metarl.config.schema"],
    ),
    "python_tasks": (
        "Task families and environments",
        "What a task family is to the rest. [An environment of your own](../own_env.md) explains how to write one.",
        [
            *("metarl.tasks", "metarl.tasks.loop_env", "metarl.tasks.mujoco_batch", "metarl.tasks.registration"),
            *("metarl.tasks.wrappers", "metarl.tasks.rendering.plane", "metarl.tasks.rendering.mujoco_camera"),
        ],
    ),
    "python_types": (
        "Data, errors, random streams",
        "The words that all parts share. The letters of shapes: [architecture](../architecture.md#letters).",
        ["metarl.types", "metarl.errors", "metarl.spaces", "metarl.seeding", "metarl.statistics", "metarl.parallel"],
    ),
    "python_learning": (
        "Learning",
        "Returns, losses, adaptation and meta-gradients: functions of trajectories, which know no environment.",
        [
            *("metarl.learning.returns", "metarl.learning.baselines", "metarl.learning.critics"),
            *("metarl.learning.samples", "metarl.learning.trials", "metarl.learning.inner_losses"),
            *("metarl.learning.adaptation.interface", "metarl.learning.adaptation.inner_loop"),
            *("metarl.learning.adaptation.autograd", "metarl.learning.adaptation.analytic"),
            *("metarl.learning.adaptation.meta_lstm", "metarl.learning.adaptation.lstm_step"),
            *("metarl.learning.meta_objective", "metarl.learning.trust_region", "metarl.learning.reduce"),
            *("metarl.learning.update_rule", "metarl.learning.lifetimes"),
        ],
    ),
    "python_nn": (
        "Networks, distributions, policies, memories",
        "Networks over flat parameters, one row of them per task.",
        [
            *("metarl.nn.parameters", "metarl.nn.mlp", "metarl.nn.derivatives", "metarl.nn.distributions"),
            *("metarl.nn.policies", "metarl.nn.memory_policy", "metarl.nn.normalization", "metarl.nn.optimizers"),
            *("metarl.nn.memories.memory", "metarl.nn.memories.make", "metarl.nn.memories.recurrent"),
            *("metarl.nn.memories.transformer", "metarl.nn.memories.retrieval", "metarl.nn.memories.ntm"),
            "metarl.nn.memories.memory_network",
        ],
    ),
}


def pages() -> dict[str, str]:
    """Where each page lies in docs/, as it were, and its Markdown."""
    texts = {"command_line": command_line(), "run_keys": run_keys(), "agent_keys": agent_keys()}
    texts["task_keys"] = task_keys()
    texts |= {name: python_page(*page) for name, page in PYTHON.items()}
    return {f"{FOLDER}/{name}.md": text for name, text in texts.items()}


def python_page(title: str, about: str, names: list[str]) -> str:
    """A page that mkdocstrings fills."""
    return "\n".join([f"# {title}\n", f"{about}\n", *(f"::: {name}\n" for name in names)])


# The command line


def command_line() -> str:
    """Every command, and what it takes, from the parsers."""
    parser = cli._parser([])[0]
    lines = [
        "# Command line\n",
        "`metarl COMMAND …`, or `python -m metarl COMMAND …`; `train.py` is `metarl train`. Results go to standard",
        "output, notices and errors to standard error. The [exit codes](../runs.md#exit-codes) say what went wrong.\n",
        *_arguments(parser),
    ]
    for name, command in _commands(parser).items():
        lines += _command(f"metarl {name}", command)
    for name in studies.available():
        own = _commands(cli._parser(["reproduce", name])[0])["reproduce"]
        lines += _command(f"metarl reproduce {name}", _commands(own)[name])
    return "\n".join(lines)


def _command(name: str, parser: argparse.ArgumentParser) -> list[str]:
    parser.formatter_class = functools.partial(argparse.HelpFormatter, width=88)
    about = escaped((parser.description or "").rstrip("."))
    usage = textwrap.dedent(parser.format_usage().replace("usage: ", " " * 7, 1))
    return [f"## {name}\n", f"{about[:1].upper()}{about[1:]}.\n", f"```text\n{usage}```\n", *_arguments(parser)]


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A definition list."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        choices = "|".join(map(str, action.choices)) if action.choices else ""
        value = str(action.metavar or choices or action.dest.upper()) if action.nargs != 0 else ""
        names = [" ".join(filter(None, [option, value])) for option in action.option_strings] or [value]
        about = escaped(action.help or f"one of {choices.replace('|', ', ')}")
        yield f"{', '.join(f'`{name}`' for name in names)}\n:   {about}\n"


# Keys of configurations


def run_keys() -> str:
    """The keys that every run has, section by section."""
    own = [key for key in messages.keys(RunConfig) if "." not in key.name]
    lines = [
        "# Keys of a run\n",
        "What a configuration says beside its [agent](agent_keys.md) and its [task](task_keys.md). Any key can be",
        "given on the command line: `metarl train CONFIG seed=3 eval.every=20`. `metarl train CONFIG --help` shows all",
        "keys of CONFIG with its own values. A key without a default has to be given.\n",
        "## The run itself\n",
        *_listed(own),
    ]
    for section, field in RunConfig.model_fields.items():
        model = field.annotation
        if section not in ("task", "agent") and isinstance(model, type) and issubclass(model, Frozen):
            lines += [f"## {section}\n", f"{escaped(' '.join((model.__doc__ or '').split()))}\n"]
            lines += _listed(messages.keys(model), f"{section}.")
    return "\n".join(lines)


def agent_keys() -> str:
    """The keys of every agent's section."""
    models = {name: lookup.agent(name).config_class for name in lookup.available("agents")}
    about = (
        "The section `agent` of a configuration, agent by agent: `agent.name` chooses one, its other keys are these."
    )
    return _sections("Keys of agents", about, "agents", "agent", models)


def task_keys() -> str:
    """The keys of every task family's section."""
    models = {name: lookup.task_distribution(name).config_class for name in lookup.available("envs")}
    about = (
        "The section `task` of a configuration, family by family: `task.name` chooses one, its other keys are these."
    )
    return _sections("Keys of tasks", about, "envs", "task", models)


def _sections(
    title: str, about: str, package: lookup.Package, section: str, models: Mapping[str, type[AgentConfig | TaskConfig]]
) -> str:
    lines = [f"# {title}\n", f"{about}\n"]
    for name, model in models.items():
        lines += [f"## {name}\n", f"{escaped(lookup.summary(package, name))}\n"]
        keys = {key.name: key for key in messages.keys(model) if key.name != "name"}
        lineage = keys.pop("lineage")
        if model.lineages:
            known = f"one of {', '.join(map(messages.show, model.lineages))} or null"
            keys = {"lineage": lineage._replace(allowed=known), **keys}
        lines += _listed(keys.values(), f"{section}.", f"{name}-")
        for published, its in model.lineages.items():
            pins = ", ".join(f"`{key}: {messages.show(value)}`" for key, value in its.pins.items())
            differs = f"\n\nWhat differs: {escaped(its.differs)}" if its.differs else ""
            lines.append(
                f"<details>\n<summary>{section}.lineage: {published}</summary>\n\n"
                f"{escaped(its.why)}\n\nValues: {pins}{differs}\n\n</details>\n"
            )
    return "\n".join(lines)


def _listed(keys: Iterable[Key], prefix: str = "", anchor: str = "") -> list[str]:
    """A definition list. Every key can be linked to, as ``#agent-maml_trpo-inner_lr`` or ``#eval-every``."""
    lines = []
    for key in keys:
        name = prefix + key.name
        id_ = f"{prefix.replace('.', '-')}{anchor}{key.name}"
        value = "" if key.value == "(required)" else f" = `{key.value}`"
        meaning = f"{escaped(key.meaning)}. " if key.meaning else ""
        lines.append(f"`{name}`{{ #{id_} }}{value}\n:   {meaning}*{escaped(key.allowed)}*\n")
    return lines
