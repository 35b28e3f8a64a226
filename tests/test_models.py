"""Models and layers against naive references, and properties that every model must have."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.cost import count_macs_per_row
from modules.layers import MLP, pairwise_sum
from modules.models import MODELS, ModelError, build_model

ROWS, FIELDS, DIM = 33, 5, 4
SMALL: dict[str, dict[str, Any]] = {"deepfm": {"hidden_units": (16, 8)}}  # others: the defaults


def build(name: str, seed: int = 0, **settings: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(name, FIELDS, embedding_dim=DIM, **SMALL.get(name, {}), **settings)


def inputs(seed: int = 1, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, FIELDS, DIM, generator=generator)
    return vectors, torch.randn(rows, FIELDS, generator=generator)


def test_pairwise_sum_is_the_triple_loop() -> None:
    vectors, _ = inputs()
    for row, value in zip(vectors, pairwise_sum(vectors), strict=True):
        pairs = itertools.combinations(range(FIELDS), 2)
        naive = sum(row[i, d] * row[j, d] for i, j in pairs for d in range(DIM))
        torch.testing.assert_close(value, naive)


@pytest.mark.parametrize("first_order", [True, False])
def test_fm_is_its_formula(first_order: bool) -> None:
    model = build("fm", first_order=first_order)
    vectors, weights = inputs()
    expected = pairwise_sum(vectors)
    if first_order:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.25)
        expected = expected + weights.sum(1) + 0.25
    torch.testing.assert_close(model(vectors, weights), expected)
    assert len(list(model.parameters())) == first_order  # the official form has no bias


def test_deepfm_is_fm_and_an_mlp_by_hand() -> None:
    model = build("deepfm")
    vectors, weights = inputs()
    hidden = vectors.reshape(ROWS, -1)
    linears = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linears] == [16, 8, 1]
    for layer in linears[:-1]:
        hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
    deep = (hidden @ linears[-1].weight.T + linears[-1].bias)[:, 0]
    expected = pairwise_sum(vectors) + weights.sum(1) + deep  # the FM's bias begins at zero
    torch.testing.assert_close(model(vectors, weights), expected)


def test_mlp_builds_the_layers_it_is_asked_for() -> None:
    plain = MLP(3, (4, 2), output_dim=None)
    assert plain(torch.ones(5, 3)).shape == (5, 2)
    rich = MLP(3, (4,), dropout=0.5, batch_norm=True)
    kinds = [type(layer) for layer in rich]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear]


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_finite_and_one_a_row(name: str) -> None:
    model = build(name)
    for rows in (1, ROWS):
        logits = model(*inputs(rows=rows))
        assert logits.shape == (rows,)
        assert logits.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_and_input_gets_a_gradient(name: str) -> None:
    model = build(name)
    vectors, weights = inputs()
    vectors.requires_grad_()
    weights.requires_grad_()
    model(vectors, weights).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name
    for uses, tensor in ((model.uses_vectors, vectors), (model.uses_weights, weights)):
        got_some = tensor.grad is not None and bool((tensor.grad != 0).any())
        assert got_some == uses  # what the feature table provides is what the model needs


@pytest.mark.parametrize("name", MODELS)
def test_a_rows_score_depends_on_nothing_but_the_row(name: str) -> None:
    model = build(name).eval()
    vectors, weights = inputs()
    together = model(vectors, weights)
    alone = torch.cat([model(vectors[i : i + 1], weights[i : i + 1]) for i in range(ROWS)])
    torch.testing.assert_close(together, alone)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model(vectors[order], weights[order]), together[order])


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_builds_the_same_model(name: str) -> None:
    first, second, other = (build(name, seed).state_dict() for seed in (7, 7, 8))
    assert all(torch.equal(first[key], second[key]) for key in first)
    if any(key.endswith("weight") for key in first):
        assert not all(torch.equal(first[key], other[key]) for key in first)


def test_macs_of_deepfm_are_those_of_its_formula() -> None:
    mlp = FIELDS * DIM * 16 + 16 * 8 + 8
    squares = DIM + FIELDS * DIM  # of the sum, of every vector
    sums = FIELDS * DIM + FIELDS * DIM + DIM + FIELDS  # twice over fields, over dims, of weights
    half = 1
    macs = count_macs_per_row(build("deepfm"), FIELDS, DIM)
    assert macs == mlp + squares + sums + half
    assert count_macs_per_row(build("lr"), FIELDS, DIM) == FIELDS


def test_unknown_names_and_settings_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'depfm'; did you mean 'deepfm'\? known: "):
        build_model("depfm", FIELDS)
    with pytest.raises(ModelError, match="'hiden_units' of model 'deepfm'; did you mean 'hidden_u"):
        build_model("deepfm", FIELDS, hiden_units=(3,))
    with pytest.raises(ModelError, match="setting 'hidden_units' of model 'lr'; known: none"):
        build_model("lr", FIELDS, hidden_units=(3,))
