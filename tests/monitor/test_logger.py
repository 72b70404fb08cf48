"""What a run writes down: metrics.jsonl, wandb and the console; none of them can stop it."""

import io
import json
import math
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import metarl
from metarl.config.schema import AgentConfig, RunConfig, TaskConfig, WandbConfig
from metarl.errors import ConfigError, StorageError
from metarl.monitor import console, wandb_sink
from metarl.monitor.logger import Console, Logger, MetricsFile, WandbSink

ROOT = Path(metarl.__file__).resolve().parent.parent
UNREACHABLE = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """Nobody's wandb key, settings or mode."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def metrics(iteration: int, **more: float) -> dict[str, float]:
    return {"iteration": iteration, "env_steps": 100 * iteration, **more}


class TestMetricsFile:
    def test_every_line_is_there_at_once(self, tmp_path):
        file = MetricsFile(tmp_path / "metrics.jsonl")
        for iteration in (1, 2):
            file.append(metrics(iteration, loss=0.1))
            lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
            assert json.loads(lines[-1]) == {"iteration": iteration, "env_steps": 100 * iteration, "loss": 0.1}
        file.close()
        MetricsFile(tmp_path / "metrics.jsonl").append(metrics(3))  # a resumed run goes on behind
        assert [line["iteration"] for line in MetricsFile.read(tmp_path / "metrics.jsonl")] == [1, 2, 3]

    def test_numbers_that_json_has_not_are_null(self, tmp_path):
        MetricsFile(tmp_path / "m").append(metrics(1, a=math.nan, b=math.inf, c=-math.inf, d=1e300))

        def refuse(constant: str) -> None:
            raise ValueError(constant)

        line = json.loads((tmp_path / "m").read_text(), parse_constant=refuse)
        assert line == {"iteration": 1, "env_steps": 100, "a": None, "b": None, "c": None, "d": 1e300}

    def test_cut_back_drops_later_and_torn_lines(self, tmp_path):
        path = tmp_path / "m"
        path.write_text('{"iteration": 1, "a": 0.1}\n{"iteration": 2}\n{"iteration": 3}\n{"iteration": 2, "lo')
        MetricsFile.cut_back(path, 2)
        assert path.read_text() == '{"iteration": 1, "a": 0.1}\n{"iteration": 2}\n'
        MetricsFile.cut_back(path, 0)
        assert path.read_text() == ""
        assert [entry.name for entry in tmp_path.iterdir()] == ["m"]

    def test_a_file_that_is_not_there_needs_no_cutting(self, tmp_path):
        MetricsFile.cut_back(tmp_path / "m", 1)
        assert not (tmp_path / "m").exists() and MetricsFile.read(tmp_path / "m") == []

    def test_lines_that_are_no_metrics_are_left_out(self, tmp_path):
        (tmp_path / "m").write_bytes(
            b'[]\n\n\xff\n{"iteration": "1"}\n{"a": 1}\n' + b"[" * 100_000 + b'\n{"iteration": 7}\n'
        )
        assert MetricsFile.read(tmp_path / "m") == [{"iteration": 7}]

    def test_a_full_disk_loses_lines_but_tears_none(self, tmp_path):
        warnings: list[str] = []
        file = MetricsFile(tmp_path / "m", warn=warnings.append)
        file.append(metrics(1))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))  # a line has 34 bytes: the next one fits in part
        try:
            file.append(metrics(2))
            file.append(metrics(3))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        file.append(metrics(4))
        lines = [json.loads(line) for line in (tmp_path / "m").read_text().splitlines()]
        assert [line["iteration"] for line in lines] == [1, 4]
        assert file.errors == 2 and len(warnings) == 1 and "the run goes on" in warnings[0]

    def test_a_place_that_cannot_be_written_is_a_storage_error(self, tmp_path):
        with pytest.raises(StorageError, match="cannot write"):
            MetricsFile(tmp_path / "missing" / "m")
        with pytest.raises(StorageError, match="cannot read"):
            MetricsFile.read(tmp_path)


def sink(run: Path, mode: str, warnings: list[str], **arguments: object) -> WandbSink:
    run.mkdir(parents=True, exist_ok=True)
    settings = WandbConfig.model_validate({"mode": mode, "tags": ["t"]})
    return WandbSink(run, settings, name="config", config={"agent": {"lr": 0.1}}, warn=warnings.append, **arguments)


class TestVariablesOfWandb:
    NAMES: ClassVar = {"WANDB_PROJECT": "p", "WANDB_ENTITY": "e", "WANDB_RUN_GROUP": "g", "WANDB_TAGS": "a, b,"}

    def test_they_count_where_a_key_is_left_at_its_default(self, monkeypatch):
        for name, value in self.NAMES.items():
            monkeypatch.setenv(name, value)
        expected = WandbConfig(mode="offline", project="p", entity="e", group="g", tags=["a", "b"])
        assert wandb_sink.from_environment(WandbConfig(mode="offline")) == expected
        own = WandbConfig(project="own", entity="own", group="own", tags=["own"])
        assert wandb_sink.from_environment(own) == own

    def test_a_value_that_wandb_refuses_is_a_configuration_error(self, monkeypatch):
        monkeypatch.setenv("WANDB_PROJECT", "a/b")
        monkeypatch.setenv("WANDB_TAGS", "t" * 65)
        with pytest.raises(ConfigError) as caught:
            wandb_sink.from_environment(WandbConfig())
        first, second = str(caught.value).splitlines()
        assert first == r"WANDB_PROJECT = 'a/b': expected 1 to 128 characters, none of / \ # ? % :"
        assert second.endswith("expected tags of 1 to 64 characters each")
        assert wandb_sink.from_environment(WandbConfig(mode="disabled")) == WandbConfig(mode="disabled")

    @pytest.mark.parametrize("wrong", [{"project": "a/b"}, {"project": ""}, {"tags": [""]}, {"tags": ["ok", "t" * 65]}])
    def test_a_key_that_wandb_refuses_is_a_configuration_error(self, wrong):
        with pytest.raises(ValidationError, match="expected"):
            WandbConfig.model_validate(wrong)
        WandbConfig.model_validate({"project": "p" * 128, "tags": ["t" * 64, "t"]})

    def test_the_name_of_a_run(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_NAME", "mine")
        wandb = sink(tmp_path / "run", "offline", [])
        wandb.finish()
        (run,) = [record for record in records(tmp_path / "run", str(wandb.run_id)) if record["type"] == "run"]
        assert "mine" in json.dumps(run)


def records(run: Path, run_id: str) -> list[dict]:
    """What wandb itself reads back from an offline run."""
    (folder,) = (run / "wandb").glob(f"offline-run-*-{run_id}")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestWandb:
    def test_an_offline_run_has_everything_in_it(self, tmp_path):
        warnings: list[str] = []
        wandb = sink(tmp_path / "run-s0", "auto", warnings)
        run_id = wandb.run_id
        assert wandb.mode == "offline" and run_id is not None and len(run_id) == 8
        for iteration in (1, 2, 3):
            wandb.log(metrics(iteration, **{"train/return/0": iteration / 2, "loss/kl": math.nan}))
        wandb.finish()
        wandb.finish()
        assert warnings == [] and wandb.run_id == run_id
        found = records(tmp_path / "run-s0", run_id)
        history = [record["history"]["item"] for record in found if record["type"] == "history"]
        assert [line["train/return/0"] for line in history] == [0.5, 1.0, 1.5]
        assert [line["env_steps"] for line in history] == [100, 200, 300]
        axes = [record["metric"] for record in found if record["type"] == "metric"]
        assert [axis.get("name") for axis in axes[:2]] == ["env_steps", "iteration"]
        assert axes[2]["glob_name"] == "*" and axes[2]["step_metric"] == "env_steps"
        run = next(record["run"] for record in found if record["type"] == "run")
        assert run["config"]["update"]["agent"] == {"lr": 0.1} and run["run_id"] == run_id
        assert (run["run_group"], run["display_name"], run["project"]) == ("config", "config-run-s0", "metarl")
        found[-1]["exit"].pop("runtime", None)  # there once a run has taken a second
        assert found[-1] == {"num": len(found), "type": "exit", "exit": {"exit_code": 0}}
        kinds = {record["type"] for record in found}
        assert not kinds & {"output", "output_raw"} and not list(tmp_path.rglob("diff.patch"))

    def test_a_resumed_run_keeps_its_id(self, tmp_path):
        wandb = sink(tmp_path / "run", "offline", [], run_id="abcd1234")
        wandb.log(metrics(1))
        wandb.finish()
        run = next(r["run"] for r in records(tmp_path / "run", "abcd1234") if r["type"] == "run")
        assert run["run_id"] == "abcd1234" and run["resume"] is True

    def test_in_a_sweep_the_agent_chooses_the_id(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
        monkeypatch.setenv("WANDB_RUN_ID", "chosen12")
        wandb = sink(tmp_path / "run", "offline", [], run_id="abcd1234")
        assert wandb.run_id is None
        wandb.finish()
        assert wandb.run_id == "chosen12"

    @pytest.mark.alone
    def test_an_unreachable_server_costs_one_warning_and_no_time(self, tmp_path, monkeypatch):
        for name, value in UNREACHABLE.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(wandb_sink, "INIT_TIMEOUT_S", 2.0)
        warnings: list[str] = []
        started = time.monotonic()
        wandb = sink(tmp_path / "run", "auto", warnings)
        assert wandb.mode == "online"
        for iteration in range(200):
            wandb.log(metrics(iteration))
        assert time.monotonic() - started < 1.5  # not INIT_TIMEOUT_S
        wandb.finish(timeout=20)
        assert wandb.mode == "offline" and len(warnings) == 1
        assert "wandb is offline" in warnings[0] and f"wandb sync {tmp_path}/run/wandb/offline-run" in warnings[0]
        assert sum(r["type"] == "history" for r in records(tmp_path / "run", str(wandb.run_id))) == 200

    def test_settings_in_the_working_directory_are_not_read(self, tmp_path, monkeypatch):
        """A run from elsewhere may have a ``wandb/settings`` that sends the key to another server."""
        heard: list[bytes] = []

        class Server(BaseHTTPRequestHandler):
            def do_POST(self):
                heard.append(self.headers.as_bytes())
                self.send_error(500)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *arguments):
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            run = tmp_path / "run"
            (run / "wandb").mkdir(parents=True)
            elsewhere = f"[default]\nbase_url = http://127.0.0.1:{server.server_port}\nproject = stolen\n"
            (run / "wandb" / "settings").write_text(elsewhere)
            monkeypatch.chdir(run)
            monkeypatch.setattr(wandb_sink, "INIT_TIMEOUT_S", 3.0)
            (tmp_path / "home" / ".config" / "wandb").mkdir(parents=True)
            # the user's own server, in settings of the user's own: nobody is there
            own = "[default]\nbase_url = http://127.0.0.1:9\n"
            (tmp_path / "home" / ".config" / "wandb" / "settings").write_text(own)
            monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
            warnings: list[str] = []
            wandb = sink(run, "online", warnings)
            wandb.log(metrics(1))
            wandb.finish(timeout=20)
            server.shutdown()
        assert heard == []
        assert wandb.mode == "offline" and len(warnings) == 1

    def test_finish_gives_up_in_time(self, tmp_path, monkeypatch):
        for name, value in UNREACHABLE.items():
            monkeypatch.setenv(name, value)
        warnings: list[str] = []
        wandb = sink(tmp_path / "run", "online", warnings)
        wandb.log(metrics(1))
        time.sleep(1.0)
        started = time.monotonic()
        wandb.finish(timeout=0.5)
        assert time.monotonic() - started < 8  # an unreachable server takes 13
        assert len(warnings) == 1 and "did not finish in 0.5 s" in warnings[0]
        assert wandb._process is not None and wandb._process.poll() == -signal.SIGKILL

    def test_a_wandb_that_dies_costs_one_warning(self, tmp_path):
        warnings: list[str] = []
        wandb = sink(tmp_path / "run", "offline", warnings)
        while wandb._process is None:
            time.sleep(0.01)
        assert os.getsid(wandb._process.pid) != os.getsid(0)  # Ctrl-C on the terminal does not reach it
        wandb._process.kill()
        wandb._process.wait()
        for iteration in range(100):
            wandb.log(metrics(iteration))
            time.sleep(0.001)
        wandb.finish()
        assert len(warnings) == 1 and "metrics.jsonl has everything" in warnings[0]

    def test_a_wandb_that_cannot_start_costs_one_warning(self, tmp_path, monkeypatch):
        warnings: list[str] = []
        monkeypatch.setattr(sys, "executable", "/nonexistent/python")
        wandb = sink(tmp_path / "run", "offline", warnings)
        wandb.finish()
        wandb.log(metrics(1))
        assert len(warnings) == 1 and "wandb cannot run" in warnings[0]

    @pytest.mark.alone
    def test_a_queue_that_is_full_drops_instead_of_waiting(self, tmp_path, monkeypatch):
        monkeypatch.setattr(wandb_sink, "QUEUE_SIZE", 5)
        monkeypatch.setattr(WandbSink, "_feed", lambda self: time.sleep(3.0))
        warnings: list[str] = []
        wandb = sink(tmp_path / "run", "offline", warnings)
        started = time.monotonic()
        for iteration in range(100):
            wandb.log(metrics(iteration))
        assert time.monotonic() - started < 2.5
        assert len(warnings) == 1 and "cannot keep up" in warnings[0]

    def test_disabled_starts_nothing(self, tmp_path):
        wandb = sink(tmp_path / "run", "disabled", [])
        wandb.log(metrics(1))
        wandb.finish()
        assert wandb.run_id is None and wandb._thread is None and wandb._process is None
        assert list((tmp_path / "run").iterdir()) == []

    def test_the_trainers_process_stays_clean_and_can_exit(self, tmp_path):
        code = """if True:
            import os, signal, sys, time
            from pathlib import Path
            from metarl.monitor import wandb_sink
            from metarl.config.schema import WandbConfig
            before = dict(os.environ), sys.exit, sys.excepthook, signal.getsignal(signal.SIGINT)
            wandb_sink.INIT_TIMEOUT_S = 3.0
            sink = wandb_sink.WandbSink(Path(sys.argv[1]), WandbConfig(), name="c", config={}, warn=print)
            sink.log({"iteration": 1, "env_steps": 1})
            time.sleep(1.0)
            after = dict(os.environ), sys.exit, sys.excepthook, signal.getsignal(signal.SIGINT)
            print(sink.mode, sink._process.pid, "wandb" in sys.modules, before == after)"""
        started = time.monotonic()
        command, environment = [sys.executable, "-c", code, str(tmp_path)], {**os.environ, **UNREACHABLE}
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
        assert time.monotonic() - started < 9, "the interpreter waited for wandb"
        mode, pid, *rest = result.stdout.split()
        assert mode == "online" and rest == ["False", "True"] and result.stderr == ""
        while Path(f"/proc/{pid}").exists() and time.monotonic() - started < 20:
            time.sleep(0.1)
        assert not Path(f"/proc/{pid}").exists(), "wandb outlives the trainer"


class TestWandbMode:
    @pytest.mark.parametrize(
        ("environment", "expected"),
        [
            ({}, "offline"),
            ({"WANDB_API_KEY": "x"}, "online"),
            ({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "offline"),
            ({"WANDB_API_KEY": "x", "WANDB_MODE": "dryrun"}, "offline"),
            ({"WANDB_MODE": "disabled"}, "disabled"),
            ({"WANDB_MODE": "online"}, "online"),
        ],
    )
    def test_auto_follows_the_environment(self, monkeypatch, environment, expected):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert wandb_sink.resolve_mode("auto") == expected

    def test_a_mode_in_the_config_wins(self, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "disabled")
        monkeypatch.setenv("WANDB_API_KEY", "x")
        assert [wandb_sink.resolve_mode(mode) for mode in ("online", "offline")] == ["online", "offline"]

    def test_keys_in_files_are_found(self, tmp_path, monkeypatch):
        home = tmp_path / "home"
        (home / ".config" / "wandb").mkdir(parents=True)
        (home / ".netrc").write_text("machine api.wandb.ai login user password key\n")
        (home / ".netrc").chmod(0o600)
        assert wandb_sink.has_credentials()
        monkeypatch.setenv("WANDB_BASE_URL", "https://other.example")
        assert not wandb_sink.has_credentials()
        (home / ".config" / "wandb" / "settings").write_text("[default]\nbase_url = x\n")
        assert not wandb_sink.has_credentials()
        (home / ".config" / "wandb" / "settings").write_text("[default]\napi_key = k\n")
        assert wandb_sink.has_credentials()


def read_until(terminal: int, text: str) -> str:
    """What a terminal shows up to a text, which arrives in pieces; what there is after 5 seconds without it."""
    output = b""
    while text.encode() not in output and select.select([terminal], [], [], 5.0)[0]:
        output += os.read(terminal, 100_000)
    return output.decode()


FULL = {
    "iteration": 12,
    "env_steps": 1_920_000,
    "train/return/0": 3.14,
    "train/return/1": 20.0,
    "train/return/10": 45.24,
    "train/success/0": 0.5,
    "perf/env_steps_per_s": 107_400.0,
}


class TestConsole:
    def test_a_plain_line_has_the_key_metrics(self, monkeypatch):
        clock = iter([100.0, 158.0])
        monkeypatch.setattr(time, "monotonic", lambda: next(clock))
        stream = io.StringIO()
        Console(150, start=2, stream=stream).iteration(FULL)  # 10 iterations took 58 s, 138 are to come
        assert stream.getvalue() == (
            "iteration 12/150  env_steps 1.92M  return 3.14 → 45.2  success 0.5  107k steps/s  58 s  eta 13 min\n"
        )

    def test_the_time_to_come_is_that_of_the_bound_that_comes_first(self, monkeypatch):
        for bound, eta in ((2_880_000, "35 s"), (288_000_000, "13 min")):  # 6 of 12 iterations' steps, or more than all
            clock = iter([100.0, 158.0])
            monkeypatch.setattr(time, "monotonic", lambda clock=clock: next(clock))
            stream = io.StringIO()
            Console(150, env_steps=bound, start=2, stream=stream).iteration(FULL)
            assert stream.getvalue().endswith(f"eta {eta}\n")

    def test_numbers_have_three_digits_and_a_unit(self):
        counts = [console.count(n) for n in (0, 950, 999, 12_345, 999_499, 999_999, 1_920_000, 2.5e9)]
        assert counts == ["0", "950", "999", "12.3k", "999k", "1M", "1.92M", "2.5G"]
        durations = [console.duration(s) for s in (0.42, 58.2, 60, 660, 3600, 36_000, 259_200)]
        assert durations == ["0.42 s", "58 s", "1 min", "11 min", "1 h", "10 h", "3 days"]
        assert [console.number(x) for x in (-1234.6, 45.24, 0.001234, math.nan)] == ["-1235", "45.2", "0.00123", "nan"]

    def test_metrics_that_are_not_there_are_not_shown(self):
        assert console.describe({"iteration": 1, "env_steps": 10}) == {"env_steps": "env_steps 10"}
        described = console.describe(metrics(1, **{"train/return/0": 1.0, "train/return/best": 9.0}))
        assert list(described.values())[1:] == ["return 1"]

    def test_a_narrow_terminal_does_without_what_matters_least(self, monkeypatch):
        for columns, there, gone in ((120, "107k steps/s", "none"), (80, "eta", "env_steps"), (70, "return", "eta")):
            monkeypatch.setenv("COLUMNS", str(columns))
            monkeypatch.setenv("TERM", "xterm-256color")
            main, terminal = pty.openpty()
            with os.fdopen(terminal, "w") as stream:
                shown = Console(150, start=2, stream=stream)
                shown.iteration(FULL)
                shown.close()
            output = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", read_until(main, "45.2"))
            os.close(main)
            assert there in output and gone not in output
            assert all(len(line) <= columns for line in output.splitlines())

    @pytest.mark.parametrize("after_an_iteration", [True, False])
    def test_a_terminal_shows_the_parts_of_an_evaluation_and_then_what_was_there(self, monkeypatch, after_an_iteration):
        monkeypatch.setenv("TERM", "xterm-256color")
        main, terminal = pty.openpty()
        with os.fdopen(terminal, "w") as stream:
            shown = Console(150, start=2, stream=stream)
            if after_an_iteration:
                shown.iteration(FULL)
            for done in range(4):
                shown.evaluation(done, 3)
            shown.close()
        output = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", read_until(main, "2/3"))
        os.close(main)
        places = [output.index(f"evaluation {done}/3") for done in range(3)]
        assert places == sorted(places) and "evaluation 3/3" not in output
        assert ("iteration 12/150" in output[places[-1] :]) == after_an_iteration

    def test_elsewhere_an_evaluation_shows_no_parts(self):
        stream = io.StringIO()
        Console(150, stream=stream).evaluation(0, 3)
        assert stream.getvalue() == ""

    @pytest.mark.parametrize(("variables", "colour"), [({}, True), ({"NO_COLOR": "1"}, False)])
    def test_a_terminal_shows_a_bar_and_messages_above_it(self, monkeypatch, variables, colour):
        for name, value in {"TERM": "xterm-256color", "COLUMNS": "200", **variables}.items():
            monkeypatch.setenv(name, value)
        main, terminal = pty.openpty()
        with os.fdopen(terminal, "w") as stream:
            shown = Console(150, stream=stream)
            shown.iteration(FULL)
            output = read_until(main, "eta")
            output += read_until(main, "\x1b[?25h") if "\x1b[?25h" not in output else ""
            assert output.count("\x1b[?25h") >= output.count("\x1b[?25l") > 0  # a kill leaves a terminal with a cursor
            shown.message("[bold]not markup[/bold]")
            shown.close()
        output += read_until(main, "not markup")
        os.close(main)
        assert "iteration 12/150" in output and "return 3.14 → 45.2" in output
        assert "[bold]not markup[/bold]" in output
        assert ("\x1b[38;" in output) is colour

    @pytest.mark.parametrize("variables", [{"TERM": "dumb"}])
    def test_a_dumb_terminal_gets_plain_lines(self, monkeypatch, variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        main, terminal = pty.openpty()
        with os.fdopen(terminal, "w") as stream:
            Console(150, stream=stream).iteration(FULL)
        assert read_until(main, "eta").startswith("iteration 12/150  env_steps 1.92M")
        os.close(main)

    SCRIPT = """if True:
        import sys, time
        from metarl.monitor.logger import Console
        console = Console(10)
        for i in range(1, 11):
            console.iteration({"iteration": i, "env_steps": i, "train/return/0": 1.0, "train/return/1": 2.0})
            time.sleep(0.02)
        console.close()"""

    @pytest.mark.parametrize(
        ("redirection", "expected"),
        [
            (" 2>&1 | head -1", "iteration 1/10  env_steps 1"),
            (" 2>&-", ""),
            (" 2> /dev/full", ""),
        ],
    )
    def test_a_reader_that_leaves_does_not_stop_the_run(self, redirection, expected):
        command = ["bash", "-c", f'set -o pipefail; "$0" -c "$1"{redirection}', sys.executable, self.SCRIPT]
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=buffered)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith(expected)

    def test_an_ascii_locale_is_no_obstacle(self):
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        command = [sys.executable, "-c", self.SCRIPT]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert result.returncode == 0 and "iteration 10/10" in result.stderr and "return 1 ? 2" in result.stderr

    def test_a_closed_stream_silences_it(self):
        stream = io.StringIO()
        shown = Console(10, stream=stream)
        stream.close()
        shown.iteration(FULL)
        shown.message("text")
        shown.close()


class OwnAgentConfig(AgentConfig):
    inner_lr: float = 0.1


def run_config(**wandb: str) -> RunConfig:
    task, agent = TaskConfig(name="point", horizon=10), OwnAgentConfig(name="maml")
    parts = {"iterations": 3, "meta_batch_size": 2, "rollouts_per_task": 2, "wandb": WandbConfig.model_validate(wandb)}
    return RunConfig(task=task, agent=agent, **parts)


class TestLogger:
    def test_all_three_sinks_get_every_iteration(self, tmp_path, capsys):
        run = tmp_path / "run-s0"
        run.mkdir()
        logger = Logger(run, run_config(mode="offline"), name="config", run_id="abcd1234")
        values = {"iteration": 1, "env_steps": np.int64(80), "loss": np.float32(0.5), "kl": torch.tensor(0.25)}
        logger.log(values)
        summary = {"steps": [0, 1], "mean": [2.0, 30.0], "low": [1.0, 25.0], "high": [4.0, 32.0], "returns": []}
        summary["success"] = {"mean": [0.0, 0.5], "low": [0.0, 0.25], "high": [0.0, 0.75]}
        logger.evaluation({"iteration": 1, "env_steps": 80}, summary)
        logger.message("done")
        logger.close()
        assert logger.run_id == "abcd1234"
        (line,) = (run / "metrics.jsonl").read_text().splitlines()
        assert json.loads(line) == {"iteration": 1, "env_steps": 80, "loss": 0.5, "kl": 0.25}
        printed = capsys.readouterr().err.splitlines()
        assert printed[0].startswith("iteration 1/3  env_steps 80")
        assert printed[1:] == [
            "evaluation at iteration 1:",
            "  steps  return       success",
            "  0      2 [1, 4]     0 [0, 0]",
            "  1      30 [25, 32]  0.5 [0.25, 0.75]",
            "done",
        ]
        found = records(run, "abcd1234")
        history = [record["history"]["item"] for record in found if record["type"] == "history"]
        (row,) = history  # an iteration and its evaluation are one
        assert (row["loss"], row["eval/return/1"], row["env_steps"]) == (0.5, 30, 80)
        assert row["eval/success/1"] == 0.5 and row["eval/success_low/1"] == 0.25
        config = next(record["run"]["config"]["update"] for record in found if record["type"] == "run")
        assert config["agent"] == {"name": "maml", "lineage": None, "inner_lr": 0.1}  # its own keys too

    def test_a_benchmarks_own_count_of_success_is_logged(self, tmp_path, capsys):
        run = tmp_path / "run-s0"
        run.mkdir()
        logger = Logger(run, run_config(mode="offline"), name="config", run_id="abcd1234")
        summary = {"steps": [0, 1], "mean": [2.0, 30.0], "low": [1.0, 25.0], "high": [4.0, 32.0]}
        logger.evaluation({"iteration": 1, "env_steps": 80}, summary | {"official_success": [0.0, 1.0]})
        logger.evaluation({"iteration": 2, "env_steps": 160}, summary | {"restored_official_success": 0.25})
        logger.close()
        assert capsys.readouterr().err.splitlines()[-1].endswith("by the benchmark's own count 0.25")
        items = [record["history"]["item"] for record in records(run, "abcd1234") if record["type"] == "history"]
        assert items[0]["eval/official_success/0"] == 0.0 and items[0]["eval/official_success/1"] == 1.0
        assert items[1]["eval/restored_official_success"] == 0.25

    def test_the_axes_are_required(self, tmp_path):
        logger = Logger(tmp_path, run_config(mode="disabled"), name="config")
        with pytest.raises(ValueError, match="expected iteration and env_steps"):
            logger.log({"iteration": 1, "loss": 0.5})
        logger.close()
        assert (tmp_path / "metrics.jsonl").read_text() == ""
