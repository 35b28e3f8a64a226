"""Small raw logs for the tests, and the recipes taken literally, row by row.

Every field has a few frequent values, a tail of rare ones and missing ones; none is real data.
"""

from __future__ import annotations

import gzip
import math
import random
from datetime import date
from pathlib import Path

AVAZU_HEADER = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,"
    "app_category,device_id,device_ip,device_model,device_type,device_conn_type,"
    "C14,C15,C16,C17,C18,C19,C20,C21"
)


def avazu_lines(rows: int, seed: int = 0) -> list[str]:
    """A header and `rows` lines."""
    draw = _generator(seed)
    lines = [AVAZU_HEADER]
    for row in range(rows):
        hour = f"1410{draw.randint(21, 30)}{draw.randint(0, 23):02d}"
        categories = [_category(draw, field) for field in range(21)]
        lines.append(",".join([str(row), _click(draw), hour, *categories]))
    return lines


def criteo_lines(rows: int, seed: int = 0) -> list[str]:
    draw = _generator(seed)
    lines = []
    for _ in range(rows):
        integers = [_integer(draw) for _ in range(13)]
        categories = [_category(draw, field) for field in range(26)]
        lines.append("\t".join([_click(draw), *integers, *categories]))
    return lines


def kdd12_lines(rows: int, seed: int = 0) -> list[str]:
    draw = _generator(seed)
    lines = []
    for _ in range(rows):
        clicks = draw.choice(["0", "0", "1", "3"])
        lines.append("\t".join([clicks, *(_category(draw, field) for field in range(11))]))
    return lines


LINES = {"avazu": avazu_lines, "criteo": criteo_lines, "kdd12": kdd12_lines}


def write_lines(path: Path, lines: list[str], *, end: str = "\n") -> Path:
    """Write the lines, gzipped if the path ends with .gz."""
    content = end.join([*lines, ""]).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def naive_rows(dataset: str, lines: list[str]) -> list[tuple[int | str, ...]]:
    """Label and field values of every row, by the official recipe taken literally."""
    if dataset == "avazu":
        return [_naive_avazu(line.split(",")) for line in lines[1:]]
    if dataset == "criteo":
        return [_naive_criteo(line.split("\t")) for line in lines]
    return [(int(int(line.split("\t")[0]) > 0), *line.split("\t")[1:]) for line in lines]


def _naive_avazu(columns: list[str]) -> tuple[int | str, ...]:
    _, click, hour, *categories = columns
    day = date(2000 + int(hour[:2]), int(hour[2:4]), int(hour[4:6])).strftime("%w")
    return (int(click), str(int(hour[6:])), *categories, day, str(int(day in "06")))


def _naive_criteo(columns: list[str]) -> tuple[int | str, ...]:
    label, integers, categories = columns[0], columns[1:14], columns[14:]
    return (int(label), *map(naive_bucket, integers), *categories)


def naive_bucket(text: str) -> str:
    if not text:
        return ""
    value = int(text)
    return str(math.floor(math.log(value) ** 2) if value > 2 else value)


def _generator(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311


def _click(draw: random.Random) -> str:
    return draw.choice("0001")


def _category(draw: random.Random, field: int) -> str:
    kind = draw.random()
    if kind < 0.05 * (field % 3):
        return ""
    if kind < 0.3:
        # Leading zeros and case tell values apart.
        return draw.choice(["007", "7", "0a", "0A"])
    return f"{int(draw.paretovariate(0.8)) + field:x}"


def _integer(draw: random.Random) -> str:
    return draw.choice(["", "-1", "0", "1", "2", "3", str(int(draw.paretovariate(0.2)) % 10**9)])
