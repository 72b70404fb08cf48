"""The Transformer's window, its positions, and attention against naive loops."""

import math

import numpy as np
import pytest
import torch

from metarl.nn.memories.transformer import Transformer, attend_scan, attend_step, rotated, rotation

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_case(layers: int, context: int, rows: int = 2, steps: int = 20):
    memory = Transformer(3, 8, layers, heads=2, context=context)
    flat = memory.initial(np.random.default_rng(0)).double()
    x = draw(rows, steps, 3, seed=1)
    return memory, flat, x, memory.initial_state(rows, x)


def rings(rows: int, heads: int, context: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.zeros(rows, heads, context, width, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize(("layers", "context"), [(1, 4), (2, 4), (3, 2), (2, 1)])
@pytest.mark.parametrize("cut", [0, 11])
def test_a_step_depends_on_the_window_of_every_layer_and_on_nothing_before_or_behind_it(layers, context, cut):
    memory, flat, x, state = random_case(layers, context)
    x.requires_grad_()
    params = memory.unpack(flat)
    if cut:
        first, state = memory.scan(params, x[:, :cut], state)
        features = torch.cat([first, memory.scan(params, x[:, cut:], state)[0]], dim=1)
    else:
        features, _ = memory.scan(params, x, state)
    t, reach = 15, layers * (context - 1)
    (gradient,) = torch.autograd.grad((features[:, t] * draw(2, 8, seed=2)).sum(), x)
    seen = gradient.abs().amax(-1) > 1e-12
    assert seen[:, t - reach : t + 1].all()
    assert not gradient[:, : t - reach].any() and not gradient[:, t + 1 :].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_only_distances_in_time_count(dtype):
    memory, flat, x, state = random_case(2, 5, steps=30)
    flat, x = flat.to(dtype), x.to(dtype)
    params = memory.unpack(flat)
    reach, ends = 8, []
    for age in (0, 13, 100_000):
        older = (torch.full((2,), age, dtype=dtype), *(part.to(dtype) for part in state[1:]))
        features, after = memory.scan(params, x, older)
        assert (after[0] == age + 30).all()
        ends.append(features[:, reach:])
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=tolerance, atol=tolerance)
    swapped = x[:, [*range(28), 29, 28]]  # and they do count: the same inputs in another order
    other, _ = memory.scan(params, torch.cat([swapped, x[:, :1]], dim=1), tuple(part.to(dtype) for part in state))
    same, _ = memory.scan(params, torch.cat([x, x[:, :1]], dim=1), tuple(part.to(dtype) for part in state))
    assert float((other[:, -1] - same[:, -1]).abs().max()) > 1e-3


def test_rotation_by_hand():
    position = torch.tensor([3.0, 7.0]).double()
    cos, sin = rotation(position, 4)
    angles = [[[3.0, 0.03]], [[7.0, 0.07]]]  # base 10000: frequencies 1 and 10000^(−1/2)
    torch.testing.assert_close(cos, torch.tensor(angles).double().cos(), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(sin, torch.tensor(angles).double().sin(), rtol=1e-7, atol=1e-8)
    turned = rotated(torch.tensor([1.0, 0.0, 0.0, 1.0]).double().expand(2, 1, 4), (cos, sin))[0, 0]
    expected = [math.cos(3), -math.sin(0.03), math.sin(3), math.cos(0.03)]  # pairs are (0, 2) and (1, 3)
    assert turned.tolist() == pytest.approx(expected, rel=1e-7)
    assert rotation(torch.full((5, 2), 4.0), 4)[0].shape == (1, 2, 1, 2)  # trials of one age share their angles


def test_attention_with_equal_scores_is_the_mean_over_the_window():
    keys, values = rings(1, 1, 3, 2)
    nothing, seen = torch.zeros(1, 1, 2).double(), []
    for t in range(5):
        v = torch.tensor([[[float(t), 1.0]]]).double()
        seen.append(attend_step(nothing, nothing, v, keys, values, torch.tensor([float(t)]))[0].tolist())
    assert seen == [pytest.approx([mean, 1.0]) for mean in (0, 0.5, 1, 2, 3)]
    assert values[0, 0, :, 0].tolist() == [3, 4, 2]  # step p lies in slot p mod 3


def test_attention_by_hand():
    keys, values = rings(1, 1, 2, 4)
    one = torch.tensor([1.0, 0.0, 0.0, 0.0]).double().view(1, 1, 4)
    attend_step(one, 0 * one, 1 * one, keys, values, torch.tensor([0.0]))
    # scores q·k/√4 are 0 and log 3: weights 1/4 and 3/4 on values 1 and 5
    seen = attend_step(one, 2 * math.log(3) * one, 5 * one, keys, values, torch.tensor([1.0]))
    assert seen[0].tolist() == pytest.approx([0.25 * 1 + 0.75 * 5, 0, 0, 0])


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("steps", [1, 3, 4, 5, 13])
@pytest.mark.parametrize("ages", [(0, 0, 0), (9, 9, 9), (0, 2, 9)], ids=str)
def test_attention_of_a_scan_is_the_naive_sum_for_trials_of_any_age(steps, ages, twice):
    rows, heads, context, width = 3, 2, 4, 2
    q, k, v = (draw(rows, steps + 9, heads, width, seed=seed) for seed in range(3))
    keys, values = rings(rows, heads, context, width)
    for t in range(max(ages)):  # row r has seen the last ages[r] of the first 9 steps
        for row in range(rows):
            if t >= max(ages) - ages[row]:
                at = 9 - max(ages) + t
                age = torch.tensor([float(t - (max(ages) - ages[row]))])
                part = slice(row, row + 1)
                attend_step(q[part, at], k[part, at], v[part, at], keys[part], values[part], age)
    count = torch.tensor(ages).double()
    before = keys.clone(), values.clone()
    seen, new_keys, new_values = attend_scan(q[:, 9:], k[:, 9:], v[:, 9:], keys, values, count, twice=twice)
    assert torch.equal(keys, before[0]) and torch.equal(values, before[1])
    for row, age in enumerate(ages):
        for t in range(9, 9 + steps):
            window = slice(max(9 - age, t - context + 1), t + 1)
            for head in range(heads):
                weights = (k[row, window, head] @ q[row, t, head] / math.sqrt(width)).softmax(0)
                expected = weights @ v[row, window, head]
                torch.testing.assert_close(seen[row, t - 9].view(heads, width)[head], expected)
        for p in range(max(0, age + steps - context), age + steps):  # steps of the trial that the rings now hold
            assert torch.equal(new_keys[row, :, p % context], k[row, 9 - age + p])
            assert torch.equal(new_values[row, :, p % context], v[row, 9 - age + p])


@pytest.mark.parametrize("twice", [False, True])
def test_what_a_long_scan_keeps_grows_with_its_length_and_not_with_the_square(twice):
    def kept(steps: int) -> int:
        memory, flat, x, state = random_case(1, 8, rows=1, steps=steps)
        flat.requires_grad_()
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = memory.scan(memory.unpack(flat), x, state, twice=twice)
        assert result[0].requires_grad
        return sum(sizes.values())

    assert kept(512) - kept(256) < 1.1 * (kept(256) - kept(128)) * 2


def test_initial_weights_keep_the_scale_and_residual_branches_start_small():
    memory = Transformer(30, 64, 3)
    named = dict(zip(memory.shapes(), memory.views(memory.initial(np.random.default_rng(0))), strict=True))
    for name, view in named.items():
        if name.endswith("weight"):
            shrink = math.sqrt(2 * 3) if "project" in name or "contract" in name else 1.0
            assert float(view.std()) == pytest.approx(1 / math.sqrt(len(view)) / shrink, rel=0.05)
        else:
            assert (view == (1.0 if name.endswith("gain") else 0.0)).all()
    assert list(named)[:4] == ["embed.weight", "embed.bias", "layer0.norm1.gain", "layer0.norm1.bias"]
