"""An exported policy as a graph of torch's: recorded by ``torch.export``, written as .pt2 or as ONNX."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.api.export.description import Arrays, Described
from metarl.api.export.steps import Step

OPSET = 18  # of ONNX: onnxruntime 1.18 and later
METADATA = "metarl"  # the description, within an ONNX file
EXTRA = "policy.json"  # the same within a .pt2 file

Run = Callable[[Mapping[str, NDArray[Any]]], Arrays]


class TorchStep(torch.nn.Module):
    """The step of a policy with its weights: inputs by name, as keywords, to outputs by name."""

    def __init__(self, described: Described) -> None:
        super().__init__()
        self._about, self._memory = described.about, described.memory
        self._names = list(described.weights)
        for name, array in described.weights.items():
            self.register_buffer(name.replace(".", "_"), torch.from_numpy(array))

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """See :class:`metarl.api.export.steps.Step`."""
        weights = {name: self.get_buffer(name.replace(".", "_")) for name in self._names}
        return Step(torch, self._about, weights, self._memory)(inputs)


def record(described: Described) -> torch.export.ExportedProgram:
    """The step as a graph of fixed shapes."""
    example = {name: torch.from_numpy(array) for name, array in described.example().items()}
    with _quiet(), torch.no_grad():
        program = torch.export.export(TorchStep(described), (), example)
    for node in program.graph.nodes:  # which lines of which files they came from
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(key, None)
    return program


def pt2(program: torch.export.ExportedProgram, described: Described) -> bytes:
    """The bytes of a .pt2 file."""
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file, extra_files={EXTRA: json.dumps(described.data())})
    return file.getvalue()


def onnx(program: torch.export.ExportedProgram, described: Described) -> bytes:
    """The bytes of an ONNX file."""
    names = {side: [entry["name"] for entry in described.about[side]] for side in ("inputs", "outputs")}
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=names["inputs"],
            output_names=names["outputs"],
            verbose=False,
        )
    assert made is not None
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()
    made.model.metadata_props[METADATA] = json.dumps(described.data())
    content: bytes = made.model_proto.SerializeToString()
    return content


def run_pt2(path: Path) -> Run:
    """The step of a .pt2 file."""
    with _quiet():
        module = torch.export.load(path).module()

    def run(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        with torch.inference_mode():
            outputs = module(**{name: torch.from_numpy(np.asarray(array)) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return run


def run_onnx(path: Path) -> Run:
    """The step of an ONNX file, by onnxruntime on one core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        outputs = session.run(names, {name: np.asarray(array) for name, array in inputs.items()})
        return dict(zip(names, outputs, strict=True))

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says of libraries of its own that are not there, and of its own code."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
