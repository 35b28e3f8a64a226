"""The models: plain modules from embedded fields to logits, built by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from modules.models.autoint import AutoInt
from modules.models.dcn import DCN
from modules.models.dcnv2 import DCNv2
from modules.models.deepfm import DeepFM
from modules.models.finalmlp import FinalMLP
from modules.models.fm import FM
from modules.models.fnn import FNN
from modules.models.ipnn import IPNN
from modules.models.lr import LR
from modules.models.rankmixer import RankMixer
from modules.models.wukong import Wukong
from modules.models.xdeepfm import XDeepFM

MODELS: dict[str, type[nn.Module]] = {
    "lr": LR,
    "fm": FM,
    "deepfm": DeepFM,
    "fnn": FNN,
    "ipnn": IPNN,
    "dcn": DCN,
    "dcnv2": DCNv2,
    "xdeepfm": XDeepFM,
    "autoint": AutoInt,
    "finalmlp": FinalMLP,
    "wukong": Wukong,
    "rankmixer": RankMixer,
}


class ModelError(ValueError):
    """An unknown model or setting; the message lists the known ones."""


def build_model(name: str, num_fields: int, **settings: Any) -> nn.Module:
    """Build a model by name for rows of `num_fields` fields.

    settings: `embedding_dim` and the keyword arguments of the model's class.
    Raises `ModelError` for an unknown name or setting, for a size below 1 (a number of `_layers`
    may be 0), for a dropout that is no share, and for settings that do not fit together.
    """
    known = model_settings(name)
    for key in settings:
        if key not in {*known, "embedding_dim"}:
            raise ModelError(unknown_name("setting", key, known, of=f" of model '{name}'"))
        if key in known and known[key].annotation is not float:
            smallest = 0 if key.endswith(("_layers", "_fields")) else 1
            if any(number < smallest for number in _integers(settings[key])):
                raise ModelError(f"model '{name}': {key}={settings[key]} is below {smallest}")
    dropout = settings.get("dropout", 0.0)
    if not 0 <= dropout <= 1:
        raise ModelError(f"model '{name}': dropout={dropout} is not a share from 0 to 1")
    try:
        return MODELS[name](num_fields, **settings)
    except ValueError as error:
        raise ModelError(f"model '{name}': {error}") from error


def _integers(value: Any) -> list[int]:
    """The sizes that a setting names: one, several or none."""
    values = value if isinstance(value, Sequence) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]


def model_settings(name: str) -> dict[str, inspect.Parameter]:
    """The keyword-only settings of a model's class, by name."""
    if name not in MODELS:
        raise ModelError(unknown_name("model", name, MODELS))
    parameters = inspect.signature(MODELS[name], eval_str=True).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


def paper(name: str) -> str:
    """The paper of a model, `Name (authors, venue, arXiv)`: its class docstring up to the colon."""
    return inspect.cleandoc(MODELS[name].__doc__ or "").partition("): ")[0] + ")"


def unknown_name(kind: str, name: str, known: Iterable[str], of: str = "") -> str:
    """The message for an unknown name: the nearest known one, and all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown {kind} '{name}'{of}; {guess}known: {', '.join(names) or 'none'}"
