"""Arms: what an arm builds, as settings. How each model widens and deepens is the table GROWTH."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import gcd, lcm
from statistics import fmean
from typing import Any

import torch

from modules.config import Arm, ConfigError, Part, RunConfig
from modules.cost import count_macs_per_row
from modules.joint import check_has_hidden_layer
from modules.models import build_model

WIDTH_TOLERANCE = 0.05  # of the multiply-adds that were asked for


@dataclass(frozen=True)
class Growth:
    """Settings that make a model wider, and those that count or list its stacked layers."""

    wide: tuple[str, ...]
    deep: tuple[str, ...]


DIM, UNITS = "embedding_dim", "hidden_units"
GROWTH = {
    "lr": Growth(wide=(), deep=()),
    "fm": Growth(wide=(DIM,), deep=()),
    "deepfm": Growth(wide=(DIM, UNITS), deep=(UNITS,)),
    "fnn": Growth(wide=(DIM, UNITS), deep=(UNITS,)),
    "ipnn": Growth(wide=(DIM, UNITS), deep=(UNITS,)),
    "dcn": Growth(wide=(DIM, UNITS), deep=("cross_layers", UNITS)),
    "dcnv2": Growth(wide=(DIM, "low_rank", UNITS), deep=("cross_layers", UNITS)),
    "xdeepfm": Growth(wide=(DIM, "cin_units", UNITS), deep=("cin_units", UNITS)),
    "autoint": Growth(wide=(DIM, "attention_dim", UNITS), deep=("attention_layers", UNITS)),
    "finalmlp": Growth(
        wide=(DIM, UNITS, "mlp2_units", "gate_units"), deep=(UNITS, "mlp2_units")
    ),
    "wukong": Growth(
        wide=(DIM, "lcb", "fmb", "rank", "fmb_units", UNITS), deep=("layers", UNITS)
    ),
    "rankmixer": Growth(wide=(DIM, UNITS), deep=("layers", UNITS)),
}  # fmt: skip


def build_parts(config: RunConfig, num_fields: int) -> list[Part]:
    """The modules that a run's network is made of: one, or those that are trained jointly.

    Raises `ConfigError` where the model cannot grow that way.
    """
    arm = Arm.parse(config.arm)
    if config.mix:
        return list(config.mix)
    if arm.kind == "multi":
        check_has_hidden_layer(config.model)
        if not config.model_settings[UNITS]:
            raise ConfigError(
                f"{config.arm}: embedding sets meet in the first hidden layer, but {UNITS} is "
                f"empty; give it one, as --set {UNITS}=64, or use joint:{arm.k:g}"
            )
    if arm.kind in ("joint", "multi"):
        return [config.part] * int(arm.k)
    if arm.kind in ("width", "depth"):
        part = config.part
        settings = tuple(part.settings.items())
        return [_grown(arm, part.model, part.embedding_dim, settings, num_fields)]
    return [config.part]


def resolved_settings(config: RunConfig, num_fields: int) -> dict[str, Any]:
    """The content of a run's config.yaml: what was asked for and, beside base, what was built."""
    content = config.to_dict()
    if Arm.parse(config.arm).kind in ("width", "depth", "joint", "multi"):
        content["built"] = [part.plain() for part in build_parts(config, num_fields)]
    return content


def achieved_scale(config: RunConfig, macs_per_row: int, num_fields: int) -> float:
    """Multiply-adds a row of a run's network, in those of the base arm at the same settings.

    For a joint mix, in those of its mean module.
    """
    return macs_per_row / fmean(
        part_macs(part, num_fields) for part in (config.mix or [config.part])
    )


def part_macs(part: Part, num_fields: int) -> int:
    """Multiply-adds a row of one module."""
    return _macs(part.model, part.embedding_dim, tuple(part.settings.items()), num_fields)


def widen(part: Part, k: float, num_fields: int) -> Part:
    """`part` with all its widths multiplied by one factor, so that it costs k times as much.

    The factor is solved for. Where whole widths leave a gap, the hidden layers alone close it.
    Raises `ConfigError` where the cost is still more than 5 % off.
    """
    names = GROWTH[part.model].wide
    if not names:
        raise ConfigError(
            f"width:{k:g}: model '{part.model}' has no width to multiply; use {_joint(k)}, or "
            f"leave it out with --models"
        )
    base = part_macs(part, num_fields)
    target = k * base

    def off(candidate: Part) -> float:
        return abs(part_macs(candidate, num_fields) / target - 1)

    below, above = _around(target, lambda factor: _wider(part, names, factor), num_fields)
    candidates = [below, above]
    if _costs_more_deeper(below, (UNITS,), num_fields):
        candidates += _around(target, lambda factor: _wider(below, (UNITS,), factor), num_fields)
    best = min(candidates, key=off)
    if off(best) > WIDTH_TOLERANCE:
        achieved = part_macs(best, num_fields) / base
        raise ConfigError(
            f"width:{k:g}: the nearest that whole widths allow model '{part.model}' is "
            f"{achieved:.2f} times its multiply-adds; choose another factor, or a larger "
            f"embedding_dim"
        )
    return best


def deepen(part: Part, k: float, num_fields: int) -> Part:
    """`part` with each of its stacks of layers repeated, as near to k times its cost as possible.

    Stacks grow in step; a few more of the last hidden layer close the gap that this leaves.
    Raises `ConfigError` where the model has no layers to stack, or where one of them costs so much
    that not even half of what was asked for can be added.
    """
    names = [name for name in GROWTH[part.model].deep if part.settings.get(name)]
    if not _costs_more_deeper(part, names, num_fields):
        width = f"width:{k:g} or " if GROWTH[part.model].wide else ""
        raise ConfigError(
            f"depth:{k:g}: model '{part.model}' has no layers to stack; use "
            f"{width}{_joint(k)}, or leave it out with --models"
        )
    base = part_macs(part, num_fields)
    below, above = _around(k * base, lambda factor: _deeper(part, names, factor), num_fields)
    candidates = [below, *_with_last_layers(below, len(part.settings.get(UNITS, ()))), above]
    best = min(candidates, key=lambda found: abs(part_macs(found, num_fields) - k * base))
    achieved, next_one = (part_macs(found, num_fields) / base for found in (best, above))
    if achieved < (1 + k) / 2:
        raise ConfigError(
            f"depth:{k:g}: whole layers of model '{part.model}' allow {achieved:.2f} times its "
            f"multiply-adds, or {next_one:.2f} times; choose depth:{round(next_one, 1):g}, or "
            f"width:{k:g}"
        )
    return best


@cache
def _macs(model: str, dim: int, settings: tuple[tuple[str, Any], ...], num_fields: int) -> int:
    with torch.device("meta"):  # of its weights only the shapes matter
        built = build_model(model, num_fields, embedding_dim=dim, **dict(settings))
    return count_macs_per_row(built, num_fields, dim)


@cache  # a group asks for every seed, and a search builds some forty models
def _grown(
    arm: Arm, model: str, dim: int, settings: tuple[tuple[str, Any], ...], num_fields: int
) -> Part:
    grow = widen if arm.kind == "width" else deepen
    return grow(Part(model, dim, dict(settings)), arm.k, num_fields)


def _joint(k: float) -> str:
    """The joint arm of about k times the base's cost; it has whole modules."""
    return f"joint:{max(2, round(k))}"


def _around(target: float, at: Callable[[float], Part], num_fields: int) -> tuple[Part, Part]:
    """The dearest part that costs at most `target`, and the next one, by bisection of a factor."""
    low, high = 1.0, 2.0
    while part_macs(at(high), num_fields) <= target:
        low, high = high, 2 * high
    while high - low > 0.01 and at(low) != at(high):
        middle = (low + high) / 2
        if part_macs(at(middle), num_fields) <= target:
            low = middle
        else:
            high = middle
    return at(low), at(high)


def _wider(part: Part, names: Sequence[str], factor: float) -> Part:
    settings = dict(part.settings)
    heads = settings.get("heads", 1)  # they divide what they share out
    for name in names:
        value = settings.get(name)
        if isinstance(value, Sequence):
            last = len(value) - 1
            settings[name] = tuple(
                _multiply(units, factor, heads if place == last else 1)
                for place, units in enumerate(value)
            )
        elif value is not None:
            settings[name] = _multiply(value, factor, heads)
    dim = max(1, round(part.embedding_dim * factor)) if DIM in names else part.embedding_dim
    return replace(part, embedding_dim=dim, settings=settings)


def _multiply(width: int, factor: float, divisor: int) -> int:
    """A multiple of `divisor`, and of 8 where a large width was one: matrix products like that."""
    grain = lcm(gcd(width, 8) if width >= 128 else 1, divisor)
    return max(1, round(width * factor / grain)) * grain


def _deeper(part: Part, names: Sequence[str], factor: float) -> Part:
    grown: Mapping[str, Any] = {name: _repeat(part.settings[name], factor) for name in names}
    return replace(part, settings={**part.settings, **grown})


def _costs_more_deeper(part: Part, names: Sequence[str], num_fields: int) -> bool:
    """Whether layers of these settings cost anything; hidden_units do not where no MLP is built."""
    deeper = _deeper(part, [name for name in names if part.settings.get(name)], 2)
    return part_macs(deeper, num_fields) > part_macs(part, num_fields)


def _with_last_layers(part: Part, most: int) -> list[Part]:
    """`part` with 1 to `most` more of its last hidden layer, mostly the cheapest there is."""
    units = part.settings.get(UNITS, ())
    return [
        replace(part, settings={**part.settings, UNITS: (*units, *units[-1:] * more)})
        for more in range(1, most + 1)
    ]


def _repeat(layers: int | Sequence[int], factor: float) -> int | tuple[int, ...]:
    """`factor` times as many layers: 3 -> 6, or (256, 128) -> (256, 256, 128, 128)."""
    if isinstance(layers, int):
        return round(layers * factor)
    each, more = divmod(round(len(layers) * factor), len(layers))
    return tuple(units for place, units in enumerate(layers) for _ in range(each + (place < more)))
