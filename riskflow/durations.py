"""Durations as people write them: `30s`, `10m`, `12h`, `7d`."""

import re

from riskflow.errors import DeclarationError

_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str) -> int:
    """Milliseconds of a duration such as `7d`; raises DeclarationError for anything else.

    >>> duration_ms("90s"), duration_ms("7d")
    (90000, 604800000)
    """
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text) if isinstance(text, str) else None
    if not found:
        raise DeclarationError(
            f"duration {text!r}", "is not a number and a unit", "Write for example 30s, 10m, 12h, 7d"
        )
    return int(found[1]) * _UNIT_MS[found[2]]
