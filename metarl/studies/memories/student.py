"""A memory that learns sequences with supervision; stopped at any moment, it goes on bit for bit.

It is driven through :meth:`~metarl.nn.memories.memory.Memory.scan` from a trial's start to its end, a linear map with a
sigmoid on each bit reads its features, and Adam follows the binary cross-entropy of what is asked for. Each batch is
drawn from a stream of its own, keyed by (seed, update).
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from metarl.errors import CheckpointError
from metarl.nn import parameters
from metarl.nn.memories.make import make_memory
from metarl.nn.memories.memory import Memory
from metarl.nn.optimizers import FlatOptimizer
from metarl.parallel import one_torch_thread
from metarl.report.files import write_files
from metarl.run import provenance
from metarl.run.checkpoint import tensor_bytes
from metarl.run.signals import StopRequest
from metarl.seeding import Domain, generator
from metarl.storage import read_plain
from metarl.studies.memories.lesson import RESULT, STATE, Lesson
from metarl.studies.memories.sequences import TASKS, SequenceTask, Size
from metarl.studies.study import KEPT_VERSIONS

SAVE_S = 30.0  # between saves
CURVE = 50  # points of a learning curve


def learn(lesson: Lesson, out: Path) -> None:
    """Bring a lesson to its end, from where it is.

    Raises:
        Interrupted: a signal to stop came; it has saved.
        StorageError: its folder cannot be written.
        ConfigError: it was begun with other settings.
        CheckpointError: what it saved is damaged.
    """
    folder, stop = out / str(lesson), StopRequest()
    with one_torch_thread(), stop.heard(lambda: f"which loses {SAVE_S:.0f} s at most"):
        student = Student(lesson)
        student.restore(folder / STATE)
        saved = time.monotonic()
        while not student.over:
            if stop.signum is not None or time.monotonic() - saved > SAVE_S:
                write_files({folder / STATE: student.saved()})
                saved = time.monotonic()
                stop.raise_if_made()
            student.update()
        result = json.dumps(student.result(), indent=1, allow_nan=False) + "\n"
        write_files({folder / RESULT: result.encode()})
        (folder / STATE).unlink(missing_ok=True)


@dataclass(frozen=True)
class Reader:
    """A memory, and a sigmoid unit on its features for every bit that is asked for."""

    memory: Memory
    outputs: int

    @property
    def layout(self) -> dict[str, tuple[int, ...]]:
        """The head's parameters, which lie behind the memory's."""
        return {"head.weight": (self.memory.size, self.outputs), "head.bias": (self.outputs,)}

    @property
    def num_parameters(self) -> int:
        """Of both."""
        return self.memory.num_parameters + parameters.length(self.layout)

    def initial(self, rng: np.random.Generator) -> Tensor:
        """The memory's own; the head's weights N(0, 1/fan_in), its biases 0."""
        start = self.memory.initial(rng)

        def draw(name: str, shape: tuple[int, ...]) -> Any:
            return rng.standard_normal(shape) / math.sqrt(shape[0]) if name.endswith("weight") else 0.0

        return torch.cat([start, parameters.initial(self.layout, draw)])

    def logits(self, flat: Tensor, x: Tensor, answers: int) -> Tensor:
        """Of the last steps' bits, [rows, answers, outputs], for inputs [rows, T, in] from a trial's start on."""
        own, head = flat.split([self.memory.num_parameters, parameters.length(self.layout)])
        features, _ = self.memory.scan(self.memory.unpack(own), x, self.memory.initial_state(len(x), x))
        weight, bias = parameters.views(self.layout, head).values()
        return features[:, -answers:] @ weight + bias


class Student:
    """A lesson under way: parameters, optimiser, and what has been seen of it."""

    def __init__(self, lesson: Lesson) -> None:
        self._lesson = lesson
        self._task: SequenceTask = TASKS[lesson.task]
        self._reader = Reader(make_memory(input_size=self._task.inputs, **lesson.arguments), self._task.outputs)
        self._theta = self._reader.initial(generator(lesson.seed, Domain.INIT))
        self._optimizer = FlatOptimizer("adam", self._theta)
        self._done, self._steps, self._seconds = 0, 0, 0.0
        self._losses: list[float] = []
        self._diverged = False

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do: all updates are done, or a gradient was no number any more."""
        return self._diverged or self._done >= self._lesson.training.updates

    def update(self) -> None:
        """One step of the optimiser on one batch. A loss that is no number ends the lesson; θ stays as it is then."""
        started, training = time.perf_counter(), self._lesson.training
        rng = generator(self._lesson.seed, Domain.TASKS, iteration=self._done)
        batch = self._task.draw(rng, training.rows, self._task.random_size(rng))
        target = torch.from_numpy(batch.target)
        leaf = self._theta.requires_grad_()
        logits = self._reader.logits(leaf, torch.from_numpy(batch.x), target.shape[1])
        loss = functional.binary_cross_entropy_with_logits(logits, target)
        (gradient,) = torch.autograd.grad(loss, leaf)
        length = float(gradient.norm())
        self._diverged = not (math.isfinite(length) and math.isfinite(float(loss.detach())))
        if self._diverged:
            return
        gradient *= min(1.0, training.clip / (length + 1e-12))
        self._theta = self._optimizer.step(self._theta.detach(), gradient, training.lr)
        self._done += 1
        self._steps += batch.x.shape[0] * batch.x.shape[1]
        self._losses.append(float(loss.detach()))
        self._seconds += time.perf_counter() - started

    def saved(self) -> bytes:
        """All that it goes on from, as a safetensors file."""
        settings = json.dumps(self._lesson.settings).encode()
        return tensor_bytes(
            {
                "theta": self._theta,
                **self._optimizer.state(),
                "losses": torch.tensor(self._losses, dtype=torch.float64),
                "progress": torch.tensor([self._done, self._steps, self._seconds], dtype=torch.float64),
                "settings": torch.frombuffer(bytearray(settings), dtype=torch.uint8),
            }
        )

    def restore(self, path: Path) -> None:
        """Go on from a saved file, if there is one.

        Raises:
            ConfigError: it is of other settings.
            CheckpointError: it is damaged.
        """
        if not path.exists():
            return
        try:
            found = safetensors.torch.load(read_plain(path))
            settings = json.loads(bytes(found["settings"].tolist()))
            theta, losses = found["theta"].clone(), found["losses"].tolist()
            done, steps, seconds = found["progress"].tolist()
            self._optimizer.load_state(found)
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path}: expected a lesson that was saved, got: {error}; delete it") from error
        self._lesson.require_same(settings, path)
        if theta.shape != self._theta.shape:
            raise CheckpointError(
                f"{path}: expected {len(self._theta)} parameters, got {tuple(theta.shape)}; delete it"
            )
        self._theta, self._losses = theta, losses
        self._done, self._steps, self._seconds = int(done), int(steps), seconds

    def result(self) -> dict[str, Any]:
        """What came of it as plain JSON data: scores by name and size, learning curve, time and speed."""
        sizes = {size for group in self._task.scored.values() for size in group}
        by_size = {size: self._score(size) for size in sorted(sizes)}
        scores = {
            name: {key: float(np.mean([by_size[size][key] for size in group])) for key in ("bits", "sequences")}
            for name, group in self._task.scored.items()
        }
        seconds = max(self._seconds, 1e-9)
        known = {**provenance.versions(), "git": provenance.git(), "cpu": provenance.cpu()["model"]}
        return {
            "settings": self._lesson.settings,
            "seed": self._lesson.seed,
            "parameters": self._reader.num_parameters,
            "updates": self._done,
            "diverged": self._diverged,
            "scores": scores,
            "by_size": [{"size": list(size), **score} for size, score in by_size.items()],
            "curve": self._curve(),
            "seconds": self._seconds,
            "updates_per_s": self._done / seconds,
            "steps_per_s": self._steps / seconds,
            "versions": {key: known.get(key) for key in KEPT_VERSIONS},
        }

    def _score(self, size: Size) -> dict[str, float]:
        """Shares of bits, and of sequences without a wrong bit, that are right in sequences training has not seen."""
        rng = generator(self._lesson.seed, Domain.EVAL_TASKS)
        batch = self._task.draw(rng, self._lesson.training.scored, size)
        with torch.no_grad():
            target = torch.from_numpy(batch.target)
            logits = self._reader.logits(self._theta.detach(), torch.from_numpy(batch.x), target.shape[1])
        right = (logits > 0) == (target > 0.5)
        return {"bits": float(right.double().mean()), "sequences": float(right.flatten(1).all(1).double().mean())}

    def _curve(self) -> list[list[float]]:
        """(updates, mean loss in nats per bit since the point before) at ``CURVE`` points."""
        parts = [part for part in np.array_split(np.array(self._losses), CURVE) if len(part)]
        ends = np.cumsum([len(part) for part in parts])
        return [[int(end), float(part.mean())] for end, part in zip(ends, parts, strict=True)]
