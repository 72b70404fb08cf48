"""``make audit``: bandit over the sources, and pip-audit, which asks for known weaknesses of what is installed.

Ends with 1 where either finds something, and with 2 where the advisories cannot be asked for, which it says and does
not wait for; ``--offline`` takes that for good, as continuous integration does where it has no network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("metarl", "envs", "agents", "docs/examples", "train.py")
FOUND, NOT_ASKED = 1, 2
ANSWER_S, ALL_S = 15, 300  # pip-audit asks about every package by itself


def main(argv: Sequence[str] | None = None) -> int:
    """Run both; returns the exit code."""
    parser = argparse.ArgumentParser(description="bandit, and pip-audit")
    parser.add_argument("--offline", action="store_true", help="no error where there are no advisories to be had")
    options = parser.parse_args(argv)
    code = bandit()
    advisories = pip_audit()
    return code or (0 if advisories == NOT_ASKED and options.offline else advisories)


def bandit() -> int:
    """What bandit finds of middle and high severity; what is skipped, and why, is in pyproject.toml."""
    command = [sys.executable, "-m", "bandit", "-q", "-ll", "-c", "pyproject.toml", "-r", *SOURCES]
    done = subprocess.run(command, cwd=ROOT, check=False)
    print(f"bandit: {'nothing found' if done.returncode == 0 else 'see above'}", flush=True)
    return FOUND if done.returncode else 0


def pip_audit() -> int:
    """Known weaknesses of the packages that are installed here."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    try:
        done = subprocess.run(
            [*command, "--timeout", str(ANSWER_S)], cwd=ROOT, capture_output=True, text=True, timeout=ALL_S, check=False
        )
        found = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return _not_asked(f"no end within {ALL_S} s")
    except (ValueError, KeyError, TypeError):
        return _not_asked((done.stderr.strip().splitlines() or ["it printed nothing"])[-1])
    return told(found)


def told(found: Sequence[dict[str, Any]]) -> int:
    """Print what pip-audit has answered, package by package; returns the exit code."""
    unknown = [package for package in found if "skip_reason" in package and package["name"] != "metarl"]
    weak = [package for package in found if package.get("vulns")]
    for package in weak:
        for one in package["vulns"]:
            better = ", ".join(one.get("fix_versions", [])) or "no version yet"
            print(f"{package['name']} {package['version']}: {one['id']}, mended in {better}")
    if weak:
        print(f"pip-audit: {len(weak)} of {len(found)} packages have known weaknesses")
        return FOUND
    if not found or len(unknown) > len(found) / 2:
        return _not_asked(f"the service knows {len(found) - len(unknown)} of {len(found)} packages")
    print(f"pip-audit: {len(found) - len(unknown)} packages without known weaknesses, {len(unknown)} unknown")
    return 0


def _not_asked(why: str) -> int:
    print(f"pip-audit: known weaknesses were NOT looked up ({why}); try again where advisories can be reached")
    return NOT_ASKED


if __name__ == "__main__":
    sys.exit(main())
