"""A command line or configuration that cannot be run ends with exit code 2, all its errors, and nothing on disk."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metarl import cli
from metarl.config import lookup
from metarl.errors import NumericError
from metarl.run import runs

ROOT = Path(__file__).resolve().parents[2]
FIRST_TASK = lookup.available("envs")[0]
GOOD = """\
seed: 1
iterations: 5
meta_batch_size: 4
rollouts_per_task: 2
task:
  name: point
  horizon: 10
agent:
  name: maml_trpo
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own and leaves no new file behind."""
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD)
    yield
    left = {str(path) for path in Path().iterdir()} - {"good.yaml", "bad.yaml", "run"}
    assert not left, f"created on disk: {left}"


def fails(capsys, *argv: str, code: int = 2) -> list[str]:
    """Run a command line that must fail; returns the error lines, without ``error: ``."""
    assert cli.main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err and "pydantic" not in err
    lines = err.splitlines()
    assert lines and all(line.startswith("error: ") for line in lines)
    return [line.removeprefix("error: ") for line in lines]


# one override, and how the only error line starts (it may be several lines if a tuple is given)
BAD_OVERRIDES = [
    ("sead=3", "unknown key sead = 3: did you mean seed?"),
    ("agent.inner_lrr=0.1", "unknown key agent.inner_lrr = 0.1: did you mean agent.inner_lr?"),
    ("agnet.inner_lr=0.1", 'unknown key agnet = {"inner_lr": 0.1}: did you mean agent?'),
    ("horizon=100", "unknown key horizon = 100: did you mean task.horizon?"),
    ("agent.meta_batch_size=3", "unknown key agent.meta_batch_size = 3: did you mean meta_batch_size?"),
    ("task.inner_lr=0.1", "unknown key task.inner_lr = 0.1: did you mean agent.inner_lr?"),
    ("eval.keep=3", "unknown key eval.keep = 3: did you mean checkpoint.keep?"),
    ("seed=[1, 2]", "seed = [1, 2]: expected an integer"),
    ("seed=true", "seed = true: expected an integer"),
    ("seed='3'", 'seed = "3": expected an integer'),
    ("seed=-1", "seed = -1: expected an integer >= 0 and < 4294967296"),
    ("seed=4294967296", "seed = 4294967296: expected an integer >= 0 and < 4294967296"),
    ("seed=010", "seed = 010: YAML reads this in base 8 or 60"),
    ("seed=1:30", "seed = 1:30: YAML reads this in base 8 or 60"),
    ("seed=" + "9" * 5000, "seed = 9999999999…: expected a number of at most 40 digits"),
    ("seed=", "seed=: expected a value after '='"),
    ("seed.x=1", 'seed = {"x": 1}: expected an integer'),
    ("seed", "'seed': expected key=value"),
    ("=3", "'=3': expected key=value"),
    ("agent" + ".a" * 1000 + "=3", "agent.a.a.a"),
    ("agent..inner_lr=3", "'agent..inner_lr=3': expected key=value"),
    ("agent.hidden_sizes[0]=3", "'agent.hidden_sizes[0]=3': expected key=value"),
    ("iterations=null", "iterations = null: expected an integer > 0"),
    ("iterations=0", "iterations = 0: expected an integer > 0"),
    ("iterations=1e3", "iterations = 1000.0: expected an integer > 0"),
    ("meta_batch_size=0", "meta_batch_size = 0: expected an integer > 0"),
    ("rollouts_per_task=0", "rollouts_per_task = 0: expected an integer > 0"),
    ("rollouts_per_task=1", "rollouts_per_task = 1: expected at least 2, because agent.baseline = linear"),
    ("time_limit_s=0", "time_limit_s = 0: expected a number > 0 or null"),
    ("device=gpu", 'device = "gpu": expected one of "auto", "cpu", "cuda"'),
    ("device=cuda:x", 'device = "cuda:x": expected one of "auto", "cpu", "cuda" or text matching ^cuda:[0-9]{1,3}$'),
    ("run_dir=''", 'run_dir = "": expected text that is not empty'),
    ('run_dir="a\\0b"', "run_dir: 'a\\x00b': expected text without control characters"),
    ("run_dir=${oc.env:HOME}", "run_dir: '${oc.env:HOME}': interpolation is not supported"),
    ("run_dir=${", "run_dir: '${': interpolation is not supported"),
    ("run_dir=???", "run_dir = ???: expected a value"),
    ("run_dir=!!python/object/apply:os.getcwd []", "run_dir: tags"),
    ("run_dir=!!python/object/apply:pathlib.Path [x]", "run_dir: tags"),
    ("wandb.tags=[&a x, *a]", "wandb.tags: anchors and aliases"),
    ("wandb.tags=[x", "wandb.tags: not valid YAML (did not find expected"),
    ("wandb.tags=" + "[" * 100_000, "wandb.tags: nested deeper than 16 levels"),
    ("wandb.tags=x", 'wandb.tags = "x": expected a list, each text'),
    ("wandb.mode=off", 'wandb.mode = false: expected one of "auto", "online", "offline", "disabled" (without quotes'),
    ("wandb=offline", 'wandb = "offline": expected a section with keys mode,'),
    ("task.horizon=0", "task.horizon = 0: expected an integer > 0"),
    ("task.horizon=.nan", "task.horizon = NaN: expected an integer > 0"),
    ("task.action_scale=.nan", "task.action_scale = NaN: expected a number > 0, finite"),
    ("task.action_scale=.inf", "task.action_scale = Infinity: expected a number > 0, finite"),
    ("task.lineage=finn2018", 'task.lineage = "finn2018": did you mean finn2017? point has: finn2017'),
    ("task.name=pointt", 'task.name = "pointt": no such task: did you mean point? available: '),
    ("task.name=os", 'task.name = "os": no such task: available: '),
    ("task.name=os:system", 'task.name = "os:system": a class from outside metarl is only imported if'),
    ("task.name=3", f"task.name = 3: expected one of {FIRST_TASK},"),
    ("task=point", f'task = "point": expected a section whose name is one of {FIRST_TASK},'),
    ("agent.name=maml", 'agent.name = "maml": no such agent: '),
    ("agent.inner_lr=-0.1", "agent.inner_lr = -0.1: expected a number > 0"),
    ("agent.inner_lr=.nan", "agent.inner_lr = NaN: expected a number > 0, finite"),
    ("agent.inner_lr=true", "agent.inner_lr = true: expected a number > 0"),
    ("agent.num_adapt_steps=0", "agent.num_adapt_steps = 0: expected an integer > 0"),
    ("agent.gamma=1.1", "agent.gamma = 1.1: expected a number >= 0 and <= 1"),
    ("agent.gae_lambda=-1", "agent.gae_lambda = -1: expected a number >= 0 and <= 1"),
    ("agent.max_kl=0", "agent.max_kl = 0: expected a number > 0"),
    ("agent.backtrack_ratio=1", "agent.backtrack_ratio = 1: expected a number > 0 and < 1"),
    ("agent.cg_iterations=0", "agent.cg_iterations = 0: expected an integer > 0"),
    ("agent.hidden_sizes=[64, 0]", "agent.hidden_sizes[1] = 0: expected an integer > 0"),
    ("agent.hidden_sizes=64", "agent.hidden_sizes = 64: expected a list, each an integer > 0"),
    ("agent.activation=tahn", 'agent.activation = "tahn": expected one of '),
    ("sampler.workers=-1", 'sampler.workers = -1: expected an integer >= 0 or "auto"'),
    ("sampler.executor=rey", 'sampler.executor = "rey": expected one of "in_process", "processes", "ray"'),
    ("checkpoint.every=0", "checkpoint.every = 0: expected an integer > 0"),
    ("checkpoint.keep=0", "checkpoint.keep = 0: expected an integer > 0"),
]


@pytest.mark.parametrize(("override", "start"), BAD_OVERRIDES, ids=[bad[:40] for bad, _ in BAD_OVERRIDES])
def test_bad_override(override, start, capsys):
    lines = fails(capsys, "train", "good.yaml", override)
    assert len(lines) == 1
    assert lines[0].startswith(start)


BAD_FILES = {
    "empty": (b"", "bad.yaml: expected keys and sections, but the file is empty"),
    "only a comment": (b"# hello\n", "bad.yaml: expected keys and sections, but the file is empty"),
    "list": (b"- seed\n- 3\n", "bad.yaml: expected keys and sections at the top level, got a list"),
    "one value": (b"hello\n", "bad.yaml: expected keys and sections at the top level, got the single value 'hello'"),
    "not UTF-8": (b"seed: \xff\n", "bad.yaml: expected UTF-8 text"),
    "tab": (GOOD.replace("  name: point", "\tname: point").encode(), "bad.yaml: line 6, column 1: not valid YAML"),
    "two documents": (GOOD.encode() + b"---\nseed: 1\n", "bad.yaml: line 10, column 1: not valid YAML"),
    "too big": (GOOD.encode() + b"#" * 1_000_000, "'bad.yaml': expected at most 1000000 bytes"),
    "duplicate": (GOOD.encode() + b"seed: 2\n", "seed: given twice, on lines 1 and 10"),
    "nested duplicate": (GOOD.encode() + b"  name: x\n", "agent.name: given twice, on lines 9 and 10"),
    "alias bomb": (b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "bad.yaml: line 1, column 4: anchors and aliases"),
    "merge key": (b"<<: {seed: 1}\n" + GOOD.encode(), "<<: line 1: expected a key that is text"),
    "tag": (b"seed: !!int '3'\n", "bad.yaml: line 1, column 7: tags (tag:yaml.org,2002:int) are not supported"),
    "code": (
        b"x: !!python/object/apply:os.system ['touch canary']\n",
        "bad.yaml: line 1, column 4: tags (tag:yaml.org,2002:python",
    ),
    "custom tag": (b"x: !env HOME\n", "bad.yaml: line 1, column 4: tags (!env) are not supported"),
    "deep": (b"x: " + b"[" * 200_000, "bad.yaml: nested deeper than 16 levels"),
    "interpolation": (GOOD.encode() + b"run_dir: ${oc.env:HOME}\n", "run_dir: '${oc.env:HOME}': interpolation"),
    "interpolated key": (GOOD.encode() + b"${x}: 1\n", "${x}: '${x}': interpolation is not supported"),
    "number as key": (GOOD.encode() + b"1: 2\n", "1: line 10: expected a key that is text"),
    "no as key": (GOOD.encode() + b"no: 2\n", "no: line 10: expected a key that is text"),
    "dotted key": (
        GOOD.encode() + b"agent.inner_lr: 0.1\n",
        "agent.inner_lr: line 10: dotted keys belong on the command",
    ),
    "no task": (
        GOOD.replace("task:\n  name: point\n  horizon: 10\n", "").encode(),
        "missing key task.name: expected one of",
    ),
    "no task name": (
        GOOD.replace("  name: point\n", "").encode(),
        f"missing key task.name: expected one of {FIRST_TASK}",
    ),
    "no iterations": (
        GOOD.replace("iterations: 5\n", "").encode(),
        "missing key iterations: expected an integer > 0 (meta",
    ),
    "yes for a name": (GOOD.replace("point", "yes").encode(), f"task.name = true: expected one of {FIRST_TASK}"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file(case, capsys):
    content, start = BAD_FILES[case]
    Path("bad.yaml").write_bytes(content)
    lines = fails(capsys, "train", "bad.yaml")
    assert lines[0].startswith(start), lines


BAD_COMMANDS = [
    (["trian", "good.yaml"], "no command 'trian': did you mean train? one of train, resume,"),
    ([], "the following arguments are required: COMMAND"),
    (["train"], "expected a CONFIG: a YAML file, or one of "),
    (["train", "good"], "no configuration or task called 'good': "),
    (["train", "nowhere/good.yaml"], "'nowhere/good.yaml': expected a YAML file, found none"),
    (["train", "../"], "'../': expected a file name"),
    (["train", "a\0b.yaml"], "'a\\x00b.yaml': expected"),
    (["train", "a\nb.yaml"], "'a\\nb.yaml': expected a file name of letters, digits"),
    (["train", "/dev/zero"], "'/dev/zero': expected a YAML file"),
    (["train", "good.yaml", "--fresh"], "unrecognized arguments: --fresh"),
    (["train", "good.yaml", "--agent.inner_lrr=3"], "unknown key agent.inner_lrr = 3: did you mean agent.inner_lr?"),
    (["train", "good.yaml", "seed=1", "--seed=2"], "seed: given twice on the command line"),
    (["train", "good.yaml", "seed=\udcff"], "seed: not valid YAML"),
    (["train", "good.yaml", "--allow"], "argument --allow: expected one argument"),
    (["train", "good.yaml", "--print-config", "seed=x"], 'seed = "x": expected an integer'),
    (["list", "robots"], "argument tasks|agents|configs|runs: invalid choice: 'robots'"),
    (["check-env"], "the following arguments are required: TASK"),
    (["check-env", "pointt"], "'pointt': no such task: did you mean point"),
    (["check-env", "nowhere.to.be:Found"], "'nowhere.to.be:Found': cannot import nowhere.to.be"),
    (["check-env", "os:path"], "'os:path': expected a concrete TaskDistribution with a config_class"),
    (["check-env", "point", "task.horizn=3"], "unknown key task.horizn = 3: did you mean task.horizon?"),
    (["check-env", "point", "--task.horizon=x"], 'task.horizon = "x": expected an integer > 0'),
    (["check-env", "point", "seed=3"], "seed cannot change in `metarl check-env`; what can: task.*"),
    (["check-env", "point", "task.lineage=finn2018"], 'task.lineage = "finn2018": did you mean finn2017?'),
    (["check-env", "point", "task.x=${y}"], "task.x: '${y}': interpolation is not supported"),
    (["check-env", "point", "horizon"], "'horizon': expected key=value"),
    (["check-env", "point", "--fast"], "unrecognized arguments: --fast"),
    (["bench", "sampling"], "bench sampling: expected a CONFIG"),
    (
        ["bench", "sleeping", "good.yaml"],
        "argument sampling|learner|iteration|faults|metaworld|device: invalid choice: 'sleeping'",
    ),
    (["bench", "learner", "good.yaml", "sede=1"], "unknown key sede = 1: did you mean seed?"),
    (["hash"], "the following arguments are required: RUN"),
    (["resume", "run", "seed=3"], "seed cannot change in `metarl resume`; what can: iterations,"),
    (["evaluate", "run", "iterations=3"], "iterations cannot change in `metarl evaluate`; what can: eval.*"),
    (["hash", "run", "seed=3"], "unrecognized arguments: seed=3"),
]


@pytest.mark.parametrize(("argv", "start"), BAD_COMMANDS, ids=[repr(" ".join(argv)) for argv, _ in BAD_COMMANDS])
def test_bad_command(argv, start, capsys):
    Path("run").mkdir()
    Path("run/config.yaml").write_text(GOOD)
    assert fails(capsys, *argv)[0].startswith(start)


BAD_AGENTS = [
    ("reptile_point", ["agent.inner_steps=0"], "agent.inner_steps = 0: expected an integer > 0"),
    ("reptile_point", ["agent.meta_lr_end=null"], "agent: meta_lr_end and meta_lr_iterations describe one schedule"),
    ("maml_trpo_point", ["agent.init_std=0.5", "agent.min_std=1"], "agent: init_std = 0.5 lies under min_std = 1.0"),
    ("rl2_ppo_ml1", ["agent.init_std=0.5", "agent.min_std=1"], "agent: init_std = 0.5 lies under min_std = 1.0"),
    ("promp_point", ["agent.inner_lr=-0.1"], "agent.inner_lr = -0.1: expected a number > 0"),
    ("promp_point", ["agent.clip=1"], "agent.clip = 1: expected a number > 0 and < 1"),
    ("promp_point", ["agent.inner_loss=lvc"], 'agent.inner_loss = "lvc": expected one of "log_prob", "ratio", "dice"'),
    ("maml_ppo_half_cheetah_dir", ["agent.epochs=0"], "agent.epochs = 0: expected an integer > 0"),
    (
        "maml_trpo_point",
        ["agent.learn_inner_lr=per_parameter", "agent.adapt_layers=head"],
        "agent: learn_inner_lr = per_parameter with adapt_layers = head would learn step sizes of tensors",
    ),
    ("maml_trpo_point", ["agent.advantage_norm=var"], "agent: advantage_norm = var is not lineage finn2017"),
    (
        "maml_trpo_half_cheetah_dir",
        ["agent.lineage=garage2020", "agent.advantage_norm=std"],
        "agent: advantage_norm = std is not lineage garage2020, which divides by the var",
    ),
    (
        "maml_trpo_point",
        ["agent.inner_loss=dice", "agent.fisher_fraction=0.1"],
        "agent: fisher_fraction = 0.1 tears episodes apart",
    ),
    (
        "maml_vpg_half_cheetah_dir",
        ["agent.exploration=sum", "agent.inner_loss=ratio"],
        "agent: exploration = sum with inner_loss = ratio would count twice",
    ),
    ("random_init_point", ["agent.max_kl=0.1"], "unknown key agent.max_kl = 0.1: "),
    ("lpg_tabular_mdp", ["agent.predictions=1"], "agent.predictions = 1: expected an integer >= 2"),
    ("lpg_tabular_mdp", ["agent.rule=ppo"], 'agent.rule = "ppo": expected one of "learned", "reinforce", "a2c"'),
    ("lpg_tabular_mdp", ["eval.score_every=7"], "eval: score_every = 7 leaves the last of adapt_steps = 100 steps"),
    ("lpg_point", ["task.action_scale=2"], "task: action_scale = 2.0 with actions = nine: expected 1"),
    ("lpg_point", ["task.actions=continuous"], "agent.name = lpg: expected a task whose actions are choices"),
]


@pytest.mark.parametrize(("name", "overrides", "start"), BAD_AGENTS, ids=[start[:50] for _, _, start in BAD_AGENTS])
def test_agents_that_cannot_be(name, overrides, start, capsys):
    lines = fails(capsys, "train", name, *overrides)
    assert len(lines) == 1 and lines[0].startswith(start), lines


def test_errors_of_file_and_command_line_come_together(capsys):
    Path("bad.yaml").write_text(
        GOOD.replace("seed: 1", "sead: 1\nrun_dir: ${x}").replace("name: maml_trpo", "name: maml_trp")
    )
    lines = fails(capsys, "train", "bad.yaml", "iterations", "task.horizon=0", "eval.every=-1")
    starts = [
        "run_dir: '${x}'",
        "'iterations': expected",
        "agent.name",
        "task.horizon",
        "eval.every",
        "unknown key sead",
    ]
    assert len(lines) == len(starts)
    assert all(any(line.startswith(start) for line in lines) for start in starts), lines


@pytest.mark.parametrize("command", ["resume", "hash", "evaluate"])
@pytest.mark.parametrize(
    "run", ["nowhere", "good.yaml", ".", "x" * 300], ids=["nowhere", "a file", "a folder", "too long for a name"]
)
def test_what_is_not_a_run_is_a_checkpoint_error(command, run, capsys):
    assert fails(capsys, command, run, code=3)[0].startswith(f"'{run}': expected a run directory")


def test_a_nearby_name_is_suggested_for_a_config(capsys):
    name = lookup.available("configs")[0]
    assert f"did you mean {name}" in fails(capsys, "train", name[:-1])[0]
    assert f"did you mean {name}" in fails(capsys, "train", f"configs/{name}.yml")[0]


# --- what works


def test_print_config_prints_what_loads_again(capsys):
    assert (
        cli.main(
            ["train", "good.yaml", "--print-config", "seed=3", "--agent.inner_lr=0.3", "task.name=half_cheetah_dir"]
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert err == "notice: task.name = half_cheetah_dir replaces point: the file's horizon = 10 is dropped\n"
    Path("bad.yaml").write_text(out)
    assert cli.main(["train", "bad.yaml", "--print-config"]) == 0
    assert capsys.readouterr().out == out
    assert "inner_lr: 0.3\n" in out


def test_help_lists_every_key_of_the_config(capsys):
    assert cli.main(["train", "good.yaml", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{key} = " in out for key in ("seed", "task.horizon", "agent.inner_lr", "eval.every", "wandb.mode"))
    assert cli.main(["train", "--help"]) == 0
    assert "usage: metarl train" in capsys.readouterr().out


def test_list_shows_names_with_a_line_each(capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "tasks:" in out and "agents:" in out and "configs:" in out
    assert re.search(r"^maml_trpo +MAML-TRPO", out, flags=re.MULTILINE)
    assert cli.main(["list", "agents"]) == 0
    assert "tasks:" not in capsys.readouterr().out


def test_results_are_printed_and_expected_failures_keep_their_exit_code(capsys, monkeypatch):
    Path("run").mkdir()
    Path("run/config.yaml").write_text(GOOD)
    result = {
        "run": "run",
        "task": "point",
        "on": "held-out tasks",
        "iteration": 3,
        "env_steps": 900,
        "tasks": [{"goal": [0.0, 0.1]}],
        "unit": "adaptation steps",
        "steps": [0, 1],
        "mean": [-10.0, 5.25],
        "low": [-11.0, 4.0],
        "high": [-9.0, 6.0],
    }
    monkeypatch.setattr(runs, "evaluate", lambda run, given, *_, **__: {**result, "given": list(given)})
    assert cli.main(["evaluate", "run", "--json", "eval.num_tasks=3"]) == 0
    assert json.loads(capsys.readouterr().out) == {**result, "given": ["eval.num_tasks=3"]}
    assert cli.main(["evaluate", "run"]) == 0
    assert "5.2" in capsys.readouterr().out

    def diverge(*given, **_):
        raise NumericError("loss is nan")

    monkeypatch.setattr(runs, "evaluate", diverge)
    assert fails(capsys, "evaluate", "run", code=4) == ["loss is nan"]


# --- as real processes

PROCESSES = [
    (["train", "good.yaml", "agent.inner_lrr=1", "seed=-1"], ["did you mean agent.inner_lr?", "seed = -1: expected"]),
    (["train", "good.yaml", "task.name=pointt", "sampler.executor=ray"], ["did you mean point?", "sampler.executor"]),
    (["train", "good.yaml", "rollouts_per_task=1", "run_dir=${x}"], ["expected at least 2", "interpolation"]),
    (["train", "nothing"], ["no configuration or task called 'nothing'"]),
    (["trian"], ["did you mean train?"]),
    (["bench", "sampling", "good.yaml", "iterations=0", "x=1"], ["iterations = 0", "unknown key x"]),
]


def run_process(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """On one core: with more, `train` has another one import torch for its workers meanwhile."""
    code = "import os, sys; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += "from metarl.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, env=environment, timeout=60
    )


def processor_seconds(run: Callable[[], Any]) -> float:
    """What the programs that ``run`` starts take of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.alone
@pytest.mark.parametrize(("argv", "parts"), PROCESSES, ids=[" ".join(argv)[:50] for argv, _ in PROCESSES])
def test_a_bad_command_line_ends_a_process_within_three_seconds(argv, parts):
    """Three seconds of processor time, best of three, and no waiting: a busy machine takes longer by the clock.

    Importing torch is most of that. Where this alone takes more than a second and a half, a slow machine, the whole may
    take twice as long as it.
    """

    def fail():
        start = time.monotonic()
        done = run_process(argv)
        assert (done.returncode, done.stdout) == (2, "")
        assert all(part in done.stderr for part in parts)
        assert time.monotonic() - start < 30

    seconds = []
    while len(seconds) < 3 and min(seconds, default=4) > 3:
        seconds.append(processor_seconds(fail))
    if min(seconds) > 3:
        torch_alone = [sys.executable, "-c", "import torch"]
        assert min(seconds) <= 2 * processor_seconds(lambda: subprocess.run(torch_alone, check=True))


def test_train_py_is_the_same_command():
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "nothing"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no configuration or task called 'nothing'")


def test_a_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from metarl.cli import main; sys.exit(main(['list']))"
    with os.fdopen(write, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=out,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("kind", ["configs", "tasks"])
def test_results_that_cannot_be_written_are_told(kind: str) -> None:
    command = [sys.executable, "-m", "metarl", "list", kind]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    message = "error: cannot write to standard output: [Errno 28] No space left on device\n"
    assert (done.returncode, done.stderr) == (6, message)


def test_a_command_without_standard_output_is_no_error() -> None:
    command = f"exec {sys.executable} -m metarl list configs >&-"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
