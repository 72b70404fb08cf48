"""The process that talks to Weights & Biases for one run; :class:`metarl.monitor.wandb_sink.WandbSink` starts it.

Of its own, because wandb in the trainer's process replaces ``sys.exit`` and ``sys.excepthook``, changes the environment
that workers inherit, and registers an exit hook that waits for the network. Here all that is harmless, and the process
can be killed. It runs as a plain script and imports nothing of metarl.

Standard input brings JSON lines: first ``{"mode", "init", "settings", "resume"}``, then a row of ``{"values",
"tables", "media"}`` for every iteration, and at last ``{"summary", "artifact"}``; its end means finish, within a
minute. Standard output answers with JSON lines: ``{"run_id", "mode"}`` once after the start, ``{"warning"}`` any time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any, TextIO

PATH_VARIABLES = (  # in which a path may be relative to the working directory
    *("NETRC", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_IDENTITY_TOKEN_FILE"),
    *("WANDB_CREDENTIALS_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)


def main() -> None:
    """Start a wandb run, log what comes, finish."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # they reach the whole group; the trainer stops, and ends our input
    _leave_the_working_directory()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever wandb prints must not get between the answers
    request = json.loads(sys.stdin.readline())
    try:
        run, mode = _start(request, answers)
        _say(answers, run_id=run.id, mode=mode)
        for name in ("env_steps", "iteration"):
            run.define_metric(name)
        run.define_metric("*", step_metric="env_steps")
        for line in sys.stdin:
            _take(run, json.loads(line))
        _exit_after(60.0)  # should the trainer be gone, nobody else bounds the upload
        run.finish()
    except Exception as error:
        _say(answers, warning=f"wandb stopped: {_brief(error)}; metrics.jsonl has everything")
        raise


def _leave_the_working_directory() -> None:
    """wandb reads ``wandb/settings`` below it: in a run from elsewhere, they could send the key to another server."""
    for name in PATH_VARIABLES:
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(os.path.expanduser(os.environ[name]))
    os.chdir("/")


def _start(request: dict[str, Any], answers: TextIO) -> tuple[Any, str]:
    """A wandb run and its mode: offline if the server cannot be reached."""
    import wandb

    known = wandb.Settings.model_fields  # the names that begin with x_ come and go
    settings = wandb.Settings(**{k: v for k, v in request["settings"].items() if k in known})
    try:
        return wandb.init(**request["init"], **request["resume"], mode=request["mode"], settings=settings), request[
            "mode"
        ]
    except Exception as error:
        if request["mode"] == "offline":
            raise
        wandb.teardown()  # else the id still belongs to the failed attempt
        run = wandb.init(**request["init"], **request["resume"], mode="offline", settings=settings)
        _say(
            answers,
            warning=f"wandb is offline: {_brief(error)}; upload later with `wandb sync {run.settings.sync_dir}`",
        )
        return run, "offline"


def _take(run: Any, message: dict[str, Any]) -> None:
    """Log a row, or what a run has come to."""
    import wandb

    if "values" in message:
        row = dict(message["values"])
        row |= {name: wandb.Table(**table) for name, table in message["tables"].items()}
        for name, path in message["media"].items():
            row[name] = (
                wandb.Image(path) if path.endswith(".png") else wandb.Video(path, format=path.rpartition(".")[2])
            )
        run.log(row)
    if "summary" in message:
        run.summary.update(message["summary"])
    if "artifact" in message:
        found = message["artifact"]
        artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model", metadata={"iteration": found["iteration"]})
        artifact.add_dir(found["path"])
        run.log_artifact(artifact)


def _exit_after(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _brief(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _say(answers: TextIO, **message: Any) -> None:
    try:
        answers.write(json.dumps(message) + "\n")
        answers.flush()
    except OSError:
        pass  # nobody listens any more


if __name__ == "__main__":
    main()
