"""A configuration is merged, validated and reported on as a whole; what a run saves loads as an equal configuration."""

import json
import sys
import textwrap
from pathlib import Path

import pytest

import metarl.agents
import metarl.envs
from metarl.config import devices, loading, lookup
from metarl.config.schema import RunConfig
from metarl.errors import ConfigError

FAMILY = '''
    """A stub family.

    More text.
    """
    from typing import ClassVar
    from pydantic import Field, field_validator, model_validator
    from metarl.config.schema import Frozen, Lineage, TaskConfig
    from metarl.tasks import TaskDistribution

    class WindConfig(Frozen):
        speed: float = Field(1.0, ge=0, description="metres per second")
        gusts: bool = False

    class StubConfig(TaskConfig):
        lineages: ClassVar = {
            "old2016": Lineage({"horizon": 50, "sizes": (1, 2), "wind": {"speed": 3.0, "gusts": True}}, why="paper"),
        }
        sizes: tuple[int, ...] = (8, 8)
        span: tuple[float, float] = (0.0, 1.0)
        wind: WindConfig = WindConfig()
        even: int = 2
        low: float = 0.0
        high: float = 1.0

        @field_validator("even")
        @classmethod
        def _even(cls, value):
            if value % 2:
                raise ValueError("expected an even number")
            return value

        @model_validator(mode="after")
        def _ordered(self):
            if self.low > self.high:
                raise ValueError("expected low <= high")
            return self

    class Stub(TaskDistribution):
        config_class = StubConfig
        def size(self, split): return None
        def sample(self, num_tasks, *, split, rng): return []
        def make_vector(self, num_lanes): raise NotImplementedError
'''
HELPER = """
    from metarl.config.schema import TaskConfig
    from metarl.tasks import TaskDistribution

    class Shared(TaskDistribution):
        config_class = TaskConfig
"""
AGENT = """
    from typing import Literal
    from metarl.agent import Agent
    from metarl.config.schema import AgentConfig

    class StubAgentConfig(AgentConfig):
        inner_lr: float = 0.1
        baseline: Literal["linear", "none"] = "none"

        def conflicts(self, run):
            linear = self.baseline == "linear" and run.rollouts_per_task < 2
            return [f"rollouts_per_task = {run.rollouts_per_task}: expected at least 2"] if linear else []

    class StubAgent(Agent):
        config_class = StubAgentConfig
        def __init__(self, *args, **kwargs): ...
        def policy(self): ...
        def init_adapted(self, num_tasks, *, rng=None, training=False): ...
        def adapt(self, adapted, batch, *, step, rng): ...
        def meta_update(self, batches, adapted, *, rng): ...
        def state(self): ...
        def load_state(self, state): ...
        def load_parameters(self, state): ...
"""
BASE = """
    seed: 1
    iterations: 5
    meta_batch_size: 4
    rollouts_per_task: 2
    task:
      name: stub_family
      horizon: 10
    agent:
      name: stub_agent
"""


@pytest.fixture(autouse=True)
def stubs(tmp_path, monkeypatch):
    """A task family, a helper module beside it, and an agent, as if they lay in envs/ and agents/."""
    for package, files in (
        (metarl.envs, {"stub_family": FAMILY, "_stub_helper": HELPER}),
        (metarl.agents, {"stub_agent": AGENT}),
    ):
        folder = tmp_path / package.__name__
        folder.mkdir()
        for name, source in files.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    for name in ("metarl.envs.stub_family", "metarl.envs._stub_helper", "metarl.agents.stub_agent"):
        sys.modules.pop(name, None)


@pytest.fixture
def base(tmp_path) -> str:
    return write(tmp_path, BASE)


def write(folder: Path, text: str, name: str = "base.yaml") -> str:
    (folder / name).write_text(textwrap.dedent(text))
    return str(folder / name)


def problems(source: str, *overrides: str, allow=()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loading.load(source, overrides, allow)
    return str(caught.value).splitlines()


# --- names


def test_only_modules_that_define_something_are_listed():
    assert {"stub_family", "point", "half_cheetah_dir"} <= set(lookup.available("envs"))
    assert {"_stub_helper", "stub_helper", "half_cheetah", "_half_cheetah", "__init__"}.isdisjoint(
        lookup.available("envs")
    )
    assert {"stub_agent", "maml_trpo"} <= set(lookup.available("agents"))
    assert "metarl.envs.stub_family" not in sys.modules
    assert lookup.summary("envs", "stub_family") == "A stub family."


def test_a_module_that_is_not_python_is_listed_so_that_its_import_shows_why(tmp_path):
    (tmp_path / "metarl.envs" / "broken.py").write_text("config_class = (")
    assert "broken" in lookup.available("envs")
    assert "not valid Python" in lookup.summary("envs", "broken")
    with pytest.raises(SyntaxError):
        lookup.task_distribution("broken")


def test_names_lead_to_classes():
    assert lookup.task_distribution("stub_family").__name__ == "Stub"
    assert lookup.agent("stub_agent").__name__ == "StubAgent"
    with pytest.raises(ConfigError, match=r"did you mean stub_family\? available: .*point"):
        lookup.task_distribution("stub_famly")


@pytest.mark.parametrize(
    "name", ["os", "..os", "__init__", "_stub_helper", "stub_family.Stub", "", "stub-family", "Stub_family"]
)
def test_nothing_else_can_be_named(name):
    with pytest.raises(ConfigError, match="no such task"):
        lookup.task_distribution(name)


def test_a_class_from_elsewhere_needs_to_be_allowed(tmp_path, monkeypatch, base):
    canary = tmp_path / "canary"
    (tmp_path / "elsewhere.py").write_text(
        f"open({str(canary)!r}, 'w')\nfrom metarl.envs.stub_family import Stub\nplain = int\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "--allow elsewhere:Stub" in problems(base, "task.name=elsewhere:Stub", "task.horizon=3")[0]
    assert "--allow" in problems(base, "task.name=elsewhere:Stub", allow=["elsewhere:plain"])[0]
    assert not canary.exists()
    loaded = loading.load(base, ["task.name=elsewhere:Stub", "task.horizon=3"], ["elsewhere:Stub"])
    assert loaded.config.task.horizon == 3
    assert canary.exists()
    for path, message in (
        ("elsewhere:plain", "expected a concrete TaskDistribution"),
        ("elsewhere:missing", "has no class missing"),
        ("nowhere.at_all:X", "PYTHONPATH"),
        ("a/b:X", "expected a name"),
    ):
        with pytest.raises(ConfigError, match=message):
            lookup.task_distribution(path, allow=[path])


# --- values and merging


def test_sections_keep_their_own_classes_and_lists_become_tuples(tmp_path):
    loaded = loading.load(write(tmp_path, BASE), ["task.sizes=[64, 32]", "task.span=[0, 2.5]", "agent.inner_lr=1"])
    assert type(loaded.config) is RunConfig
    assert type(loaded.config.task).__name__ == "StubConfig"
    assert loaded.config.task.sizes == (64, 32)
    assert loaded.config.task.span == (0.0, 2.5)
    assert (loaded.name, loaded.notices, loaded.raw["task"]["sizes"]) == ("base", [], [64, 32])
    with pytest.raises(ValueError, match="frozen"):
        loaded.config.seed = 2


def test_override_values_are_read_as_yaml_and_as_sweeps_write_them(base):
    overrides = ["agent.inner_lr=1e-3", "time_limit_s=None", "eval.every=null", "task.reveal=True", "--seed=7"]
    overrides += ["wandb.tags=['a', 'b=c']", "task.wind={'speed': 2.5, 'gusts': True}", "--task.wind.speed=3"]
    run = loading.load(base, overrides).config
    assert (run.agent.inner_lr, run.time_limit_s, run.eval.every, run.task.reveal, run.seed) == (
        0.001,
        None,
        None,
        True,
        7,
    )
    assert run.wandb.tags == ["a", "b=c"]
    assert (run.task.wind.speed, run.task.wind.gusts) == (3.0, True)


def test_a_lineage_fills_in_and_explicit_keys_win_with_a_notice(base):
    loaded = loading.load(base, ["task.lineage=old2016", "task.wind.speed=4", "task.sizes=[1, 2]"])
    task = loaded.config.task
    assert (task.horizon, task.sizes, task.wind.speed, task.wind.gusts) == (10, (1, 2), 4.0, True)
    assert sorted(loaded.notices) == [
        "task.horizon = 10 overrides 50 of lineage old2016",
        "task.wind.speed = 4 overrides 3.0 of lineage old2016",
    ]
    assert problems(base, "task.lineage=old2017") == [
        'task.lineage = "old2017": did you mean old2016? stub_family has: old2016',
    ]


def test_another_name_drops_the_old_section_with_a_notice(base):
    loaded = loading.load(base, ["task.name=point"])
    assert loaded.config.task.horizon == 100  # point's own default, not the file's 10
    assert loaded.notices == ["task.name = point replaces stub_family: the file's horizon = 10 is dropped"]
    assert loading.load(base, ["task.name=stub_family"]).config.task.horizon == 10


def test_the_file_is_not_changed_by_what_is_loaded(base):
    before = Path(base).read_bytes()
    loading.load(base, ["seed=3", "task.lineage=old2016"])
    assert Path(base).read_bytes() == before


# --- errors


def test_all_errors_come_at_once_with_path_value_and_what_is_allowed(base):
    lines = problems(
        base, "agent.inner_lrr=0.1", "horizon=3", "seed=-1", "task.sizes=[1, a]", "task.wind.sped=1", "task.even=3",
        "sampler.workers=-1", "learner.threads=none", "eval=3", "rollouts_per_task=1", "agent.baseline=linear",
        "sampler.executor=rey", "agent.baseline=linear",
    )  # fmt: skip
    expected = [
        "unknown key agent.inner_lrr = 0.1: did you mean agent.inner_lr? valid keys here: agent.name, agent.lineage,",
        "unknown key horizon = 3: did you mean task.horizon? valid keys here: seed, device,",
        "seed = -1: expected an integer >= 0 and < 4294967296",
        'task.sizes[1] = "a": expected an integer',
        "unknown key task.wind.sped = 1: did you mean task.wind.speed? valid keys here: task.wind.speed, task.wind",
        "task.even = 3: expected an even number",
        'sampler.workers = -1: expected an integer >= 0 or "auto"',
        'learner.threads = "none": expected an integer > 0 or "auto"',
        "eval = 3: expected a section with keys every, num_tasks,",
        "rollouts_per_task = 1: expected at least 2",
        'sampler.executor = "rey": expected one of "in_process", "processes", "ray"',
        "agent.baseline: given twice on the command line",
    ]
    for start in expected:
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    assert len(lines) == len(expected)


def test_messages_of_a_configs_own_validators_are_shown_as_they_are(base):
    assert problems(base, "task.low=2") == ["task: expected low <= high"]


def test_combinations_that_cannot_work_are_refused(base, monkeypatch):
    monkeypatch.setattr(devices, "count", lambda: 0)
    lines = problems(base, "sampler.executor=in_process", "sampler.workers=2", "device=cuda")
    assert [line.partition(" = ")[0] for line in lines] == ["sampler.workers", "device"]
    assert loading.load(base, ["sampler.executor=in_process", "sampler.workers=0"]).config.sampler.workers == 0
    assert loading.load(base, ["rollouts_per_task=1"]).config.rollouts_per_task == 1
    monkeypatch.setattr(devices, "count", lambda: 2)
    for device in ("cuda", "cuda:1"):
        assert loading.load(base, [f"device={device}"]).config.device == device
    (line,) = problems(base, "device=cuda:2")
    assert line == "device = cuda:2: expected one of cuda:0 to cuda:1, which this machine has"


# --- what is saved


@pytest.mark.parametrize("name", lookup.available("configs"))
def test_every_shipped_config_survives_a_round_trip(name, tmp_path):
    loaded = loading.load(name)
    again = loading.load(write(tmp_path, loading.dump(loaded.config)))
    assert again.config == loaded.config
    assert type(again.config.task) is type(loaded.config.task)
    assert lookup.summary("configs", name)


def test_a_dump_holds_every_key_and_odd_text_survives(base, tmp_path):
    odd = [
        "1e-3",
        "no",
        "null",
        "0x10",
        "12:30",
        "a: b",
        "# c",
        "007",
        "'",
        '"',
        "ü",
        " x ",
        "- 1",
        "2020-01-01",
        "&a",
        "!b",
    ]
    run = loading.load(base, ["task.sizes=[1]", "agent.inner_lr=1e-05"]).config
    run = run.model_copy(update={"wandb": run.wandb.model_copy(update={"tags": odd})})
    text = loading.dump(run)
    assert "speed: 1.0" in text and "baseline: none" in text
    assert loading.load(write(tmp_path, text)).config == run


def test_every_key_is_described(base):
    loaded = loading.load(base, ["task.lineage=old2016"])
    text = loading.describe(loaded)
    for line in loading.leaves(json.loads(loaded.config.model_dump_json(serialize_as_any=True))):
        assert f"{line[0]} = " in text
    assert "task.wind.speed = 3.0\n    metres per second [a number >= 0]" in text
    pins = 'pins: horizon = 50, sizes = [1, 2], wind = {"speed": 3.0, "gusts": true}'
    assert f"task.lineage = old2016\n    paper\n    {pins}" in text
    assert "horizon = (required)" in loading.describe(type(loaded.config.task))


# --- resume


def test_a_resumed_run_may_change_only_what_undoes_no_result(base):
    saved = loading.load(base, ["task.lineage=old2016"]).config
    assert loading.resume_config(saved, []) == saved
    changed = loading.resume_config(
        saved, ["iterations=9", "--sampler.workers=3", "eval={'every': None}", "wandb.mode=offline"]
    )
    assert (changed.iterations, changed.sampler.workers, changed.eval.every) == (9, 3, None)
    assert changed.task == saved.task and type(changed) is RunConfig
    with pytest.raises(ConfigError) as caught:
        loading.resume_config(saved, ["seed=2", "run_dir=x", "agent={'inner_lr': 1}", "x"])
    lines = str(caught.value).splitlines()
    assert [line.partition(" ")[0] for line in lines] == [
        "'x':",
        "seed",
        "run_dir",
        "agent.inner_lr",
    ]
    assert all("iterations, env_steps, time_limit_s, sampler.*" in line for line in lines[1:])
    with pytest.raises(ConfigError, match=r"eval\.evry = 1: did you mean eval\.every"):
        loading.resume_config(saved, ["eval.evry=1"])
    assert loading.resume_config(saved, ["device=cpu"]).device == "cpu"


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("reptile_point", ["agent.meta_lr_end=0", "agent.meta_lr_iterations=4"], "agent.meta_lr_iterations"),
        ("rl2_ppo_bernoulli_bandit", ["agent.lr_end=0", "agent.lr_iterations=4"], "agent.lr_iterations"),
    ],
)
def test_a_run_that_cannot_be_extended_says_so_by_keys_that_may_change(name, changes, key):
    """Its step size has come to 0, and a schedule cannot change on resume."""
    saved = loading.load(name, ["env_steps=null", "iterations=4", *changes]).config
    with pytest.raises(ConfigError, match=rf"^iterations = 9: expected at most {key} = 4, because nothing is learned"):
        loading.resume_config(saved, ["iterations=9"])
    assert loading.resume_config(saved, ["iterations=3"]).iterations == 3


IDLE = {  # overrides of a shipped configuration → keys among them that change nothing, with a part of the reason
    ("rl2_ppo_half_cheetah_vel", "learner.tasks_per_chunk=2", "eval.adapt_steps=2", "eval.adapt_episodes=5"): {
        "learner.tasks_per_chunk": "cut into learner.shares",
        "eval.adapt_steps": "what it remembers",
        "eval.adapt_episodes": "what it remembers",
    },
    ("rl2_ppo_half_cheetah_vel", "device=cpu", "learner.tf32=true", "learner.deterministic=true"): {
        "learner.tf32": "it is about GPUs",
        "learner.deterministic": "it is about GPUs",
    },
    ("rl2_ppo_half_cheetah_vel", "agent.memory=lstm", "agent.memory_context=500"): {
        "agent.memory_context": "agent.memory = lstm looks up no earlier steps"
    },
    ("rl2_ppo_half_cheetah_vel", "agent.memory=transformer", "agent.memory_context=500", "agent.memory_heads=2"): {},
    ("rl2_ppo_half_cheetah_vel", "agent.memory=lstm", "agent.memory_hops=2", "agent.retrieval_metric=dot"): {
        "agent.memory_hops": "agent.memory = lstm makes no hops",
        "agent.retrieval_metric": "agent.memory = lstm compares no situations",
    },
    ("rl2_ppo_half_cheetah_vel", "agent.memory=ntm", "agent.memory_context=16", "agent.memory_width=8"): {},
    (
        *("rl2_ppo_half_cheetah_vel", "agent.memory=memory_network", "agent.memory_context=500"),
        *("agent.memory_heads=2", "agent.memory_width=8"),
    ): {
        "agent.memory_heads": "agent.memory = memory_network has no heads",
        "agent.memory_width": "agent.memory = memory_network has no slots",
    },
    ("rl2_ppo_half_cheetah_vel", "agent.critic=linear", "agent.value_coef=1.0"): {"agent.value_coef": "no value head"},
    ("rl2_ppo_half_cheetah_vel", "agent.critic=value_head", "agent.value_coef=1.0"): {},
    ("rl2_ppo_bernoulli_bandit", "task.action_scale=1.0", "agent.init_std=2.0", "agent.activation=relu"): {
        "task.action_scale": "actions are choices",
        "agent.init_std": "no standard deviation",
        "agent.activation": "agent.encoder_sizes = [] has no layers",
    },
    ("maml_trpo_point", "eval.restored_episodes=5"): {"eval.restored_episodes": "no memory"},
    ("maml_trpo_point", "agent.num_adapt_steps=1", "eval.adapt_steps=0", "eval.adapt_episodes=5"): {
        "agent.outer_phases": "the only one after adaptation",  # the file has it
        "eval.adapt_episodes": "eval.adapt_steps = 0",
        "eval.adapt_env_steps": "eval.adapt_steps = 0",
    },
    ("maml_trpo_half_cheetah_vel", "agent.later_step_lr_scale=0.5", "eval.adapt_steps=1"): {
        "agent.later_step_lr_scale": "no trial has a second inner step"
    },
    ("maml_trpo_half_cheetah_vel", "agent.later_step_lr_scale=0.5", "eval.adapt_steps=2"): {},
    ("pretraining_point", "agent.inner_lr=0.2", "eval.adapt_steps=0"): {"agent.inner_lr": "no inner step"},
    ("reptile_point", "agent.inner=vpg", "agent.inner_epochs=2", "agent.inner_clip=0.1"): {
        "agent.inner_epochs": "one gradient step",
        "agent.inner_clip": "clips nothing",
    },
    ("reptile_point", "agent.inner=ppo", "agent.inner_epochs=2", "agent.inner_clip=0.1"): {},
    ("reptile_point", "learner.shares=2", "learner.tasks_per_chunk=2"): {"learner.shares": "in chunks of tasks"},
    ("lpg_tabular_mdp", "agent.rule=a2c", "agent.critic_lr=0.1", "agent.outer_lr=0.1", "agent.activation=relu"): {
        "agent.rule_size": "written by hand",  # these four the file has
        "agent.predictions": "written by hand",
        "agent.prediction_coef": "written by hand",
        "agent.outer_lr": "written by hand",
        "agent.activation": "has no layers",
    },
    ("lpg_tabular_mdp", "agent.critic_lr=0.1", "agent.max_grad_norm=0.1", "eval.score_every=1"): {},
    ("maml_trpo_half_cheetah_vel", "eval.adapt_steps=0", "eval.score_every=2"): {"eval.score_every": "adapts in no"},
    ("rl2_ppo_half_cheetah_vel", "eval.score_every=1"): {"eval.score_every": "adapts by what it remembers"},
    ("promp_point", "agent.epochs=1", "agent.clip=0.2"): {"agent.clip": "agent.epochs = 1"},
    ("maml_ppo_half_cheetah_dir", "agent.epochs=1", "agent.clip=0.2"): {"agent.clip": "agent.epochs = 1"},
    ("maml_trpo_point", "sampler.workers=0", "sampler.unit_timeout_s=9.0", "wandb.mode=disabled", "wandb.project=x"): {
        "sampler.unit_timeout_s": "in this process",
        "wandb.project": "wandb.mode = disabled",
    },
}


@pytest.mark.parametrize("given", IDLE, ids=" ".join)
def test_a_key_that_is_set_and_changes_nothing_is_named(given: tuple[str, ...]) -> None:
    name, *overrides = given
    notices = dict(line.split(" has no effect: ") for line in loading.load(name, overrides).notices if "effect" in line)
    expected = IDLE[given]
    assert {key: reason in notices.get(key, "") for key, reason in expected.items()} == dict.fromkeys(expected, True)
    named = {override.partition("=")[0] for override in overrides}
    assert set(notices) & named <= set(expected)


@pytest.mark.parametrize("name", lookup.available("configs"))
def test_all_that_a_shipped_configuration_sets_has_an_effect(name: str) -> None:
    assert loading.load(name).notices == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["agent=[]"], "agent = []: expected a section whose name is one of "),
        (["agent=null"], "missing key agent.name: expected one of "),
        (["agent=[]", "agent.inner_lr=0.1"], "agent: given as a value and, with agent.inner_lr, as a section"),
        (["agent.inner_lr=0.1", "agent=3"], "agent = 3: expected a section whose name is one of "),
        (["task=3"], "task = 3: expected a section whose name is one of "),
        (["task=[1]"], "task = [1]: expected a section whose name is one of "),
        (["sampler=[1]"], "sampler = [1]: expected a section with keys "),
        (["sampler=null", "sampler.workers=0"], "sampler: given as a value and, with sampler.workers, as a section"),
        (["eval=text"], 'eval = "text": expected a section with keys '),
        (["agent.hidden_sizes.first=3"], "agent.hidden_sizes = "),
    ],
    ids=str,
)
def test_what_stands_where_a_section_belongs_is_refused_in_words(overrides: list[str], words: str) -> None:
    """On the command line, and in a file likewise."""
    with pytest.raises(ConfigError) as refusal:
        loading.load("maml_trpo_point", overrides)
    assert any(line.startswith(words) for line in str(refusal.value).splitlines()), str(refusal.value)


@pytest.mark.parametrize("section", ["task", "agent", "sampler", "wandb"])
@pytest.mark.parametrize("value", ["[]", "[1]", "3", "text", "null"])
def test_a_file_with_something_else_than_a_section_is_refused_in_words(
    section: str, value: str, tmp_path: Path
) -> None:
    numbers = {"iterations": "1", "meta_batch_size": "2", "rollouts_per_task": "2"}
    given = {"task": "{name: point}", "agent": "{name: maml_trpo}", **numbers, section: value}
    text = "".join(f"{key}: {content}\n" for key, content in given.items())
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ConfigError, match=section):
        loading.load(str(tmp_path / "odd.yaml"))
