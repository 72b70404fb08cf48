"""metarl: meta-train robot policies that adapt within a few episodes, and measure that adaptation."""

from pathlib import Path

__version__ = "0.1.0"

# In a source tree envs/, agents/ and configs/ lie beside this package, not in it; installed, they are its sub-packages.
_here = Path(__file__).resolve().parent
if not (_here / "envs").is_dir():
    __path__.append(str(_here.parent))
