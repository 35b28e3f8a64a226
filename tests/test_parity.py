"""Logits and gradients against those of public implementations (`tests/parity/*.npz`).

The files hold numbers only: inputs, parameters, logits and the gradients of the mean binary
cross-entropy, of FuxiCTR 2.3.10 (`fuxictr_*`) and of the paper's official code (`official_*`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from modules.distinct import find_distinct
from modules.embedding import EmbeddingTable
from modules.models import build_model

FOLDER = Path(__file__).parent / "parity"
Numbers = dict[str, Tensor]


def under(numbers: Mapping[str, Tensor], prefix: str) -> Numbers:
    """The numbers whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in numbers.items() if k.startswith(prefix)}


def mlp(numbers: Mapping[str, Tensor], ours: str, theirs: str) -> Numbers:
    """An MLP's layers in their order: public ones count dropouts as layers, ours do not."""
    names = list(dict.fromkeys(k.rsplit(".", 1)[0] for k in numbers if k.startswith(theirs)))
    return {
        f"{ours}{2 * layer}.{kind}": numbers[f"{name}.{kind}"]
        for layer, name in enumerate(names)
        for kind in ("weight", "bias")
    }


def lr(numbers: Numbers) -> Numbers:
    return {"bias": numbers["lr_layer.bias"].squeeze()}


def fm(numbers: Numbers) -> Numbers:
    return {"first_order.bias": numbers["fm.lr_layer.bias"].squeeze()}


def deepfm(numbers: Numbers) -> Numbers:
    return {f"fm.{k}": v for k, v in fm(numbers).items()} | mlp(numbers, "mlp.", "mlp.")


def fnn(numbers: Numbers) -> Numbers:
    return mlp(numbers, "mlp.", "mlp.")


def ipnn(numbers: Numbers) -> Numbers:
    return mlp(numbers, "mlp.", "dnn.")


def dcn(numbers: Numbers) -> Numbers:
    layers = range(3)
    return mlp(numbers, "mlp.", "dnn.") | {
        "cross.weight": torch.cat(
            [numbers[f"crossnet.cross_net.{i}.weight.weight"] for i in layers]
        ),
        "cross.bias": torch.stack([numbers[f"crossnet.cross_net.{i}.bias"] for i in layers]),
        "output.weight": numbers["fc.weight"],
        "output.bias": numbers["fc.bias"],
    }


def xdeepfm(numbers: Numbers) -> Numbers:
    ours = mlp(numbers, "mlp.", "dnn.")
    for layer, size in enumerate((5, 7)):
        theirs = under(numbers, f"cin.cin_layer.layer_{layer + 1}.")
        ours[f"cin.weights.{layer}"] = theirs["weight"].reshape(size, 6, -1)
        ours[f"cin.biases.{layer}"] = theirs["bias"]
    return ours | {f"cin.output.{k}": v for k, v in under(numbers, "cin.fc.").items()}


def finalmlp(numbers: Numbers) -> Numbers:
    fusion = under(numbers, "fusion.")
    return (
        mlp(numbers, "mlps.0.", "mlp_1.")
        | mlp(numbers, "mlps.1.", "mlp_2.")
        | {"fusion.weight": fusion["w"].reshape(1, 8, 8)}
        | {f"fusion.of_left.{k}": v for k, v in under(fusion, "w_1.").items()}
        | {f"fusion.of_right.{k}": v for k, v in under(fusion, "w_2.").items()}
    )


def wukong(numbers: Numbers) -> Numbers:
    ours = mlp(numbers, "mlp.", "mlp.")
    for layer in range(2):
        theirs = under(numbers, f"interaction_layers.{layer}.")
        combinations = ("lcb.w", "fmb.w", "residual_projection.w")
        ours |= {
            f"layers.{layer}.{k}": v
            for k, v in (
                mlp(theirs, "mlp.", "fmb.mlp.")
                | {f"product_norm.{k}": v for k, v in under(theirs, "fmb.norm.").items()}
                | {f"norm.{k}": v for k, v in under(theirs, "norm.").items()}
                | {
                    "combination.weight": torch.cat(
                        [theirs[name].T for name in combinations if name in theirs]
                    )
                }
            ).items()
        }
    return ours


MLP_UNITS = {"hidden_units": (16, 8)}
# file: our model, its settings, and their parameters (or gradients) by our names and shapes
CASES: dict[str, tuple[str, dict[str, Any], Callable[[Numbers], Numbers]]] = {
    "fuxictr_lr": ("lr", {}, lr),
    "fuxictr_fm": ("fm", {}, fm),
    "fuxictr_deepfm": ("deepfm", MLP_UNITS, deepfm),
    "fuxictr_fnn": ("fnn", MLP_UNITS, fnn),
    "fuxictr_dcn": ("dcn", MLP_UNITS, dcn),
    "fuxictr_xdeepfm": ("xdeepfm", {**MLP_UNITS, "cin_units": (5, 7)}, xdeepfm),
    "official_ipnn": ("ipnn", MLP_UNITS, ipnn),
    "official_finalmlp": ("finalmlp", {**MLP_UNITS, "gating": False, "heads": 1}, finalmlp),
    "official_wukong": (
        "wukong",
        {**MLP_UNITS, "layers": 2, "lcb": 3, "fmb": 4, "rank": 5, "fmb_units": (10, 9)},
        wukong,
    ),
}


def test_every_file_is_compared() -> None:
    assert {path.stem for path in FOLDER.glob("*.npz")} == set(CASES)


@pytest.mark.parametrize("file", CASES)
def test_logits_and_gradients_are_the_reference_s(file: str) -> None:
    name, settings, to_ours = CASES[file]
    with np.load(FOLDER / f"{file}.npz", allow_pickle=False) as reference:
        assert json.loads(str(reference["settings"])) is not None
        arrays = {k: torch.from_numpy(v) for k, v in reference.items() if k != "settings"}
    parameters, gradients = under(arrays, "param/"), under(arrays, "grad/")
    model = build_model(name, 6, embedding_dim=12, **settings)
    model.load_state_dict(to_ours(parameters))  # strict: every parameter of ours and no other
    model.eval()
    tables = ("embedding", "first_order")
    columns = [parameters.get(k, torch.zeros(49, 0)) for k in tables]
    table = EmbeddingTable(
        49,
        columns[0].shape[1],
        first_order=columns[1].shape[1] == 1,
        generator=torch.Generator(),
    )
    rows = torch.cat(columns, dim=1).requires_grad_()

    batch = find_distinct(arrays["ids"], 49)
    logits = model(*table.embed(rows[batch.ids], batch))
    binary_cross_entropy_with_logits(logits, arrays["labels"]).backward()

    close(logits, arrays["logits"].float(), "logits")
    assert rows.grad is not None
    expected = torch.cat([gradients[k] for k in tables if k in gradients], dim=1)
    close(rows.grad, expected, "feature table")
    by_name = to_ours(gradients)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad, by_name[parameter_name], parameter_name)


def close(ours: Tensor, theirs: Tensor, what: str) -> None:
    assert theirs.abs().max() > 1e-4, f"{what} of the reference says nothing"
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, msg=lambda m: f"{what}: {m}")
