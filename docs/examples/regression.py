"""Few-shot regression with the inner loop of the policy-gradient agents: MAML and Reptile without any environment.

Squared error is a policy-gradient loss: −2 log N(y; f(x), 1) = (f(x) − y)² + log 2π. So inputs are observations,
targets are the actions taken, the advantage of all of them is 2, and the policy is Gaussian with σ fixed to 1.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import Tensor

from metarl.learning.adaptation.analytic import policy_gradient_step
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import Samples
from metarl.learning.meta_objective import TaskObjective
from metarl.nn.derivatives import Scratch
from metarl.nn.distributions import DiagonalGaussian
from metarl.nn.mlp import MLP, Activation
from metarl.nn.optimizers import FlatOptimizer, OptimizerName
from metarl.nn.policies import MLPPolicy, init_parameters

Function = Callable[[Tensor], Tensor]  # inputs [N, M] of N tasks → targets [N, M]
OuterGradient = Callable[[Tensor, np.random.Generator], Tensor]  # (ψ [Q], random numbers) → [Q], on newly drawn tasks

SHOTS, RATE, TASKS, STEPS = 10, 0.01, 25, 10
scratch = Scratch()

# Regression in the terms of the inner loop


def regressor(hidden: Sequence[int], activation: Activation, rate: float, *, first_order: bool = False) -> InnerLoop:
    """Adaptation of a network from one number to one number by steps of size ``rate`` on mean squared error."""
    fixed = DiagonalGaussian(1, min_log_std=0.0)  # parameters below the floor: σ = 1, and no gradient reaches it
    policy = MLPPolicy(MLP((1, *hidden, 1), activation), fixed)
    return InnerLoop(policy, rate, first_order=first_order)


def start(loop: InnerLoop, rng: np.random.Generator) -> Tensor:
    """ψ [Q] to train from, or to compare with: Glorot-uniform weights, zero biases."""
    return loop.initial(init_parameters(loop.policy, init_std=0.5, rng=rng))


def examples(x: Tensor, y: Tensor) -> Samples:
    """Inputs and targets, both [N, M], as samples whose inner loss is mean (f(x) − y)² but for a constant."""
    advantage, weight = torch.full_like(x, 2.0), torch.full_like(x, 1.0 / x.shape[1])
    return Samples(x.unsqueeze(1), y.unsqueeze(1), advantage, weight, torch.ones_like(x, dtype=torch.bool))


def predict(loop: InnerLoop, params: Tensor, x: Tensor) -> Tensor:
    """f(x) [N, M] of parameters [N, P]."""
    return loop.policy.outputs(params, x.unsqueeze(1))[0].squeeze(1)


def adapt(loop: InnerLoop, psi: Tensor, samples: Samples, steps: int) -> list[Tensor]:
    """Parameters [N, P] before and after every one of the steps on the same samples."""
    trail = [loop.split(psi)[0].repeat(len(samples.obs), 1)]
    for step in range(steps):
        trail.append(policy_gradient_step(loop, psi, trail[-1], samples, step, scratch))
    return trail


# What an outer step goes down; means over tasks, [Q]


def maml_gradient(loop: InnerLoop, psi: Tensor, support: Samples, query: Samples, steps: int = 1) -> Tensor:
    """∇ψ of the error on ``query`` after the steps on ``support``; with 0 steps that of joint training."""
    phases = [support] * steps + [query]
    return TaskObjective(loop, psi, phases, {steps: query.loss_coef}, scratch).gradient().mean(0)


def reptile_gradient(loop: InnerLoop, psi: Tensor, minibatches: Sequence[Samples]) -> Tensor:
    """ψ − θ̄, θ̄ the mean of where one step on each of the minibatches ends."""
    params = loop.split(psi)[0].repeat(len(minibatches[0].obs), 1)
    for step, samples in enumerate(minibatches):
        params = policy_gradient_step(loop, psi, params, samples, step, scratch)
    return psi - params.mean(0)


def train(
    psi: Tensor,
    gradient: OuterGradient,
    optimizer: OptimizerName,
    lr: float,
    iterations: int,
    rng: np.random.Generator,
    *,
    decay: bool = False,
) -> Tensor:
    """ψ after outer steps of size ``lr``, with ``decay`` shrinking linearly to zero."""
    descent = FlatOptimizer(optimizer, psi)
    for iteration in range(iterations):
        psi = descent.step(psi, gradient(psi, rng), lr * (1 - iteration / iterations) if decay else lr)
    return psi


# Sinusoids


def sinusoids(num_tasks: int, rng: np.random.Generator, max_phase: float = math.pi) -> Function:
    """y = a·sin(x − b), a uniform in [0.1, 5], b in [0, ``max_phase``] (Finn et al. 2017, section 5.1: π)."""
    amplitude, phase = uniform(rng, 0.1, 5.0, num_tasks, 1), uniform(rng, 0.0, max_phase, num_tasks, 1)
    return lambda x: amplitude * torch.sin(x - phase)


def uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Tensor:
    """float32 numbers."""
    return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))


def few_shots(function: Function, num_tasks: int, rng: np.random.Generator) -> Samples:
    """``SHOTS`` examples per task at inputs uniform in [−5, 5]."""
    x = uniform(rng, -5.0, 5.0, num_tasks, SHOTS)
    return examples(x, function(x))


def minibatches(function: Function, num_tasks: int, rng: np.random.Generator) -> list[Samples]:
    """50 equally spaced inputs in random order, five minibatches of 10."""
    order = torch.from_numpy(rng.random((num_tasks, 50))).argsort(1)
    return [examples(x, function(x)) for x in torch.linspace(-5.0, 5.0, 50)[order].split(SHOTS, dim=1)]


def sinusoid_maml(loop: InnerLoop, steps: int = 1, num_tasks: int = TASKS, max_phase: float = math.pi) -> OuterGradient:
    """As in Finn et al. 2017: ``SHOTS`` examples to adapt on and as many others to score; 0 steps pretrain."""

    def gradient(psi: Tensor, rng: np.random.Generator) -> Tensor:
        function = sinusoids(num_tasks, rng, max_phase)
        support, query = few_shots(function, num_tasks, rng), few_shots(function, num_tasks, rng)
        return maml_gradient(loop, psi, support, query, steps)

    return gradient


def sinusoid_reptile(loop: InnerLoop, num_tasks: int = TASKS, max_phase: float = math.pi) -> OuterGradient:
    """The inner loop of the Reptile authors' demonstration: one pass over the task in five minibatches."""

    def gradient(psi: Tensor, rng: np.random.Generator) -> Tensor:
        return reptile_gradient(loop, psi, minibatches(sinusoids(num_tasks, rng, max_phase), num_tasks, rng))

    return gradient


def errors_by_step(
    loop: InnerLoop, psi: Tensor, *, seed: int, num_tasks: int = 500, steps: int = STEPS, max_phase: float = math.pi
) -> Tensor:
    """Mean squared errors over [−5, 5] after 0 … ``steps`` steps on ``SHOTS`` examples: [steps + 1, N]."""
    rng = np.random.default_rng([seed, 1])  # not the numbers that training draws from
    function = sinusoids(num_tasks, rng, max_phase)
    trail = adapt(loop, psi, few_shots(function, num_tasks, rng), steps)
    x = torch.linspace(-5.0, 5.0, 100).expand(num_tasks, -1)
    return torch.stack([(predict(loop, params, x) - function(x)).square().mean(1) for params in trail])


def settled(errors: Tensor) -> Tensor:
    """The columns of [steps + 1, N] tasks that do not diverge: errors never above 100, where f = 0 has 12.5 at most."""
    return errors[:, (errors <= 100.0).all(0)]


def train_all(iterations: int, seed: int) -> dict[str, tuple[InnerLoop, Tensor]]:
    """By name: how it adapts, and ψ. All start from the same random network."""
    loop = regressor((40, 40), "relu", RATE)
    initial = start(loop, np.random.default_rng(seed))

    def trained(gradient: OuterGradient, optimizer: OptimizerName, lr: float, decay: bool = False) -> Tensor:
        return train(initial, gradient, optimizer, lr, iterations, np.random.default_rng([seed, 0]), decay=decay)

    first_order = regressor((40, 40), "relu", RATE, first_order=True)
    pretrained = trained(sinusoid_maml(loop, steps=0), "adam", 1e-3)
    found = {
        "MAML": (loop, trained(sinusoid_maml(loop), "adam", 1e-3)),
        "FOMAML": (loop, trained(sinusoid_maml(first_order), "adam", 1e-3)),
        "Reptile": (loop, trained(sinusoid_reptile(loop), "sgd", 1.0, decay=True)),
        "pretrained": (loop, pretrained),
    }
    loops = [regressor((40, 40), "relu", rate) for rate in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)]
    best = min(
        loops, key=lambda one: float(errors_by_step(one, pretrained, seed=seed + 1000)[-1].mean().nan_to_num(1e9))
    )
    found[f"pretrained, step {best.rate}"] = (best, pretrained)
    return found | {"random": (loop, initial)}


# Lines


def two_lines(method: str, steps: int) -> tuple[float, float]:
    """Where a model f(x) = w·x + b settles for the lines y = 0, seen at x = ±1, and y = 10x, seen at x = ±2.

    A step of 0.1 takes a line's error in w to 1 − 0.1·h of it, h = 2·mean x² being 2 and 8. So each method's w is a
    mean of the slopes 0 and 10 with weights of its own.

    Returns:
        (w worked out by hand, w after training).
    """
    x = torch.tensor([[-1.0, 1.0], [-2.0, 2.0]], dtype=torch.float64)
    samples = examples(x, x * torch.tensor([[0.0], [10.0]]))
    h = np.array([2.0, 8.0])
    left = (1 - 0.1 * h) ** steps
    weight = {"MAML": left * h * left, "FOMAML": h * left, "Reptile": 1 - left}[method]
    loop = regressor((), "tanh", 0.1, first_order=method == "FOMAML")

    def gradient(psi: Tensor, rng: np.random.Generator) -> Tensor:
        if method == "Reptile":
            return reptile_gradient(loop, psi, [samples] * steps)
        return maml_gradient(loop, psi, samples, samples, steps)

    rng = np.random.default_rng(0)
    found = train(start(loop, rng).double(), gradient, "sgd", 0.2, 400, rng)
    return float(weight @ [0.0, 10.0] / weight.sum()), float(found[0])


# The picture, in Okabe & Ito's palette

COLORS = {"MAML": "#D55E00", "FOMAML": "#E69F00", "Reptile": "#0072B2", "pretrained": "#555555", "random": "#AAAAAA"}
FIT = "#009E73"


def draw(path: str, learned: dict[str, tuple[InnerLoop, Tensor]], errors: dict[str, Tensor]) -> None:
    """Fits of two tasks on the left, errors by adaptation steps on the right."""
    figure = Figure(figsize=(12, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.5, 1.0])[0]
    panels = left.subplots(2, 2, sharex=True, sharey=True)
    draw_fits(panels, learned)
    handles = panels[0, 0].get_legend_handles_labels()
    left.legend(*handles, loc="outside lower center", ncols=6, frameon=False, fontsize=9, columnspacing=1.4)
    draw_errors(right.subplots(), errors)
    figure.savefig(path)


def draw_fits(panels: np.ndarray, learned: dict[str, tuple[InnerLoop, Tensor]]) -> None:
    """Rows MAML and Reptile; two tasks fixed beforehand, the second one seen on one side only."""
    rng = np.random.default_rng(0)
    amplitude, phase = torch.tensor([[4.0], [3.0]]), torch.tensor([[0.8], [2.4]])
    seen = torch.cat([uniform(rng, -5.0, 5.0, 1, SHOTS), uniform(rng, 0.0, 5.0, 1, SHOTS)])
    samples = examples(seen, amplitude * torch.sin(seen - phase))
    x = torch.linspace(-5.0, 5.0, 200).expand(2, -1)
    true = amplitude * torch.sin(x - phase)
    tuned = next(name for name in learned if name.startswith("pretrained,"))

    def fits(name: str) -> list[Tensor]:
        loop, psi = learned[name]
        return [predict(loop, params, x) for params in adapt(loop, psi, samples, STEPS)]

    for row, name in enumerate(("MAML", "Reptile")):
        adapted, pretrained = fits(name), fits(tuned)[STEPS]
        for task, axes in enumerate(panels[row]):
            axes.plot(x[task], true[task], color="black", linewidth=1, label="task")
            axes.plot(seen[task], samples.action[task, 0], "^", color="black", markersize=6, label="seen", zorder=3)
            axes.plot(x[task], adapted[0][task], "--", color=FIT, alpha=0.6, label="before")
            axes.plot(x[task], adapted[1][task], color=FIT, alpha=0.5, label="1 step")
            axes.plot(x[task], adapted[STEPS][task], color=FIT, linewidth=2.2, label=f"{STEPS} steps")
            axes.plot(x[task], pretrained[task], ":", color=COLORS["pretrained"], label=f"pretrained, {STEPS} steps")
            tidy(axes)
        panels[row, 0].set_ylabel(name, fontsize=12)
        panels[1, row].set_xlabel("x")
    panels[0, 0].set_title(f"{SHOTS} examples from the whole range", fontsize=11)
    panels[0, 1].set_title(f"{SHOTS} examples from one half", fontsize=11)


def draw_errors(axes: Axes, errors: dict[str, Tensor]) -> None:
    """Means over the test tasks that do not diverge, and their 95 % intervals."""
    for name, error in ((name, settled(error)) for name, error in errors.items()):
        mean, spread = error.mean(1), 1.96 * error.std(1) / math.sqrt(error.shape[1])
        color, style, steps = COLORS[name.split(",")[0]], ":" if "," in name else "-", range(len(mean))
        axes.plot(steps, mean, style, color=color, marker=".", label=name)
        axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)
    axes.set(yscale="log", xlabel="adaptation steps", ylabel="mean squared error", xticks=range(0, STEPS + 1, 2))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_title(f"{errors['MAML'].shape[1]} test tasks, {SHOTS} examples each", fontsize=11)
    axes.legend(frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.5))
    tidy(axes)


def tidy(axes: Axes) -> None:
    """No box, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def main() -> None:
    """Print both tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=6000, help="outer steps of every method (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("--picture", default="sinusoid.png", help="where to draw (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the network is too small to share
    began = time.perf_counter()

    print("Two lines, y = 0 seen at x = ±1 and y = 10x seen at x = ±2: the slope that training settles on")
    print(f"{'':24}{'by hand':>9}{'trained':>9}")
    for method, steps in [("MAML", 0), *((m, k) for k in (1, 2) for m in ("MAML", "FOMAML", "Reptile"))]:
        by_hand, found = two_lines(method, steps)
        name = f"{method}, {steps} inner step{'s' * (steps > 1)}" if steps else "all examples together"
        print(f"{name:24}{by_hand:9.3f}{found:9.3f}")

    learned = train_all(arguments.iterations, arguments.seed)
    errors = {name: errors_by_step(loop, psi, seed=arguments.seed) for name, (loop, psi) in learned.items()}
    columns = (0, 1, 5, STEPS)
    print(f"\nSinusoids: mean squared error after … steps on {SHOTS} examples; 500 test tasks less those that diverge")
    print(f"{'':24}" + "".join(f"{steps:9}" for steps in columns) + f"{'diverge':>9}")
    for name, error in errors.items():
        means = settled(error).mean(1)
        row = "".join(f"{float(means[steps]):9.2f}" for steps in columns)
        print(f"{name:24}{row}{error.shape[1] - settled(error).shape[1]:9}")
    draw(arguments.picture, learned, errors)
    print(f"\n{arguments.picture}, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
