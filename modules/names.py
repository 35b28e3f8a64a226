"""Names in a flag of the command line."""

from __future__ import annotations

import argparse


def split_names(text: str) -> list[str]:
    """The distinct names of "a, b", in their order; for a parser's `type`. There must be one."""
    names = [name for name in dict.fromkeys(map(str.strip, text.split(","))) if name]
    if not names:
        raise argparse.ArgumentTypeError(f"no name in '{text}'")
    return names
