"""Regression through the agents' inner loop: numbers by hand, closed forms, autograd, and the classic figures."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import math
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from metarl.learning.adaptation.analytic import adapt
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import Samples
from metarl.nn.derivatives import Scratch
from metarl.nn.distributions import DiagonalGaussian
from metarl.nn.policies import MLPPolicy

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "supervised.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "docs" / "examples" / "regression.py"


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("regression", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load_example()
FIRST_ORDER = pytest.mark.parametrize("first_order", [False, True], ids=["MAML", "FOMAML"])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def points(x: list[float], slope: float, intercept: float) -> Samples:
    """One task: a line at the inputs ``x``."""
    inputs = torch.tensor([x], dtype=torch.float64)
    return example.examples(inputs, slope * inputs + intercept)


def line_psi(slope: float, intercept: float) -> Tensor:
    """ψ of the model f(x) = slope·x + intercept; behind it the parameter of σ, which is below its floor."""
    return torch.tensor([slope, intercept, -1.0], dtype=torch.float64)


def line_model(rate: float = 0.1, **kwargs: bool) -> InnerLoop:
    return example.regressor((), "tanh", rate, **kwargs)


# Numbers by hand


def test_a_policy_gradient_step_descends_the_mean_squared_error():
    """f(x) = x at (1, 0) and (2, 1): residuals 1 and 1, ∂w mean r² = 2·(1·1 + 1·2)/2 = 3, ∂b = 2·(1 + 1)/2 = 2."""
    samples = points([1.0, 2.0], slope=1.0, intercept=-1.0)
    before, after = example.adapt(line_model(), line_psi(1.0, 0.0), samples, steps=1)
    assert before.tolist() == [[1.0, 0.0, -1.0]]
    torch.testing.assert_close(after, torch.tensor([[0.7, -0.2, -1.0]], dtype=torch.float64), rtol=1e-12, atol=0)


# Line y = 5x + 2, started from f = 0, adapted at x = ±1, scored at x = ±2. The error's Hessian is diag(2, 2) for the
# former and diag(8, 2) for the latter: a step of 0.1 leaves 0.8 of the error in w and in b.
BY_HAND = [
    # steps, adapted (1 − 0.8ᴷ)(5, 2), FOMAML −(8, 2)·0.8ᴷ(5, 2), MAML 0.8ᴷ times that
    (1, (1.0, 0.4), (-32.0, -3.2), (-25.6, -2.56)),
    (2, (1.8, 0.72), (-25.6, -2.56), (-16.384, -1.6384)),
]


@pytest.mark.parametrize(("steps", "adapted", "first_order", "second_order"), BY_HAND, ids=["1 step", "2 steps"])
def test_outer_gradients_of_a_line_are_those_by_hand(steps, adapted, first_order, second_order):
    support, query, psi = points([-1.0, 1.0], 5.0, 2.0), points([-2.0, 2.0], 5.0, 2.0), line_psi(0.0, 0.0)
    found = {
        "adapted": example.adapt(line_model(), psi, support, steps)[-1][0],
        "reptile": example.reptile_gradient(line_model(), psi, [support] * steps),
        "fomaml": example.maml_gradient(line_model(first_order=True), psi, support, query, steps),
        "maml": example.maml_gradient(line_model(), psi, support, query, steps),
    }
    expected = {
        "adapted": (*adapted, -1.0),
        "reptile": (-adapted[0], -adapted[1], 0.0),
        "fomaml": (*first_order, 0.0),
        "maml": (*second_order, 0.0),
    }
    for name, value in found.items():
        assert value.tolist() == pytest.approx(expected[name], rel=1e-12, abs=1e-12), name


def test_outer_gradients_are_means_over_tasks():
    """Slopes 5 and −1 from w = 0: MAML −25.6 and 5.12, FOMAML −32 and 6.4, Reptile −1 and 0.2."""
    support, query = (
        example.examples(x := column(-size, size).T.repeat(2, 1), column(5.0, -1.0) * x) for size in (1.0, 2.0)
    )
    psi = line_psi(0.0, 0.0)
    assert float(example.maml_gradient(line_model(), psi, support, query)[0]) == pytest.approx(-10.24)
    first_order = example.maml_gradient(line_model(first_order=True), psi, support, query)
    assert float(first_order[0]) == pytest.approx(-12.8)
    assert float(example.reptile_gradient(line_model(), psi, [support])[0]) == pytest.approx(-0.4)


# Shares of the line y = 10x in where training settles, see two_lines: its weight over both lines' weights, where the
# weights are h·0.8²ᴷ = 2·… and 8·0.2²ᴷ for MAML, h·0.8ᴷ and h·0.2ᴷ for FOMAML, 1 − 0.8ᴷ and 1 − 0.2ᴷ for Reptile.
SHARES = {
    ("MAML", 0): Fraction(8, 10),
    ("MAML", 1): Fraction(32, 128 + 32),
    ("FOMAML", 1): Fraction(16, 16 + 16),
    ("Reptile", 1): Fraction(8, 2 + 8),
    ("MAML", 2): Fraction(128, 8192 + 128),
    ("FOMAML", 2): Fraction(32, 128 + 32),
    ("Reptile", 2): Fraction(96, 36 + 96),
}


@pytest.mark.parametrize(("method", "steps"), SHARES, ids=lambda value: str(value))
def test_each_method_settles_on_its_own_mean_of_two_lines(method, steps):
    by_hand, found = example.two_lines(method, steps)
    assert by_hand == pytest.approx(10 * float(SHARES[method, steps]), rel=1e-12)
    assert found == pytest.approx(by_hand, rel=1e-9)


# Lines y = a·x + b at random inputs, in closed form


class Lines:
    """Four lines; every phase has inputs of its own, 5 per task. A step multiplies a task's error by I − αH."""

    rate = 0.03

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.lines = torch.from_numpy(rng.uniform(-3, 3, (4, 2)))
        self.x = torch.from_numpy(rng.uniform(-2, 2, (3, 4, 5)))  # two steps, and the query
        self.phases = [example.examples(x, self.lines[:, :1] * x + self.lines[:, 1:]) for x in self.x]
        design = torch.stack([self.x, torch.ones_like(self.x)], dim=-1)
        self.hessians = 2 * design.mT @ design / 5  # [phase, task, 2, 2]
        self.left = torch.eye(2) - self.rate * self.hessians
        self.jacobian = self.left[1] @ self.left[0]

    def optimum(self, weights: Tensor) -> Tensor:
        """The parameters at which Σᵢ Wᵢ(θ − lineᵢ) = 0, for weights [task, 2, 2]."""
        return torch.linalg.solve(weights.sum(0), (weights @ self.lines.unsqueeze(2)).sum(0).squeeze(1))


def test_adaptation_to_lines_is_the_product_of_what_each_step_leaves():
    lines = Lines()
    psi = line_psi(0.5, -0.3)
    adaptation = adapt(line_model(Lines.rate), psi, lines.phases[:2], Scratch(), num_tasks=4)
    error = lines.jacobian @ (psi[:2] - lines.lines).unsqueeze(2)
    torch.testing.assert_close(adaptation.parameters[-1][:, :2], lines.lines + error.squeeze(2), rtol=1e-12, atol=1e-12)


def test_every_outer_gradient_vanishes_at_its_own_optimum_only():
    lines = Lines()
    jacobian, query = lines.jacobian, lines.hessians[2]
    optima = {
        "joint": lines.optimum(query),
        "maml": lines.optimum(jacobian.mT @ query @ jacobian),
        "fomaml": lines.optimum(query @ jacobian),
        "reptile": lines.optimum(torch.eye(2) - jacobian),
    }

    def gradients(theta: Tensor) -> dict[str, float]:
        psi = torch.cat([theta, torch.tensor([-1.0], dtype=torch.float64)])

        def through(loop: InnerLoop) -> Tensor:
            objective = example.TaskObjective(loop, psi, lines.phases, {2: lines.phases[2].loss_coef}, Scratch())
            return objective.gradient().mean(0)

        found = {
            "joint": example.maml_gradient(line_model(Lines.rate), psi, lines.phases[2], lines.phases[2], 0),
            "maml": through(line_model(Lines.rate)),
            "fomaml": through(line_model(Lines.rate, first_order=True)),
            "reptile": example.reptile_gradient(line_model(Lines.rate), psi, lines.phases[:2]),
        }
        return {name: float(gradient.norm()) for name, gradient in found.items()}

    for name, theta in optima.items():
        found = gradients(theta)
        assert found.pop(name) < 1e-12
        assert min(found.values()) > 1e-3, name


# A network, against autograd of the squared error


def network(flat: Tensor, sizes: tuple[int, ...], activation: str, x: Tensor) -> Tensor:
    """f(x) [M] of one parameter vector, written without any of the code under test."""
    hidden, start = x.unsqueeze(1), 0
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weight = flat[start : start + fan_in * fan_out].view(fan_in, fan_out)
        start += fan_in * fan_out
        hidden = hidden @ weight + flat[start : start + fan_out]
        start += fan_out
        if index < len(sizes) - 2:
            hidden = getattr(torch, activation)(hidden)
    return hidden.squeeze(1)


def sinusoid_case(hidden: int, activation: str) -> tuple[Tensor, Samples, Samples]:
    rng = np.random.default_rng(0)
    psi = example.start(example.regressor((hidden, hidden), activation, 0.01), rng).double()
    function = example.sinusoids(3, rng)
    support, query = (
        example.examples(x, function(x)) for x in (example.uniform(rng, -5.0, 5.0, 3, 10).double() for _ in range(2))
    )
    return psi, support, query


def squared_error(psi: Tensor, samples: Samples, task: int, sizes: tuple[int, ...], activation: str) -> Tensor:
    error = network(psi, sizes, activation, samples.obs[task, 0]) - samples.action[task, 0]
    return error.square().mean()


@pytest.mark.parametrize(("activation", "hidden"), [("relu", 40), ("tanh", 64)])
@pytest.mark.parametrize("steps", [0, 1, 3])
@FIRST_ORDER
def test_the_meta_gradient_is_autograds_of_the_squared_error(activation, hidden, steps, first_order):
    psi, support, query = sinusoid_case(hidden, activation)
    sizes = (1, hidden, hidden, 1)
    gradients = []
    for task in range(3):
        theta = adapted = psi.clone().requires_grad_()
        for _ in range(steps):
            error = squared_error(adapted, support, task, sizes, activation)
            gradient = torch.autograd.grad(error, adapted, create_graph=True)[0]
            adapted = adapted - 0.01 * (gradient.detach() if first_order else gradient)
        gradients.append(torch.autograd.grad(squared_error(adapted, query, task, sizes, activation), theta)[0])
    loop = example.regressor((hidden, hidden), activation, 0.01, first_order=first_order)
    found = example.maml_gradient(loop, psi, support, query, steps)
    torch.testing.assert_close(found, torch.stack(gradients).mean(0), rtol=1e-9, atol=1e-11)
    assert float(found.norm()) > 0.1 and float(found[-1]) == 0.0


def test_a_floor_under_sigma_and_a_mask_over_it_keep_it_alike():
    """With log σ = 0 above its floor and a mask that keeps it from adapting, the network learns the same."""
    psi, support, query = sinusoid_case(40, "relu")
    floored = example.regressor((40, 40), "relu", 0.01)
    free = MLPPolicy(floored.policy.mlp, DiagonalGaussian(1))
    mask = torch.ones(free.num_parameters, dtype=torch.float64)
    mask[-1] = 0.0
    masked, zero = InnerLoop(free, 0.01, mask=mask), torch.cat([psi[:-1], psi.new_zeros(1)])
    expected = example.adapt(floored, psi, support, 2)[-1]
    found = example.adapt(masked, zero, support, 2)[-1]
    torch.testing.assert_close(found[:, :-1], expected[:, :-1], rtol=1e-12, atol=1e-12)
    assert found[:, -1].tolist() == [0.0] * 3
    expected, found = (example.maml_gradient(*of, support, query, 2) for of in ((floored, psi), (masked, zero)))
    torch.testing.assert_close(found[:-1], expected[:-1], rtol=1e-10, atol=1e-12)
    assert float(found[-1]) != 0.0  # the reason for the floor: without it an outer step would have to leave σ alone


# Sinusoids


@pytest.mark.parametrize("max_phase", [math.pi, 2 * math.pi])
def test_sinusoids_have_the_papers_amplitudes_and_phases(max_phase):
    function = example.sinusoids(5000, np.random.default_rng(0), max_phase)
    minus_sine, cosine = function(torch.tensor([[0.0, math.pi / 2]])).double().unbind(1)
    amplitude, phase = torch.hypot(minus_sine, cosine), torch.atan2(-minus_sine, cosine) % (2 * math.pi)
    for values, low, high in ((amplitude, 0.1, 5.0), (phase, 0.0, max_phase)):
        assert low - 1e-6 <= float(values.min()) < low + 0.01 and high - 0.01 < float(values.max()) <= high + 1e-6
        assert float(values.mean()) == pytest.approx((low + high) / 2, rel=0.03)


def test_reptiles_minibatches_are_one_pass_over_fifty_points():
    batches = example.minibatches(torch.cos, 3, np.random.default_rng(0))
    assert [tuple(batch.obs.shape) for batch in batches] == [(3, 1, 10)] * 5
    x = torch.cat([batch.obs for batch in batches], dim=2).squeeze(1)
    assert torch.equal(x.sort(1).values, torch.linspace(-5.0, 5.0, 50).expand(3, -1))
    assert not torch.equal(x[0], x[1])
    assert all(torch.equal(batch.action, batch.obs.cos()) for batch in batches)


def test_tasks_that_diverge_are_told_from_those_that_settle():
    errors = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.5, 101.0, torch.nan, 100.0], [0.2, 1.0, 1.0, torch.inf]])
    assert torch.equal(example.settled(errors), errors[:, :1])


def short_training(loop: InnerLoop, outer, optimizer: str, lr: float, *, iterations=1500, **evaluation) -> Tensor:
    """Mean errors on 200 test tasks by adaptation step."""
    psi = example.start(loop, np.random.default_rng(0))
    decay = optimizer == "sgd"
    psi = example.train(psi, outer, optimizer, lr, iterations, np.random.default_rng([0, 0]), decay=decay)
    settled = example.settled(example.errors_by_step(loop, psi, seed=0, num_tasks=200, **evaluation))
    assert settled.shape[1] >= 198
    return settled.mean(1)


@pytest.fixture(scope="module")
def pretrained(one_thread) -> Tensor:
    loop = example.regressor((40, 40), "relu", 0.01)
    return short_training(loop, example.sinusoid_maml(loop, steps=0), "adam", 1e-3)


def test_maml_soon_adapts_where_a_network_pretrained_on_all_tasks_does_not():
    """A fifth of the training of the next two tests, with three times their meta-learning rate."""
    loop, short = example.regressor((40, 40), "relu", 0.01), {"iterations": 300}
    pretrained = short_training(loop, example.sinusoid_maml(loop, steps=0), "adam", 3e-3, **short)
    maml = short_training(loop, example.sinusoid_maml(loop), "adam", 3e-3, **short)
    reptile = short_training(loop, example.sinusoid_reptile(loop), "sgd", 1.0, **short)
    assert pretrained[1] > 0.8 * pretrained[0]
    assert maml[1] < 0.5 * maml[0] and maml[1] < 0.5 * pretrained[1] and maml[10] < 0.35 * pretrained[10]
    assert reptile[10] < 0.7 * reptile[0] and reptile[10] < 0.75 * pretrained[10]


@pytest.mark.slow
def test_maml_adapts_where_a_network_pretrained_on_all_tasks_does_not(pretrained):
    """Figures 2 and 3 of Finn et al. 2017 in small: one step does most of it, and further steps go on improving."""
    loop = example.regressor((40, 40), "relu", 0.01)
    errors = short_training(loop, example.sinusoid_maml(loop), "adam", 1e-3)
    assert errors[1] < 0.4 * errors[0] and errors[1] < 0.5 * pretrained[1]
    assert errors[10] < 0.2 * errors[0] and errors[10] < 0.3 * pretrained[10] and errors[10] < 0.7 * errors[1]


@pytest.mark.slow
def test_reptile_adapts_where_a_network_pretrained_on_all_tasks_does_not(pretrained):
    loop = example.regressor((40, 40), "relu", 0.01)
    errors = short_training(loop, example.sinusoid_reptile(loop), "sgd", 1.0)
    assert errors[5] < 0.3 * errors[0] and errors[5] < 0.4 * pretrained[5]
    assert errors[10] < 0.2 * errors[0] and errors[10] < 0.35 * pretrained[10]


@pytest.mark.slow
def test_reptile_learns_its_authors_sinusoids():
    """All phases, so that the mean function is 0 and joint training has nothing to learn; tanh, 32 steps of 0.02.

    Source: Nichol et al. 2018, arXiv:1803.02999, and its authors' demonstration.
    """
    loop, all_phases = example.regressor((64, 64), "tanh", 0.02), 2 * math.pi
    rule = {"steps": 32, "max_phase": all_phases, "iterations": 600}
    reptile = short_training(loop, example.sinusoid_reptile(loop, max_phase=all_phases), "sgd", 1.0, **rule)
    joint = short_training(loop, example.sinusoid_maml(loop, 0, max_phase=all_phases), "adam", 1e-3, **rule)
    mean_square = (5.0**3 - 0.1**3) / (3 * 4.9) / 2  # E[a²]/2, the error of f = 0
    assert [float(errors[0]) for errors in (joint, reptile)] == pytest.approx([mean_square] * 2, rel=0.15)
    assert reptile[8] < 0.65 * joint[8] and reptile[32] < 0.5 * reptile[0] and reptile[32] < 0.65 * joint[32]


# The page


def documented_command() -> list[str]:
    (command,) = re.findall(r"```bash\npython (\S+)\s*(?:#.*)?\n```", PAGE)
    assert ROOT / command == EXAMPLE
    return [sys.executable, str(ROOT / command)]


def errors_in(output: str) -> dict[str, list[float]]:
    """Rows of the second table by name: four errors and a number of tasks."""
    table = output[output.index("Sinusoids") :]
    rows = re.findall(r"^(\w[^:]*?) {2,}((?:[\d.]+|nan)(?: +(?:[\d.]+|nan)){3} +\d+)$", table, flags=re.MULTILINE)
    return {name: [float(value) for value in values.split()] for name, values in rows}


def run_example(*arguments: str, cwd: Path) -> str:
    done = subprocess.run([*documented_command(), *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (cwd / "sinusoid.png").read_bytes().startswith(b"\x89PNG")
    return done.stdout


def test_the_documented_command_prints_both_tables_and_draws(tmp_path):
    found = errors_in(run_example("--iterations", "1", cwd=tmp_path))
    tuned = [name for name in found if name.startswith("pretrained, step")]
    assert list(found) == ["MAML", "FOMAML", "Reptile", "pretrained", *tuned, "random"] and len(tuned) == 1


@pytest.mark.slow
def test_the_documented_command_shows_the_classic_figures(tmp_path):
    found = errors_in(run_example(cwd=tmp_path))
    for name in ("MAML", "FOMAML", "Reptile"):
        assert found[name][1] < 0.45 * found["pretrained"][1] and found[name][3] < 0.2 * found["pretrained"][3]


def test_the_code_on_the_page_is_the_examples():
    shown = ast.parse("\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))).body
    there = [ast.dump(node) for node in ast.parse(EXAMPLE.read_text(encoding="utf-8")).body]
    assert shown and all(ast.dump(node) in there for node in shown)


def test_the_pages_first_table_is_by_hand():
    rows = re.findall(
        r"^\| (all examples together|MAML|FOMAML|Reptile) \| ([\d.]+ \| [\d.]+) \|$", PAGE, flags=re.MULTILINE
    )
    assert len(rows) == 4
    for name, cells in rows:
        method, steps = ("MAML", [0, 0]) if name.startswith("all") else (name, [1, 2])
        assert [float(cell) for cell in cells.split(" | ")] == [
            round(10 * float(SHARES[method, k]), 2) for k in steps
        ], name
