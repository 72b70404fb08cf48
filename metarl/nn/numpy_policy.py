"""Feed-forward policies in NumPy, for acting on few observations: a quarter of the time of torch's operations.

The oracle is :meth:`metarl.nn.policies.MLPPolicy.act`, which it equals but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metarl.nn.distributions import Categorical
from metarl.nn.normalization import CLIP
from metarl.nn.policies import MLPPolicy, Policy

Mode = Callable[[NDArray[np.float32]], NDArray[Any]]


def mode_of(policy: Policy, params: Tensor) -> Mode | None:
    """The most likely actions [rows, …] at observations [rows, obs], by parameters [1, P] on the CPU.

    Rows are computed one by one, so that the bits of each do not depend on the others. None for policies that are no
    plain feed-forward network.
    """
    if type(policy) is not MLPPolicy:
        return None
    unpacked = policy.unpack(params.detach())
    *hidden, last = [(weight[0].numpy(), bias[0].numpy()) for weight, bias in unpacked.layers]
    mean, std = (0.0, 1.0) if unpacked.moments is None else (moment[0].numpy() for moment in unpacked.moments)
    is_relu, is_choice = policy.mlp.activation == "relu", isinstance(policy.distribution, Categorical)

    def mode(obs: NDArray[np.float32]) -> NDArray[Any]:
        h = obs if unpacked.moments is None else np.minimum(np.maximum((obs - mean) / std, -CLIP), CLIP)
        h = h[:, np.newaxis]  # [rows, 1, features]: a product for each row
        for weight, bias in hidden:
            z = h @ weight + bias
            h = np.maximum(z, 0, out=z) if is_relu else np.tanh(z, out=z)
        outputs: NDArray[np.float32] = (h @ last[0] + last[1])[:, 0]
        return outputs.argmax(-1) if is_choice else outputs

    return mode
