"""A program for every rank: trains some runs one after the other, and says with which code each has ended.

python rank_program.py '[["maml_trpo_point", "iterations=3"], …]'
"""

from __future__ import annotations

import json
import sys

from metarl import cli
from metarl.run.trainer import Trainer

if __name__ == "__main__":
    Trainer._report = lambda self: None  # type: ignore[method-assign]  # drawing takes longer than all the rest
    for words in json.loads(sys.argv[1]):
        code = cli.main(["train", *words])
        if code:
            sys.exit(code)
