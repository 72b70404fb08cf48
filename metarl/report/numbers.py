"""Numbers as words, for pages and pictures."""

MILLION = 1e6


def number(value: float, digits: int = 1) -> str:
    """Rounded, with a proper minus."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0: no minus before a zero


def significant(value: float | None) -> str:
    """Three significant digits, or all before the point, with a proper minus; a dash for what is undefined."""
    if value is None:
        return "–"
    return (f"{value:.0f}" if abs(value) >= 99.95 else f"{value + 0.0:#.3g}").replace("-", "−")


def count(value: float) -> str:
    """A large number, in millions."""
    return f"{value / MILLION:.1f} M" if value >= MILLION / 10 else f"{value:.0f}"


def duration(seconds: float) -> str:
    """Minutes, or seconds if that is less than one."""
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
