"""Tests run on an installed metarl, or straight from a checkout where none is installed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # at the end: an installed package wins
