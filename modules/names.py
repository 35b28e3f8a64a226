"""Names in a flag of the command line."""

from __future__ import annotations


def split_names(text: str) -> list[str]:
    """The distinct names of "a, b", in their order; empty ones are none."""
    return [name for name in dict.fromkeys(map(str.strip, text.split(","))) if name]
