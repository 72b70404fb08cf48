"""Weights & Biases behind a queue, a thread and a process: it can neither slow nor stop training."""

from __future__ import annotations

import getpass
import json
import netrc
import os
import queue
import secrets
import string
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlsplit

from pydantic import ValidationError

from metarl.config.schema import WandbConfig
from metarl.errors import ConfigError

Mode = Literal["online", "offline", "disabled"]
Table = tuple[list[str], list[list[Any]]]  # columns and rows

INIT_TIMEOUT_S = 12.0  # leaves time for the import and the way back offline within 15 s
QUEUE_SIZE = 10_000  # iterations that may wait while wandb starts or the disk is slow
VARIABLES = {  # key → wandb's own variable for it
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "tags": "WANDB_TAGS",
}
PROCESS = Path(__file__).with_name("wandb_process.py")


class WandbSink:
    """One wandb run, fed in the background. Every method returns at once, except ``finish``, which is bounded.

    Whatever goes wrong costs one warning and the wandb record of the run, nothing else. ``mode="disabled"`` starts no
    thread and no process. The run lies in ``<run>/wandb/``, named by WANDB_NAME or ``<config>-<timestamp>-s<seed>``.
    """

    def __init__(
        self,
        run: Path,
        settings: WandbConfig,
        *,
        name: str,
        config: Mapping[str, Any],
        run_id: str | None = None,
        warn: Callable[[str], None],
    ) -> None:
        """Start in the background.

        Args:
            run: the run's directory.
            settings: mode, project and the like.
            name: the config's name: the group by default, and the first part of the run's name.
            config: the run's resolved configuration as JSON data.
            run_id: the id in the checkpoint, when a run is resumed.
            warn: called from another thread with a line for the user.
        """
        self.mode: Mode = resolve_mode(settings.mode)
        self._warn = warn
        self._warned = False
        self._row: dict[str, Any] | None = None  # of the newest iteration, until the next one comes
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUE_SIZE)
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._run_id: str | None = None
        self._folder = run.absolute()
        if self.mode == "disabled":
            return
        sweep = bool(os.environ.get("WANDB_SWEEP_ID"))  # the sweep's agent has chosen the id
        self._run_id = None if sweep else run_id or new_run_id()
        request = {
            "mode": self.mode,
            "init": {
                "project": settings.project,
                "entity": settings.entity,
                "group": settings.group or name,
                "job_type": settings.job_type,
                "name": os.environ.get("WANDB_NAME") or f"{name}-{run.name}",
                "tags": list(settings.tags),
                "config": dict(config),
                "dir": str(self._folder),
            },
            "resume": {} if sweep else {"id": self._run_id, "resume": "allow"},
            "settings": _settings(),
        }
        self._lines.put(json.dumps(request))
        self._thread = threading.Thread(target=self._feed, name="wandb", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """The wandb run's id, to be stored for resuming; None when disabled, and in a sweep until wandb has started."""
        return self._run_id

    def log(self, metrics: Mapping[str, float | int | str | None], tables: Mapping[str, Table] | None = None) -> None:
        """Queue an iteration's metrics. What else comes of the same iteration joins them: wandb gets one row for each,
        when the next one has come."""
        if self._row is None or self._row["values"]["iteration"] != metrics["iteration"]:
            self._send_row()
            self._row = {"values": {}, "tables": {}, "media": {}}
        self._row["values"] |= metrics
        for name, table in (tables or {}).items():
            self._row["tables"][name] = {"columns": table[0], "data": table[1]}

    def results(self, summary: Mapping[str, Any], media: Mapping[str, Path], checkpoint: Path | None) -> None:
        """What a run came to: numbers for wandb's summary, pictures and videos by name, which join the newest row, and
        a checkpoint that is to be kept as an artifact."""
        if self._row is not None:
            self._row["media"] |= {name: str(path.absolute()) for name, path in media.items()}
        self._send_row()
        found: dict[str, Any] = {"summary": dict(summary)}
        if checkpoint is not None:
            found["artifact"] = {"path": str(checkpoint.absolute()), "iteration": int(checkpoint.name)}
        self._send(found)

    def _send_row(self) -> None:
        if self._row is not None:
            self._send(self._row)
        self._row = None

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._thread is None or not self._thread.is_alive():
            return
        try:
            self._lines.put_nowait(json.dumps(message))
        except queue.Full:
            self._warn_once("wandb cannot keep up and misses iterations; metrics.jsonl has everything")

    def finish(self, timeout: float = 10.0) -> None:
        """Log what is queued and end the run; after ``timeout`` seconds give up. May be called again."""
        if self._thread is None:
            return
        deadline = time.monotonic() + timeout
        self._send_row()
        with suppress(queue.Full):
            self._lines.put(None, timeout=timeout)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn_once(f"wandb did not finish in {timeout:g} s and was stopped; metrics.jsonl has everything")
            if self._process is not None:
                self._process.kill()
            self._thread.join(1.0)
        self._thread = None

    def _feed(self) -> None:
        """The thread: start the process, pass on its answers and the queue."""
        command = [sys.executable, "-P", str(PROCESS)]
        try:
            # a session of its own: neither Ctrl-C nor a closed terminal reaches it
            with subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                start_new_session=True,
                env={**os.environ, **_missing_user(self._folder)},
            ) as process:
                self._process = process
                assert process.stdin is not None and process.stdout is not None
                listener = threading.Thread(
                    target=self._listen, args=(process.stdout,), name="wandb-answers", daemon=True
                )
                listener.start()
                self._pass_on(process.stdin)
                process.wait()
                listener.join()
            if process.returncode != 0:
                self._warn_once(f"wandb ended with code {process.returncode}; metrics.jsonl has everything")
        except OSError as error:
            self._warn_once(f"wandb cannot run: {error}; metrics.jsonl has everything")

    def _pass_on(self, stdin: IO[str]) -> None:
        """Write the queue to the process until the end is queued or the process is gone."""
        try:
            while (line := self._lines.get()) is not None:
                stdin.write(line + "\n")
                stdin.flush()
            stdin.close()
        except BrokenPipeError:
            with suppress(OSError):
                stdin.close()

    def _listen(self, stdout: IO[str]) -> None:
        for line in stdout:
            answer = json.loads(line)
            self._run_id = answer.get("run_id", self._run_id)
            self.mode = answer.get("mode", self.mode)
            if "warning" in answer:
                self._warn_once(answer["warning"])

    def _warn_once(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(text)


def _settings() -> dict[str, Any]:
    """Of wandb itself: it records numbers and what is handed to it, no output, code or git state."""
    return {
        "console": "off",
        "silent": True,
        "init_timeout": INIT_TIMEOUT_S,
        "save_code": False,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "program": sys.argv[0],
        "x_stats_pid": os.getpid(),  # system metrics of the trainer and its workers
        "x_stats_track_process_tree": True,
    }


def from_environment(settings: WandbConfig) -> WandbConfig:
    """The settings, with wandb's own environment variables where they are left at their defaults.

    Raises:
        ConfigError: a variable has a value that wandb does not take, and wandb is not disabled.
    """
    if resolve_mode(settings.mode) == "disabled":
        return settings
    default, problems = WandbConfig(), []
    for key, variable in VARIABLES.items():
        text = os.environ.get(variable)
        if not text or getattr(settings, key) != getattr(default, key):
            continue
        value = [tag.strip() for tag in text.split(",") if tag.strip()] if key == "tags" else text
        try:
            settings = WandbConfig.model_validate({**settings.model_dump(), key: value})
        except ValidationError as error:
            problems.append(f"{variable} = {text!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}")
    if problems:
        raise ConfigError("\n".join(problems))
    return settings


def new_run_id() -> str:
    """A random id in the form of wandb's own: 8 of a-z and 0-9."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def resolve_mode(mode: str) -> Mode:
    """``auto`` becomes WANDB_MODE if that is set, else online with credentials and offline without; the rest stays."""
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "") or ("online" if has_credentials() else "offline")
    names: dict[str, Mode] = {"online": "online", "disabled": "disabled", "run": "online"}
    return names.get(mode, "offline")  # "dryrun" is wandb's old word for offline


def has_credentials() -> bool:
    """Whether wandb will find a key: in the environment, in the netrc file, or in its settings file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    for file in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if file:
            with suppress(OSError, netrc.NetrcParseError):
                if netrc.netrc(os.path.expanduser(file)).authenticators(host):
                    return True
    folder = os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")
    with suppress(OSError, UnicodeDecodeError):
        lines = Path(os.path.expanduser(folder), "settings").read_text(encoding="utf-8").splitlines()
        return any(line.split("=")[0].strip() == "api_key" for line in lines)
    return False


def _missing_user(folder: Path) -> dict[str, str]:
    """Names for what wandb asks the system, where the system does not know: a home, for which ``folder`` will do, and a
    user. So it is in containers that run under any user's number.
    """
    variables = {}
    if os.path.expanduser("~") == "~":
        variables["HOME"] = str(folder / "wandb")
    try:
        getpass.getuser()
    except (KeyError, OSError):
        variables["USER"] = str(os.getuid())
    return variables
