"""What differs between the pages of such studies but for their numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """What a page says beside its numbers."""

    introduction: str
    reading: str  # of the tables
    paired: str  # of the differences from the baseline
    caveats: str
