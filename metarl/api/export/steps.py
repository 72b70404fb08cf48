"""One step of a policy, in operations that NumPy and torch have in common; ``xp`` is one of the two modules.

With torch it is what ``torch.export`` records. With NumPy it goes, as it stands here, into the file that a robot runs:
so it takes what Python 3.10 and NumPy 1.22 have. There is one row: arrays are [1, features], the memory's state as in
:mod:`metarl.nn.memories`, which has the sources of the equations. ``w`` maps names to weights, those of
:meth:`metarl.nn.memories.memory.Memory.shapes` in the functions of memories. All return (features, next state).

The oracle is the policy itself: see :mod:`metarl.api.export.check`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Array = Any  # of NumPy or of torch
Weights = Mapping[str, Array]
Memory = Callable[[Any, Weights, Array, Sequence[Array]], "tuple[Array, Sequence[Array]]"]  # (xp, w, x, state)

CLIP = 10.0  # of numbers that were normalised
ROTARY_BASE = 10_000.0
TURN = 6.283185307179586  # 2π
TINY = 1e-12  # beside squared lengths
FLOOR = 1e-16  # under weights whose logarithm is taken


class Step:
    """A whole step: inputs by name to outputs by name. ``about`` describes them, and says what lies between."""

    def __init__(self, xp: Any, about: Mapping[str, Any], weights: Weights, memory: Memory | None) -> None:
        self.xp, self.about, self.weights, self.memory = xp, about, weights, memory
        self.memory_weights = within(weights, "memory.")

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs for inputs; the names of states that it puts out begin with ``next_``."""
        xp, w, network = self.xp, self.weights, self.about["network"]
        x = self.seen(inputs["obs"])
        if self.memory is not None:
            x = xp.concatenate([x, *self.told(inputs)], axis=-1)
        for layer in range(network["layers"]):
            x = affine(w, f"encoder.layer{layer}", x)
            x = x.clip(0) if network["activation"] == "relu" else xp.tanh(x)
        names: Sequence[str] = network["state"]
        state: Sequence[Array] = []
        if self.memory is not None:
            x, state = self.memory(xp, self.memory_weights, x, [inputs[name] for name in names])
        action, shown = self.act(affine(w, "head", x))
        if self.memory is None:
            return {"action": action}
        after = {f"next_{name}": array for name, array in zip(names, state, strict=True)}
        return {"action": action, "next_prev_action": shown, **after}

    def seen(self, obs: Array) -> Array:
        """The observation as the network sees it: a vector or a one-hot, the task's numbers behind it, normalised."""
        xp, w, space = self.xp, self.weights, self.about["observation"]
        if space["kind"] == "discrete":
            obs = obs.reshape(1, 1) - space["start"] == xp.arange(space["n"])
        x = xp.asarray(obs, dtype=xp.float32).reshape(1, -1)
        if "task" in w:
            x = xp.concatenate([x, w["task"]], axis=-1)
        return ((x - w["obs_mean"]) / w["obs_std"]).clip(-CLIP, CLIP) if "obs_mean" in w else x

    def told(self, inputs: Mapping[str, Array]) -> list[Array]:
        """What a memory is told of the step before: its action, its reward, whether it ended; and the episode's
        beginning."""
        xp, w, space = self.xp, self.weights, self.about["action"]
        action = inputs["prev_action"].reshape(1, -1)
        if space["kind"] == "discrete":
            action = xp.asarray(action == xp.arange(space["n"]), dtype=xp.float32)
        reward = inputs["prev_reward"].reshape(1, 1) * self.about["network"]["reward_scale"]
        if "reward_unit" in w:
            reward = (reward / w["reward_unit"]).clip(-CLIP, CLIP)
        flags = (inputs[name].reshape(1, 1) for name in ("prev_terminated", "prev_truncated", "first"))
        return [action, reward, *(xp.asarray(flag, dtype=xp.float32) for flag in flags)]

    def act(self, outputs: Array) -> tuple[Array, Array]:
        """The most likely action, in the environment's units, shape and dtype; and as a memory is shown it."""
        xp, w, space = self.xp, self.weights, self.about["action"]
        dtype, shape = getattr(xp, space["dtype"]), tuple(space["shape"])
        if space["kind"] == "discrete":
            choice = outputs.argmax(-1).reshape(())
            return xp.asarray(choice + space["start"], dtype=dtype), choice
        unit = (xp.asarray(outputs[0], dtype=xp.float64) / space["scale"]).clip(-1.0, 1.0)
        control = w["centre"] + w["half_range"] * unit
        kept = xp.minimum(xp.maximum(control, w["low"]), w["high"])
        shown = xp.where(xp.all(kept == control), unit, (kept - w["centre"]) / w["divisor"])
        return xp.asarray(kept, dtype=dtype).reshape(shape), xp.asarray(shown, dtype=xp.float32)


def within(w: Weights, prefix: str) -> dict[str, Array]:
    """The weights whose names begin with ``prefix``, by the rest of their names."""
    return {name[len(prefix) :]: array for name, array in w.items() if name.startswith(prefix)}


def affine(w: Weights, name: str, x: Array) -> Array:
    """xW + b."""
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]


def sigmoid(xp: Any, x: Array) -> Array:
    """1/(1 + exp(−x)), without an overflow."""
    return 0.5 + 0.5 * xp.tanh(0.5 * x)


def softplus(xp: Any, x: Array) -> Array:
    """log(1 + exp(x)), without an overflow."""
    return x.clip(0) + xp.log1p(xp.exp(-xp.abs(x)))


def softmax(xp: Any, x: Array) -> Array:
    """exp(x)/Σ exp(x) along the last axis."""
    e = xp.exp(x - xp.amax(x, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gru(xp: Any, w: Weights, x: Array, state: Sequence[Array]) -> tuple[Array, list[Array]]:
    """Gated recurrent units. State: h by layer."""
    after = []
    for layer, h in enumerate(state):
        size = h.shape[-1]
        a = x @ w[f"layer{layer}.weight_ih"] + w[f"layer{layer}.bias_ih"]
        b = h @ w[f"layer{layer}.weight_hh"] + w[f"layer{layer}.bias_hh"]
        gates = sigmoid(xp, a[:, : 2 * size] + b[:, : 2 * size])
        r, z = gates[:, :size], gates[:, size:]
        n = xp.tanh(a[:, 2 * size :] + r * b[:, 2 * size :])
        x = n + z * (h - n)
        after.append(x)
    return x, after


def lstm(xp: Any, w: Weights, x: Array, state: Sequence[Array]) -> tuple[Array, list[Array]]:
    """Long short-term memory. State: h and c by layer."""
    after = []
    for layer in range(len(state) // 2):
        h, c = state[2 * layer : 2 * layer + 2]
        a = x @ w[f"layer{layer}.weight_ih"] + w[f"layer{layer}.bias_ih"]
        a = a + h @ w[f"layer{layer}.weight_hh"] + w[f"layer{layer}.bias_hh"]
        i, f, g, o = a.reshape(4, 1, -1)
        c = sigmoid(xp, f) * c + sigmoid(xp, i) * xp.tanh(g)
        x = sigmoid(xp, o) * xp.tanh(c)
        after += [x, c]
    return x, after


def transformer(xp: Any, w: Weights, x: Array, state: Sequence[Array], heads: int) -> tuple[Array, list[Array]]:
    """Layers of attention to the latest steps. State: steps so far [1]; keys and values by layer, rings."""
    count, *rings = state
    e = affine(w, "embed", x)
    turn = rotation(xp, count, e.shape[-1] // heads)
    after = [count + 1]
    for layer in range(len(rings) // 2):
        name = f"layer{layer}"
        q, k, v = affine(w, f"{name}.attention", normalized(xp, w, f"{name}.norm1", e)).reshape(3, 1, heads, -1)
        q, k = rotated(xp, q, turn), rotated(xp, k, turn)
        seen, keys, values = attend(xp, q, k, v, rings[2 * layer], rings[2 * layer + 1], count)
        after += [keys, values]
        e = e + affine(w, f"{name}.project", seen)
        wide = affine(w, f"{name}.expand", normalized(xp, w, f"{name}.norm2", e)).clip(0)
        e = e + affine(w, f"{name}.contract", wide)
    return normalized(xp, w, "norm", e), after


def normalized(xp: Any, w: Weights, name: str, e: Array) -> Array:
    """Layer normalisation."""
    apart = e - e.mean(axis=-1, keepdims=True)
    return apart / xp.sqrt((apart * apart).mean(axis=-1, keepdims=True) + 1e-5) * w[f"{name}.gain"] + w[f"{name}.bias"]


def rotation(xp: Any, count: Array, width: int) -> tuple[Array, Array]:
    """Cosine and sine of the angles that a step is turned by; in turns of float64, as there may have been many steps.

    What is left of a whole turn is taken in float32: older versions of onnxruntime have no cosine of float64.
    """
    exponent = xp.arange(0, width, 2, dtype=xp.float64) / width
    turns = xp.asarray(count, dtype=xp.float64)[:, None] * ROTARY_BASE**-exponent / TURN
    angle = xp.asarray((turns - xp.floor(turns + 0.5)) * TURN, dtype=xp.float32)
    return xp.cos(angle), xp.sin(angle)


def rotated(xp: Any, x: Array, turn: tuple[Array, Array]) -> Array:
    """x [1, heads, width] with its features i and i + width/2 turned as a point in the plane."""
    cos, sin = turn
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return xp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def attend(
    xp: Any, q: Array, k: Array, v: Array, keys: Array, values: Array, count: Array, metric: str = "dot"
) -> tuple[Array, Array, Array]:
    """What is seen of rings [1, heads, context, width], with this step's entry written over the oldest; the rings."""
    context, width = keys.shape[2:]
    slot = xp.arange(context, dtype=xp.float32)
    here = (slot == count % context)[:, None]
    keys, values = xp.where(here, k[:, :, None], keys), xp.where(here, v[:, :, None], values)
    if metric == "weighted_l1":
        scores = -xp.abs(keys - q[:, :, None]).sum(axis=-1)[:, :, None]
    else:
        scores = q[:, :, None] @ keys.swapaxes(-1, -2) * width**-0.5
    seen = softmax(xp, xp.where(slot <= count, scores, -xp.inf)) @ values
    return seen.reshape(1, -1), keys, values


def retrieval(xp: Any, w: Weights, x: Array, state: Sequence[Array], metric: str) -> tuple[Array, list[Array]]:
    """A GRU beside a store of situations. State: the GRU's; the last key, steps so far, keys, values."""
    *inner, last_key, count, keys, values = state
    h, after = gru(xp, within(w, "controller."), x, inner)
    situation, shape = xp.concatenate([x, h], axis=-1), last_key.shape
    embedding = (situation @ w["key.weight"]).reshape(shape)
    value = affine(w, "value", situation).reshape(shape)
    sharpness = xp.exp(w["log_sharpness"])
    if metric == "weighted_l1":
        key = query = (sigmoid(xp, embedding) - 0.5) * sharpness
    elif metric == "cosine":
        key = embedding / xp.sqrt((embedding * embedding).sum(axis=-1, keepdims=True) + TINY)
        query = key * (sharpness * shape[-1] ** 0.5)[:, None]
    else:
        key, query = embedding, embedding * sharpness[:, None]
    read, keys, values = attend(xp, query, last_key, value, keys, values, count, metric)
    return h + affine(w, "read", read), [*after, key, count + 1, keys, values]


def ntm(xp: Any, w: Weights, x: Array, state: Sequence[Array]) -> tuple[Array, list[Array]]:
    """A neural Turing machine. State: the LSTM's; what was read, where the heads are, the memory."""
    *inner, reads, addresses, memory = state
    heads, width = reads.shape[1:]
    h, after = lstm(xp, within(w, "controller."), xp.concatenate([x, reads.reshape(1, -1)], axis=-1), inner)
    numbers = affine(w, "heads", h)
    # keys of reading and of writing heads, what is added, what is erased; then four kinds of numbers of all heads
    size = heads * width
    key = xp.tanh(numbers[:, : 2 * size]).reshape(1, 2 * heads, width)
    added = xp.tanh(numbers[:, 2 * size : 3 * size]).reshape(1, heads, width)
    erased = sigmoid(xp, numbers[:, 3 * size : 4 * size]).reshape(1, heads, width)
    rest = numbers[:, 4 * size :]
    gate = sigmoid(xp, rest[:, : 2 * heads])[:, :, None]
    strength = softplus(xp, rest[:, 2 * heads : 4 * heads])[:, :, None]
    sharpness = softplus(xp, rest[:, 4 * heads : 6 * heads])[:, :, None] + 1.0
    shift = softmax(xp, rest[:, 6 * heads :].reshape(1, 2 * heads, 3))
    # by content, between the last address and the new one, shifted round the ends, sharpened
    towards = key * (strength / xp.sqrt((key * key).sum(axis=-1, keepdims=True) + TINY))
    lengths = xp.sqrt((memory * memory).sum(axis=-1) + TINY)[:, None]
    found = softmax(xp, towards @ memory.swapaxes(-1, -2) / lengths)
    there = addresses + gate * (found - addresses)
    there = xp.roll(there, -1, -1) * shift[..., :1] + there * shift[..., 1:2] + xp.roll(there, 1, -1) * shift[..., 2:]
    addresses = softmax(xp, xp.log(there + FLOOR) * sharpness)
    writing = addresses[:, heads:].swapaxes(-1, -2)
    for head in range(heads):
        memory = memory - memory * (writing[..., head : head + 1] @ erased[:, head : head + 1])
    memory = memory + writing @ added
    reads = addresses[:, :heads] @ memory
    return h + affine(w, "read", reads.reshape(1, -1)), [*after, reads, addresses, memory]


def memory_network(xp: Any, w: Weights, x: Array, state: Sequence[Array], hops: int) -> tuple[Array, list[Array]]:
    """Hops over the latest items. State: steps so far [1], the last input, items as memory and as output, rings."""
    count, last, memory, output = state
    context, size = memory.shape[1:]
    item, slot = xp.concatenate([last, x], axis=-1), xp.arange(context, dtype=xp.float32)
    here = (slot == count % context)[:, None]
    memory = xp.where(here, affine(w, "memory", item), memory)
    output = xp.where(here, affine(w, "output", item), output)
    age = xp.asarray((count - slot) % context, dtype=xp.int64)
    asked, given = memory + w["memory.age"][age], output + w["output.age"][age]
    u = affine(w, "query", x)
    for _ in range(hops):
        scores = u @ asked[0].swapaxes(0, 1) / size**0.5
        seen = softmax(xp, xp.where(slot <= count, scores, -xp.inf)) @ given[0]
        u = affine(w, "hop", u) + seen
        u = xp.concatenate([u[:, : size // 2], u[:, size // 2 :].clip(0)], axis=-1)
    return u, [count + 1, x, memory, output]
