"""How long the header of a safetensors file may be, which says what tensors it has.

The library takes 100 MB of it, a million tensors, which keep a processor busy for a minute. Agents have tens of
tensors, and recorded episodes four each.
"""

from __future__ import annotations

import struct
from pathlib import Path

from metarl.errors import CheckpointError

MAX_BYTES = 4 * 2**20
_LENGTH = struct.Struct("<Q")  # a file begins with its header's length


def require_short_header(start: bytes, where: Path) -> None:
    """Raise CheckpointError for a file with such a ``start``, 8 bytes, whose header is too long; shorter files are left
    to the library."""
    if len(start) == _LENGTH.size and _LENGTH.unpack(start)[0] > MAX_BYTES:
        raise CheckpointError(f"{where}: expected safetensors with a header of at most {MAX_BYTES} bytes, got more")
