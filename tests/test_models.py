"""Properties that every model must have, whatever its formula."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from modules.cli import describe_models
from modules.cost import count_macs_per_row
from modules.distinct import find_distinct
from modules.embedding import EmbeddingTable
from modules.models import MODELS, ModelError, build_model, model_settings

ROWS, FIELDS, DIM = 33, 5, 4
MLP_UNITS = {"hidden_units": (16, 8)}
SMALL: dict[str, dict[str, Any]] = {
    "lr": {},
    "fm": {},
    "xdeepfm": {**MLP_UNITS, "cin_units": (6, 5, 4)},
    "autoint": {**MLP_UNITS, "attention_dim": 8},
    "finalmlp": {**MLP_UNITS, "heads": 2, "gate_units": (6,)},
    "wukong": {**MLP_UNITS, "lcb": 3, "fmb": 4, "rank": 5, "fmb_units": (12,)},
}
# The forms that settings make, beside the default one.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in MODELS),
    ("fm", {"first_order": False}),
    ("deepfm", {"first_order": False}),
    ("dcn", {"output_bias": False}),
    ("dcnv2", {"structure": "stacked", "output_bias": False}),
    ("dcnv2", {"low_rank": 3}),
    ("xdeepfm", {"split_half": True, "first_order": False}),
    ("xdeepfm", {"cin_units": (6,)}),
    ("xdeepfm", {"cin_units": (6, 5)}),
    ("xdeepfm", {"cin_units": (6, 5, 4, 3, 2), "split_half": True}),
    ("autoint", {"mlp": False}),
    ("autoint", {"scale": True, "first_order": True, "attention_dim": DIM, "heads": 1}),
    ("finalmlp", {"gating": False, "heads": 1}),
    ("finalmlp", {"gate1_fields": (0, 2), "mlp2_units": (6,)}),
]
every_form = pytest.mark.parametrize(
    ("name", "settings"),
    VARIANTS,
    ids=lambda value: value if isinstance(value, str) else ",".join(value) or "default",
)


def build(name: str, seed: int = 0, **settings: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        small = SMALL.get(name, MLP_UNITS)
        return build_model(name, FIELDS, embedding_dim=DIM, **(small | settings))


def inputs(seed: int = 1, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, FIELDS, DIM, generator=generator)
    return vectors, torch.randn(rows, FIELDS, generator=generator)


@every_form
def test_logits_are_finite_and_one_a_row(name: str, settings: dict[str, Any]) -> None:
    model = build(name, **settings)
    for rows in (1, ROWS):
        logits = model(*inputs(rows=rows))
        assert logits.shape == (rows,)
        assert logits.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_one_field_is_enough(name: str) -> None:
    model = build_model(name, 1, embedding_dim=DIM, **SMALL.get(name, MLP_UNITS))
    vectors, weights = (part[:, :1].requires_grad_() for part in inputs())
    logits = model(vectors, weights)
    assert logits.shape == (ROWS,)
    logits.sum().backward()
    assert any(part.grad is not None and part.grad.isfinite().all() for part in (vectors, weights))


@every_form
def test_every_parameter_and_input_gets_a_gradient(name: str, settings: dict[str, Any]) -> None:
    model = build(name, **settings)
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


@every_form
def test_a_rows_score_depends_on_nothing_but_the_row(name: str, settings: dict[str, Any]) -> None:
    model = build(name, **settings).eval()
    vectors, weights = inputs()
    together = model(vectors, weights)
    alone = torch.cat([model(vectors[i : i + 1], weights[i : i + 1]) for i in range(ROWS)])
    torch.testing.assert_close(together, alone)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model(vectors[order], weights[order]), together[order])


@every_form
def test_a_model_leaves_its_inputs_as_they_were(name: str, settings: dict[str, Any]) -> None:
    vectors, weights = inputs()
    with torch.inference_mode():
        build(name, **settings)(vectors, weights)
    assert all(map(torch.equal, (vectors, weights), inputs()))


@every_form
def test_a_slice_of_the_feature_table_is_a_fine_input(name: str, settings: dict[str, Any]) -> None:
    vectors, weights = inputs()
    table = torch.cat([vectors, weights[..., None]], dim=2)  # vectors and weights as views of it
    model = build(name, **settings).eval()
    expected = model(vectors, weights)
    torch.testing.assert_close(model(table[..., :DIM], table[..., DIM]), expected)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_builds_the_same_model(name: str) -> None:
    first, second, other = (build(name, seed).state_dict() for seed in (7, 7, 8))
    assert all(torch.equal(first[key], second[key]) for key in first)
    if name not in ("lr", "fm"):  # they have a bias only, which begins at zero
        assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_trains_the_same_model(name: str) -> None:
    def gradients() -> list[Tensor]:
        model = build(name, seed=4)
        model(*inputs()).sum().backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    assert all(map(torch.equal, gradients(), gradients()))


WITH_DROPOUT = [name for name in MODELS if "dropout" in model_settings(name)]


def test_dropout_and_batch_normalisation_are_offered_wherever_there_is_an_mlp() -> None:
    assert set(WITH_DROPOUT) == set(MODELS) - {"lr", "fm"}
    for name in WITH_DROPOUT:
        settings = model_settings(name)
        assert (settings["dropout"].default, settings["batch_norm"].default) == (0.0, False)


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_acts_in_training_only(name: str) -> None:
    plain, model = build(name), build(name, dropout=0.5)
    model.load_state_dict(_without_dropout(plain, model))
    torch.testing.assert_close(model.eval()(*inputs()), plain.eval()(*inputs()))
    model.train()
    assert not torch.equal(model(*inputs()), model(*inputs()))


def _without_dropout(plain: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """The state of `plain` by the names of `model`, whose dropouts shift the layers' numbers."""
    return dict(zip(model.state_dict(), plain.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_batch_normalisation_uses_the_batch_in_training_only(name: str) -> None:
    assert not any(isinstance(m, nn.BatchNorm1d) for m in build(name).modules())
    model = build(name, batch_norm=True)
    assert any(isinstance(m, nn.BatchNorm1d) for m in model.modules())
    vectors, weights = inputs()
    model(vectors, weights).sum().backward()
    part = model.eval()(vectors[:3], weights[:3])
    torch.testing.assert_close(part, model(vectors, weights)[:3])


def _by_field(tensor: Tensor, order: list[int], dim: int, size: int = DIM) -> Tensor:
    """`tensor` with blocks of `size` along `dim`, one a field, in another order."""
    fields = torch.unflatten(tensor, dim, (FIELDS, size))
    return fields.index_select(dim, torch.tensor(order)).flatten(dim, dim + 1)


def _inner_product_columns(weight: Tensor, order: list[int]) -> Tensor:
    pairs = list(itertools.combinations(range(FIELDS), 2))
    moved = [
        pairs.index((min(a, b), max(a, b))) for a, b in ((order[i], order[j]) for i, j in pairs)
    ]
    flat, products = weight.split([FIELDS * DIM, len(pairs)], dim=1)
    return torch.cat([_by_field(flat, order, 1), products[:, moved]], dim=1)


Permute = Callable[[Tensor, list[int]], Tensor]
COLUMNS: Permute = lambda tensor, order: _by_field(tensor, order, 1)  # noqa: E731
VECTOR: Permute = lambda tensor, order: _by_field(tensor, order, 0)  # noqa: E731
FIRST_CIN: Permute = lambda tensor, order: tensor[:, order][:, :, order]  # noqa: E731
# The parameters that know a field's place, as regular expressions. RankMixer is not here: its
# heads are as many as its tokens, and the h-th slice of every token meets in token h.
FIELD_PARAMETERS: dict[str, dict[str, Permute]] = {
    "lr": {},
    "fm": {},
    "deepfm": {r"mlp\.0\.weight": COLUMNS},
    "fnn": {r"mlp\.0\.weight": COLUMNS},
    "ipnn": {r"mlp\.0\.weight": _inner_product_columns},
    "dcn": {
        r"mlp\.0\.weight|cross\.(weight|bias)": COLUMNS,
        r"output\.weight": lambda tensor, order: torch.cat(
            [_by_field(tensor[:, : FIELDS * DIM], order, 1), tensor[:, FIELDS * DIM :]], dim=1
        ),
    },
    "dcnv2": {
        r"mlp\.0\.weight": COLUMNS,
        r"cross\.layers\.\d\.bias": VECTOR,
        r"cross\.layers\.\d\.weight": lambda tensor, order: _by_field(
            _by_field(tensor, order, 0), order, 1
        ),
        r"output\.weight": lambda tensor, order: torch.cat(
            [_by_field(tensor[:, : FIELDS * DIM], order, 1), tensor[:, FIELDS * DIM :]], dim=1
        ),
    },
    "xdeepfm": {
        r"mlp\.0\.weight": COLUMNS,
        r"cin\.weights\.0": FIRST_CIN,
        r"cin\.weights\.[12]": lambda tensor, order: tensor[:, order],
    },
    "autoint": {
        r"mlp\.0\.weight": COLUMNS,
        r"output\.weight": lambda tensor, order: _by_field(tensor, order, 1, size=8),
    },
    "finalmlp": {
        r"mlps\.\d\.0\.layer\.weight": COLUMNS,
        r"mlps\.\d\.0\.gate\.mlp\.2\.weight": VECTOR,
        r"mlps\.\d\.0\.gate\.mlp\.2\.bias": VECTOR,
    },
    "wukong": {
        r"layers\.0\.combination\.weight": lambda tensor, order: tensor[:, order],
        r"layers\.0\.product_norm\.(weight|bias)": lambda tensor, order: _by_field(
            tensor, order, 0, size=5
        ),
        r"layers\.0\.mlp\.0\.weight": lambda tensor, order: _by_field(tensor, order, 1, size=5),
    },
}


@pytest.mark.parametrize("name", FIELD_PARAMETERS)
def test_fields_may_change_places_with_their_parameters(name: str) -> None:
    order = [3, 0, 4, 1, 2]
    vectors, weights = inputs()
    model, moved = build(name).eval(), build(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    state = model.state_dict()
    for pattern, permute in FIELD_PARAMETERS[name].items():
        names = [key for key in state if re.fullmatch(pattern, key)]
        assert names, pattern
        state |= {key: permute(state[key], order) for key in names}
    moved.load_state_dict(state)
    expected = model(vectors, weights)
    torch.testing.assert_close(
        moved(vectors[:, order], weights[:, order]), expected, rtol=1e-4, atol=1e-4
    )
    if FIELD_PARAMETERS[name]:
        assert not torch.allclose(model(vectors[:, order], weights[:, order]), expected, rtol=1e-2)


@pytest.mark.parametrize("name", MODELS)
def test_the_xor_of_two_fields_is_learnt_by_all_but_lr(name: str) -> None:
    values = torch.tensor(list(itertools.product((0, 1), repeat=3)))  # the third is noise
    labels = (values[:, 0] ^ values[:, 1]).float()
    ids = values + torch.tensor([0, 2, 4])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(name, 3, embedding_dim=DIM, **SMALL.get(name, MLP_UNITS))
    table = EmbeddingTable(
        6, DIM, first_order=True, generator=torch.Generator().manual_seed(0), init=0.3
    )
    rows = table.weight.clone().requires_grad_()
    adam = torch.optim.Adam([rows, *model.parameters()], lr=0.03)
    batch = find_distinct(ids, 6)
    losses = []
    for _ in range(80):
        logits = model(*table.embed(rows[batch.ids], batch))
        loss = binary_cross_entropy_with_logits(logits, labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    if name == "lr":  # no sum of weights does better than a constant on a balanced XOR
        assert min(losses) >= 0.6931
    else:
        assert losses[-1] < 0.1 < losses[0]


@pytest.mark.parametrize("name", MODELS)
def test_inference_mode_computes_the_same(name: str) -> None:
    """It may take other kernels; batch normalisation stands between a Linear and its ReLU."""
    variants: list[dict[str, Any]] = [{}]
    if name == "deepfm":
        variants.append({"batch_norm": True, "dropout": 0.2})
    for settings in variants:
        model = build(name, **settings).eval()
        expected = model(*inputs())
        with torch.inference_mode():
            torch.testing.assert_close(model(*inputs()), expected.detach(), atol=1e-5, rtol=1e-5)


def test_macs_of_deepfm_are_those_of_its_formula() -> None:
    mlp = FIELDS * DIM * 16 + 16 * 8 + 8
    square_of_sum = FIELDS * DIM + DIM + DIM  # sum over fields, squares, sum over dims
    sum_of_squares = FIELDS * DIM + 1  # a norm, squared
    half = 1
    macs = count_macs_per_row(build("deepfm"), FIELDS, DIM)
    assert macs == mlp + square_of_sum + sum_of_squares + half + FIELDS  # first-order weights
    assert count_macs_per_row(build("lr"), FIELDS, DIM) == FIELDS


def test_macs_are_what_one_more_row_costs() -> None:
    """xDeepFM joins the weights of its last two layers once a batch: that is no row's cost."""
    fields, dim, units = 10, 8, 32
    cin = build_model("xdeepfm", fields, embedding_dim=dim, hidden_units=(), cin_units=[units] * 3)
    products = (fields + 1) * (fields + 2) // 2  # of the vectors and a constant one
    macs = count_macs_per_row(cin, fields, dim)
    assert 2 * units * products * dim < macs < 1.2 * 2 * units * products * dim


def test_every_model_is_described_by_its_paper_and_cost() -> None:
    lines = describe_models().splitlines()
    for name, line in zip(MODELS, lines[1:], strict=True):
        assert re.match(rf"{name} .*\(.+ (19|20)\d\d.*\) +[\d,]+ +[\d,]+$", line), line
    assert re.search(
        r"deepfm .*Guo et al\., IJCAI 2017.* 1,296,386 +1,29[\d,]+$", "\n".join(lines), re.M
    )


def test_unknown_names_and_settings_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'depfm'; did you mean 'deepfm'\? known: "):
        build_model("depfm", FIELDS)
    with pytest.raises(ModelError, match="'hiden_units' of model 'deepfm'; did you mean 'hidden_u"):
        build_model("deepfm", FIELDS, hiden_units=(3,))
    with pytest.raises(ModelError, match="setting 'hidden_units' of model 'lr'; known: none"):
        build_model("lr", FIELDS, hidden_units=(3,))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("finalmlp", {"hidden_units": []}, "model 'finalmlp': hidden_units names no layer"),
        ("finalmlp", {"heads": 3}, "model 'finalmlp': heads=3 does not divide"),
        ("finalmlp", {"gate1_fields": [FIELDS]}, "gate1_fields.*5.*fields 0 to 4"),
        ("autoint", {"heads": 5}, "attention_dim=8 is not a multiple of heads=5"),
        ("finalmlp", {"mlp2_units": []}, "mlp2_units names no layer"),
        ("xdeepfm", {"cin_units": ()}, "cin_units names no layer"),
        ("xdeepfm", {"cin_units": (1, 2), "split_half": True}, r"cin_units=\[1, 2\]: one unit has"),
        ("autoint", {"heads": 0}, "model 'autoint': heads=0 is below 1"),
        ("dcnv2", {"low_rank": 0}, "low_rank=0 is below 1"),
        ("dcnv2", {"cross_layers": -1}, "cross_layers=-1 is below 0"),
        ("deepfm", {"hidden_units": (4, 0)}, r"hidden_units=\(4, 0\) is below 1"),
        ("deepfm", {"dropout": -0.5}, "'deepfm': dropout=-0.5 is not a share from 0 to 1"),
        ("autoint", {"dropout": float("nan")}, "dropout=nan is not a share"),
        ("fnn", {"dropout": 1.5}, "dropout=1.5 is not a share"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        build(name, **settings)
