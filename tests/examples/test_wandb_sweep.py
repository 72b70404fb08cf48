"""The example of a sweep of Weights & Biases: the command lines that its agent makes of it can be run."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import tiny_runs
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from metarl import cli
from metarl.config import loading

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "examples" / "wandb_sweep.yaml"


def command(values: dict[str, object]) -> list[str]:
    """What wandb's agent runs for a setting: macros are replaced as it does."""
    sweep = load_sweep_config(str(FILE))
    assert sweep is not None
    arguments = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    macros = {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]], **arguments}
    words = create_sweep_command(sweep["command"])
    return list(itertools.chain.from_iterable(macros.get(word[2:-1], [word]) for word in words))


def settings() -> list[dict[str, object]]:
    """Every choice of every parameter once, and both ends of ranges."""
    parameters = yaml.safe_load(FILE.read_text(encoding="utf-8"))["parameters"]
    choices = {key: how.get("values") or [how["min"], how["max"]] for key, how in parameters.items()}
    most = max(map(len, choices.values()))
    return [{key: values[place % len(values)] for key, values in choices.items()} for place in range(most)]


@pytest.mark.parametrize("values", settings(), ids=str)
def test_an_agents_command_line_can_be_run(values: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    env, python, program, *arguments = command(values)
    assert (env, python, program) == ("/usr/bin/env", "python", "train.py") and (ROOT / program).is_file()
    assert cli.main(["train", *arguments, "--print-config"]) == 0
    capsys.readouterr()
    data = loading.as_data(loading.load(arguments[0], arguments[1:]).config)
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        assert (data[section] if section else data)[name] == value


def test_its_metric_is_one_that_a_run_reports() -> None:
    metric = yaml.safe_load(FILE.read_text(encoding="utf-8"))["metric"]["name"]
    config = loading.load(tiny_runs.POINT).config
    assert metric == f"eval/return/{config.eval.adapt_steps}"
