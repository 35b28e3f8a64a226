"""Models and layers against their formulas, written out one number at a time."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules import attention
from modules import dropout as dropouts
from modules.cin import CIN
from modules.dropout import Dropout
from modules.layers import MLP, pairwise_sum
from modules.mixing import RankMixerLayer
from modules.models import build_model
from modules.models.dcn import CrossNetwork
from modules.outer import outer_map, pair_map, pair_weights

ROWS, FIELDS, DIM = 4, 3, 2
WIDTH = FIELDS * DIM


@pytest.fixture(autouse=True)
def _double_precision() -> Any:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(name: str, **settings: Any) -> Any:
    """A small model with random parameters, biases and norms included."""
    model = build_model(name, FIELDS, **({"embedding_dim": DIM} | settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    return model


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(ROWS, FIELDS, DIM), torch.randn(ROWS, FIELDS)


def scores(model: nn.Module, vectors: Tensor, weights: Tensor) -> list[float]:
    logits: list[float] = model(vectors, weights).tolist()
    return logits


def dot(a: Any, b: Any) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def affine(layer: nn.Linear, x: Any) -> list[float]:
    biases = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [dot(row, x) + bias for row, bias in zip(layer.weight.tolist(), biases, strict=True)]


def layers_of(mlp: Iterable[nn.Module], x: list[float]) -> list[float]:
    """An MLP of Linear and ReLU, one number at a time."""
    for layer in mlp:
        if isinstance(layer, nn.Linear):
            x = affine(layer, x)
        else:
            assert isinstance(layer, nn.ReLU)
            x = [max(0.0, value) for value in x]
    return x


def test_mlp_builds_the_layers_it_is_asked_for() -> None:
    plain = MLP(3, (4, 2), output_dim=None)
    assert plain(torch.ones(5, 3)).shape == (5, 2)
    assert (plain.output_dim, MLP(3, ()).output_dim, MLP(3, (), output_dim=None).output_dim) == (
        (2, 1, 3)
    )
    rich = MLP(3, (4,), dropout=0.5, batch_norm=True)
    kinds = [type(layer) for layer in rich]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, Dropout, nn.Linear]


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


def test_deepfm_is_fm_and_an_mlp() -> None:
    model = build("deepfm", hidden_units=(5, 4))
    vectors, weights = inputs()
    expected = [
        float(pairwise_sum(row[None]))
        + float(first.sum())
        + model.fm.first_order.bias.item()
        + layers_of(model.mlp, row.flatten().tolist())[0]
        for row, first in zip(vectors, weights, strict=True)
    ]
    assert scores(model, vectors, weights) == pytest.approx(expected)


def test_ipnn_is_an_mlp_of_vectors_and_inner_products() -> None:
    model = build("ipnn", hidden_units=(5, 4))
    vectors, weights = inputs()
    expected = []
    for row in vectors:
        products = [dot(row[i], row[j]) for i, j in itertools.combinations(range(FIELDS), 2)]
        expected += layers_of(model.mlp, row.flatten().tolist() + products)
    assert scores(model, vectors, weights) == pytest.approx(expected)


@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("cross_layers", [0, 1, 4])
def test_dcn_is_its_recursion(cross_layers: int, output_bias: bool) -> None:
    model = build("dcn", cross_layers=cross_layers, hidden_units=(5, 4), output_bias=output_bias)
    cross = model.cross
    assert isinstance(cross, CrossNetwork)
    vectors, weights = inputs()
    expected = []
    for row in vectors:
        x0 = row.flatten().tolist()
        x = x0
        for w, b in zip(cross.weight.tolist(), cross.bias.tolist(), strict=True):
            along = dot(w, x)
            x = [x0[i] * along + b[i] + x[i] for i in range(WIDTH)]
        expected += affine(model.output, x + layers_of(model.mlp, x0))
    assert scores(model, vectors, weights) == pytest.approx(expected)


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("low_rank", [None, 2])
@pytest.mark.parametrize("output_bias", [True, False])
def test_dcnv2_is_its_recursion(structure: str, low_rank: int | None, output_bias: bool) -> None:
    model = build(
        "dcnv2",
        cross_layers=2,
        structure=structure,
        low_rank=low_rank,
        hidden_units=(5, 4),
        output_bias=output_bias,
    )
    vectors, weights = inputs()
    expected = []
    for row in vectors:
        x0 = row.flatten().tolist()
        x = x0
        for layer in model.cross.layers:
            mapped = x
            for linear in [layer] if low_rank is None else layer:
                mapped = affine(linear, mapped)
            x = [x0[i] * mapped[i] + x[i] for i in range(WIDTH)]
        if structure == "parallel":
            hidden = x + layers_of(model.mlp, x0)
        else:
            hidden = layers_of(model.mlp, x)
        expected += affine(model.output, hidden)
    assert scores(model, vectors, weights) == pytest.approx(expected)


def cin_by_loops(cin: CIN, vectors: Tensor, units: tuple[int, ...], split_half: bool) -> Tensor:
    """The published recursion, a product at a time, differentiable."""
    logits = []
    for row in vectors:
        x, pooled = row, []
        for layer, (weight, bias) in enumerate(zip(cin.weights, cin.biases, strict=True)):
            new = torch.stack(
                [
                    bias[o]
                    + sum(
                        weight[o, f, i] * row[f] * x[i]
                        for f in range(FIELDS)
                        for i in range(len(x))
                    )
                    for o in range(units[layer])
                ]
            )
            half = units[layer] // 2 if split_half and layer < len(units) - 1 else 0
            pooled.append(new[half:].sum(dim=1))
            x = new[:half] if half else new
        logits.append(cin.output(torch.cat(pooled)))
    return torch.cat(logits)


@pytest.mark.parametrize("split_half", [False, True])
@pytest.mark.parametrize("units", [(4,), (4, 5), (4, 5, 3), (4, 5, 2, 3), (4, 5, 2, 4, 2)], ids=len)
@pytest.mark.parametrize("block", [2**20, 70])
def test_cin_is_its_recursion(
    units: tuple[int, ...], split_half: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.cin.CPU_BLOCK", block)  # 70: blocks of few rows, the last smaller
    cin = CIN(FIELDS, units, split_half=split_half)
    vectors = inputs()[0].requires_grad_()
    ours, theirs = cin(vectors), cin_by_loops(cin, vectors, units, split_half)
    torch.testing.assert_close(ours, theirs)
    leaves = [vectors, *cin.parameters()]
    for our, their in zip(
        torch.autograd.grad(ours.square().sum(), leaves),
        torch.autograd.grad(theirs.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(our, their)


def test_xdeepfm_adds_lr_cin_and_mlp() -> None:
    model = build("xdeepfm", cin_units=(3, 2), hidden_units=(5,))
    vectors, weights = inputs()
    expected = cin_by_loops(model.cin, vectors, (3, 2), False) + weights.sum(dim=1)
    expected = expected + model.mlp(vectors.flatten(1))[:, 0]
    torch.testing.assert_close(model(vectors, weights), expected)


def test_maps_of_products_and_their_gradients() -> None:
    weight, left, right = torch.randn(4, 3, 5), torch.randn(3, 6), torch.randn(5, 6)
    expected = torch.einsum("ofi,fr,ir->or", weight, left, right)
    torch.testing.assert_close(outer_map(weight.flatten(1), left, right), expected)
    square = torch.randn(4, 3, 3)
    expected = torch.einsum("ofi,fr,ir->or", square, left, left)
    torch.testing.assert_close(pair_map(pair_weights(square), left), expected)
    tensors = [tensor.double().requires_grad_() for tensor in (weight.flatten(1), left, right)]
    assert torch.autograd.gradcheck(outer_map, tensors)
    square = square.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *args: pair_map(pair_weights(args[0]), args[1]), [square, tensors[1]]
    )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("block", [2**19, 20])
@pytest.mark.parametrize(("parts", "width"), [(3, 6), (4, 5), (4, 8)])  # 4 * 6 rows are also 3 * 8
def test_self_attention_and_its_gradients(
    parts: int, width: int, block: int, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "CPU_BLOCK", block)  # 20: two rows at a time
    inputs = torch.randn(3, FIELDS, width, requires_grad=True)
    weight = torch.randn(parts * 6, width, requires_grad=True)
    drawn: list[Tensor] = []  # of every block its heads

    def draw_kept(like: Tensor, share: float) -> Tensor:
        drawn.append(dropouts.draw_kept(like, share))
        return drawn[-1]

    monkeypatch.setattr(attention, "draw_kept", draw_kept)

    def plain(inputs: Tensor, weight: Tensor, heads: int, scale: float) -> Tensor:
        query, key, value, *residual = (inputs @ weight.T).split(6, dim=2)
        query, key, value = (
            part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        weights = torch.softmax(scale * query @ key.mT, dim=3)
        if dropout > 0:
            kept = torch.stack([torch.cat(drawn[head::heads]) for head in range(heads)], dim=1)
            assert 0 < kept.sum() < kept.numel()
            weights = weights * kept / (1 - dropout)
        attended = weights @ value
        out: Tensor = attended.transpose(1, 2).flatten(2) + (residual or [inputs])[0]
        return out.relu()

    for heads, scale in ((1, 1.0), (2, 0.7)):
        drawn.clear()
        ours = attention.self_attention(inputs, weight, 6, heads, scale, dropout)
        theirs = plain(inputs, weight, heads, scale)
        torch.testing.assert_close(ours, theirs)
        for our, their in zip(
            torch.autograd.grad(ours.square().sum(), (inputs, weight)),
            torch.autograd.grad(theirs.square().sum(), (inputs, weight)),
            strict=True,
        ):
            torch.testing.assert_close(our, their)


@pytest.mark.parametrize("rows", [0, 1, 227, 228, 512])
def test_attentions_blocks_are_all_rows_and_nearly_of_one_size(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "CPU_BLOCK", 24 * 24 * 227)
    taken = [list(range(rows))[block] for block in attention._blocks(torch.empty(rows, 24, 16))]
    assert list(itertools.chain(*taken)) == list(range(rows))
    sizes = [len(block) for block in taken]
    assert max(sizes, default=0) <= 227 and len(sizes) == math.ceil(rows / 227)
    assert max(sizes, default=0) - min(sizes, default=0) <= len(sizes)


@pytest.mark.parametrize("for_gradient", [False, True])
def test_attention_keeps_the_softmaxs_values_for_a_gradient_alone(
    for_gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "CPU_BLOCK", 1)  # a row at a time
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0
    softmax = torch.softmax

    def watched(scores: Tensor, dim: int) -> Tensor:
        nonlocal most
        values = softmax(scores, dim)
        alive.add(values)
        most = max(most, len(alive))
        return values

    monkeypatch.setattr(torch, "softmax", watched)
    layer = attention.SelfAttention(4, 6, 2, scale=False, dropout=0.0)
    with torch.set_grad_enabled(for_gradient):
        layer(torch.randn(9, FIELDS, 4))
    assert most == 9 * 2 if for_gradient else most <= 2


def attention_by_loops(layer: attention.SelfAttention, row: list[list[float]], scale: bool) -> Any:
    """One row through one layer: query, key, value and residual for every field and head."""
    parts = 3 + layer.projects_residual
    projected = [affine(layer.projection, field) for field in row]
    dim = len(projected[0]) // parts
    size = dim // layer.heads
    outputs = []
    for field, own in enumerate(projected):
        output = own[3 * dim :] if layer.projects_residual else list(row[field])
        for start in range(0, dim, size):
            head = slice(start, start + size)
            queries = own[:dim][head]
            keys = [other[dim : 2 * dim][head] for other in projected]
            values = [other[2 * dim : 3 * dim][head] for other in projected]
            logits = [dot(queries, key) / (math.sqrt(size) if scale else 1) for key in keys]
            total = sum(math.exp(logit) for logit in logits)
            for d in range(size):
                output[start + d] += sum(
                    math.exp(logit) / total * value[d]
                    for logit, value in zip(logits, values, strict=True)
                )
        outputs.append([max(0.0, value) for value in output])
    return outputs


@pytest.mark.parametrize("mlp", [True, False])
@pytest.mark.parametrize(("attention_dim", "scale"), [(6, False), (6, True), (DIM, False)])
def test_autoint_is_its_formula(mlp: bool, attention_dim: int, scale: bool) -> None:
    model = build(
        "autoint",
        attention_layers=2,
        heads=2,
        attention_dim=attention_dim,
        scale=scale,
        mlp=mlp,
        hidden_units=(5, 4),
        first_order=scale,
    )
    vectors, weights = inputs()
    expected = []
    for row, first in zip(vectors, weights, strict=True):
        x = row.tolist()
        for layer in model.attention:
            x = attention_by_loops(layer, x, scale)
        logit = affine(model.output, list(itertools.chain(*x)))[0]
        logit += layers_of(model.mlp, row.flatten().tolist())[0] if mlp else 0
        expected.append(logit + (float(first.sum()) if scale else 0))
    assert scores(model, vectors, weights) == pytest.approx(expected)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("gate1_fields", [None, (), (2, 0)])
def test_finalmlp_is_its_formula(heads: int, gate1_fields: tuple[int, ...] | None) -> None:
    gating = {} if gate1_fields is None else {"gate_units": (3,), "gate1_fields": gate1_fields}
    model = build(
        "finalmlp",
        hidden_units=(5, 4),
        mlp2_units=(3, 6),
        heads=heads,
        gating=gate1_fields is not None,
        **gating,
    )
    vectors, weights = inputs()
    fusion = model.fusion
    expected = []
    for row in vectors:
        ends = []
        for mlp, fields in zip(model.mlps, (gate1_fields, ()), strict=True):
            features = row.flatten().tolist()
            layers = list(mlp)
            if gate1_fields is not None:
                gate, layers[0] = mlp[0].gate, mlp[0].layer
                context = row[list(fields or ())].flatten().tolist() or gate.context[0].tolist()
                gates = layers_of(gate.mlp, context)
                features = [
                    2 / (1 + math.exp(-value)) * feature
                    for value, feature in zip(gates, features, strict=True)
                ]
            ends.append(layers_of(layers, features))
        left, right = ends
        logit = affine(fusion.of_left, left)[0] + affine(fusion.of_right, right)[0]
        for head, matrix in enumerate(fusion.weight.tolist()):
            for i, matrix_row in enumerate(matrix):
                for j, w in enumerate(matrix_row):
                    logit += left[head * len(matrix) + i] * w * right[head * len(matrix_row) + j]
        expected.append(logit)
    assert scores(model, vectors, weights) == pytest.approx(expected)


def layer_norm(layer: nn.LayerNorm, x: list[float]) -> list[float]:
    mean = sum(x) / len(x)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in x) / len(x) + layer.eps)
    return [
        (value - mean) / deviation * weight + bias
        for value, weight, bias in zip(x, layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def mixed_by_loops(layer: RankMixerLayer, tokens: list[list[float]]) -> list[list[float]]:
    """One row through one layer: token h is made of the h-th slice of every token."""
    count, width = len(tokens), len(tokens[0])
    size = width // count
    outputs = []
    for h in range(count):
        mixed = [
            tokens[t][h * size + d] + tokens[h][t * size + d]
            for t in range(count)
            for d in range(size)
        ]
        state = layer_norm(layer.mix_norm, mixed)
        wide, narrow = layer.expand, layer.contract
        hidden = [
            dot(wide.weight[h, :, j].tolist(), state) + wide.bias[h, 0, j].item()
            for j in range(wide.weight.shape[2])
        ]
        hidden = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in hidden]
        added = [
            dot(narrow.weight[h, :, j].tolist(), hidden) + narrow.bias[h, 0, j].item() + state[j]
            for j in range(width)
        ]
        outputs.append(layer_norm(layer.norm, added))
    return outputs


@pytest.mark.parametrize("dim", [6, 4], ids=["legal width", "projected"])
def test_rankmixer_is_its_formula(dim: int) -> None:
    model = build("rankmixer", embedding_dim=dim, layers=2, expansion=2, hidden_units=(5, 4))
    vectors = torch.randn(ROWS, FIELDS, dim)
    expected = []
    for row in vectors:
        tokens = row.tolist()
        if dim == 4:
            tokens = [affine(model.widen, token) for token in tokens]
        assert len(tokens[0]) == 6  # the least width from dim on that 3 tokens divide
        for layer in model.layers:
            tokens = mixed_by_loops(layer, tokens)
        expected += layers_of(model.mlp, list(itertools.chain(*tokens)))
    assert scores(model, vectors, torch.zeros(ROWS, FIELDS)) == pytest.approx(expected)


def test_wukong_is_its_formula() -> None:
    lcb, rank = 2, 2
    for fmb in (2, 1):  # of the second, every layer gives as many vectors as it gets
        model = build(
            "wukong", layers=2, lcb=lcb, fmb=fmb, rank=rank, fmb_units=(5,), hidden_units=(4,)
        )
        vectors, weights = inputs()
        expected = []
        for row in vectors:
            x = row.tolist()
            for layer in model.layers:
                combined = [
                    [dot(ws, [v[d] for v in x]) for d in range(DIM)]
                    for ws in layer.combination.weight.tolist()
                ]
                compressed, projected = combined[:lcb], combined[lcb : lcb + rank]
                residual = combined[lcb + rank :] or x
                products = [dot(v, y) for v in x for y in projected]
                flat = layers_of(layer.mlp, layer_norm(layer.product_norm, products))
                machine = [flat[i * DIM : (i + 1) * DIM] for i in range(fmb)]
                x = [
                    layer_norm(layer.norm, [a + b for a, b in zip(new, old, strict=True)])
                    for new, old in zip(machine + compressed, residual, strict=True)
                ]
            expected += layers_of(model.mlp, list(itertools.chain(*x)))
        assert scores(model, vectors, weights) == pytest.approx(expected)
