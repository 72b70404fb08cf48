"""GPUs of this machine, and what takes the place of one that is not there."""

from __future__ import annotations


def missing(device: str) -> str | None:
    """What is to be said of a GPU that is not there; None where it is, and of other devices."""
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index or "0").isdecimal():
        return None
    there = count()
    if not there:
        return "no CUDA device was found; use cpu"
    return None if int(index or 0) < there else f"expected one of cuda:0 to cuda:{there - 1}, which this machine has"


def instead_of(device: str) -> tuple[str, list[str]]:
    """The device itself where it is there, else another GPU or the CPU, and a notice that says so."""
    if not missing(device):
        return device, []
    here, what = ("cuda", f"such device as {device}") if count() else ("cpu", "CUDA device")
    return here, [f"device = {here}, because this machine has no {what}; the run had {device}: last bits may differ"]


def count() -> int:
    """How many GPUs there are."""
    import torch  # the agent has imported it already

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
