"""`make audit` says what it has found, and what it could not ask for."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {"name": "a", "version": "1", "vulns": []}
WEAK = {"name": "b", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tests" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        ([KNOWN, KNOWN], 0, "2 packages without known weaknesses, 0 unknown"),
        ([KNOWN, WEAK], 1, "b 1: CVE-1, mended in 2"),
        ([UNKNOWN, WEAK, UNKNOWN], 1, "1 of 3 packages have known weaknesses"),
        ([UNKNOWN, UNKNOWN, KNOWN], 2, "were NOT looked up (the service knows 1 of 3 packages)"),
        ([], 2, "were NOT looked up"),
    ],
)
def test_what_is_answered_is_told(
    found: list[dict[str, Any]], code: int, words: str, audit: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.told(found) == code
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["", "Traceback", "{}", "[]", None])
def test_a_service_that_does_not_answer_is_told_and_not_waited_for(
    answer: str | None, audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "bandit" in command:
            return subprocess.CompletedProcess(command, 0)
        if answer is None:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return subprocess.CompletedProcess(command, 1, answer, "connection refused")

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.main([]) == 2 and audit.main(["--offline"]) == 0
    assert "known weaknesses were NOT looked up" in capsys.readouterr().out


def test_what_bandit_finds_fails_with_and_without_a_network(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.dumps({"dependencies": [KNOWN]})
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, "bandit" in command, answer, "")
    )
    assert audit.main([]) == audit.main(["--offline"]) == 1


def test_continuous_integration_audits_what_it_installs() -> None:
    assert "make audit OFFLINE=--offline" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    recipe = subprocess.run(["make", "-n", "audit"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "tests/audit.py" in recipe and "--constraint constraints.txt bandit pip-audit" in recipe
