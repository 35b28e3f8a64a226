"""Arms: what they build, what it costs, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.schema import Schema, read_schema
from modules.arms import (
    GROWTH,
    achieved_scale,
    build_parts,
    part_macs,
    resolved_settings,
    widen,
)
from modules.config import Arm, ConfigError, Part, RunConfig, resolve
from modules.cost import count_macs_per_row, count_parameters
from modules.embedding import Network
from modules.joint import INTERACTIONS, JointModel, MultiEmbeddingModel, join_tables
from modules.models import MODELS, build_model, model_settings
from modules.training import Streams, build_network

FIELDS, DIM = 24, 8
SETTINGS = ["embedding_dim=8", "embedding_init=0.3", "hidden_units=48,24", "lcb=4", "fmb=5"]
SETTINGS += ["rank=6", "fmb_units=24", "cin_units=12,8", "attention_dim=8"]


def config(model: str, arm: str = "base", *overrides: str) -> RunConfig:
    return resolve(
        "toy", model, seed=3, arm=arm, overrides=[*SETTINGS, *overrides], models=list(MODELS)
    )


def network_of(run: RunConfig, schema: Schema) -> Network:
    return build_network(run, schema, Streams.of(run.seed)).eval()


def macs_of(network: Network) -> int:
    return count_macs_per_row(network.model, FIELDS, network.table.embedding_dim)


@pytest.fixture
def schema(encoded: Path) -> Schema:
    return read_schema(encoded)


@pytest.fixture
def ids(schema: Schema) -> Tensor:
    """(7, F) ids of the schema's fields."""
    generator = torch.Generator().manual_seed(0)
    columns = [
        torch.randint(own.offset, own.offset + own.size, (7,), generator=generator)
        for own in schema.fields
    ]
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widht:2", "unknown arm 'widht'; did you mean 'width'"),
        ("base:2", "base is written without a number"),
        ("joint", "expected a whole number from 1 to 1000, as joint:2"),
        ("joint:2.5", "expected a whole number"),
        ("width:0.5", "expected a number from 1 to 1000"),
        ("width:1e+300", "expected a number from 1 to 1000"),
        ("depth:nan", "expected a number from 1 to 1000"),
        ("width:2.0", "write it width:2"),
        ("multi:x", "as multi:2"),
    ],
)
def test_an_arm_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("toy", "deepfm", arm=text)
    assert Arm.parse("width:1.5") == Arm("width", 1.5)


def test_the_tables_know_every_model_and_its_settings() -> None:
    assert set(GROWTH) == set(MODELS)
    assert set(INTERACTIONS) == set(MODELS) - {"lr", "fm"}
    for name, growth in GROWTH.items():
        assert {*growth.wide, *growth.deep} <= {"embedding_dim", *model_settings(name)}


@pytest.mark.parametrize("name", [name for name in MODELS if GROWTH[name].wide])
@pytest.mark.parametrize("k", [1, 2.5])
def test_a_width_costs_what_was_asked_for(name: str, k: float) -> None:
    run = config(name, f"width:{k:g}")
    (part,) = build_parts(run, FIELDS)
    scale = achieved_scale(run, part_macs(part, FIELDS), FIELDS)
    assert scale == pytest.approx(k, rel=0.05)
    assert (part == run.part) == (k == 1)
    if k > 1:  # embeddings and layers together (RankMixer's tokens are rounded up to 24)
        assert part.embedding_dim > DIM
        for setting in GROWTH[name].wide[1:]:
            before, after = run.part.settings[setting], part.settings[setting]
            assert before is None or name == "rankmixer" or after > before


@pytest.mark.parametrize("name", [name for name in MODELS if GROWTH[name].deep])
def test_a_depth_stacks_layers(name: str) -> None:
    run = config(name, "depth:3", "cin_units=12,12,12")
    (part,) = build_parts(run, FIELDS)
    scale = achieved_scale(run, part_macs(part, FIELDS), FIELDS)
    assert scale == pytest.approx(3, rel=0.2)
    assert part.embedding_dim == DIM
    layers = [
        len(units) for units in (run.part.settings["hidden_units"], part.settings["hidden_units"])
    ]
    assert layers[1] > layers[0]
    assert set(part.settings["hidden_units"]) == {48, 24}


def test_models_that_cannot_grow_say_what_to_do() -> None:
    for name, arm, message in (
        ("lr", "width:2", "'lr' has no width to multiply; use joint:2"),
        ("lr", "width:1.2", "'lr' has no width to multiply; use joint:2"),
        ("lr", "depth:2.6", "'lr' has no layers to stack; use joint:3, or leave"),
        ("fm", "depth:2", "'fm' has no layers to stack; use width:2 or joint:2"),
        ("fm", "multi:2", "'fm' has no hidden layer"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_parts(config(name, arm), FIELDS)
    attention_alone = ("mlp=false", "attention_layers=0")
    with pytest.raises(ConfigError, match="'autoint' has no layers to stack"):
        build_parts(config("autoint", "depth:2", *attention_alone), FIELDS)
    with pytest.raises(ConfigError, match=r"nearest that whole widths allow .* is \d\.\d\d times"):
        widen(Part("fm", 1, {"first_order": False}), 1.4, FIELDS)
    shallow = ("cin_units=64", "hidden_units=8")
    with pytest.raises(ConfigError, match=r"allow 1\.\d\d times .*, or width:2") as refused:
        build_parts(config("xdeepfm", "depth:2", *shallow), FIELDS)
    (instead,) = re.findall(r"choose (depth:[\d.]+),", str(refused.value))
    assert build_parts(config("xdeepfm", instead, *shallow), FIELDS)
    with pytest.raises(ConfigError, match=r"hidden_units is empty; .* or use joint:2"):
        build_parts(config("dcn", "multi:2", "hidden_units=[]"), FIELDS)


def test_heads_go_on_sharing_out_the_widths() -> None:
    for k in (2, 3, 5):
        (part,) = build_parts(config("finalmlp", f"width:{k}", "heads=3"), FIELDS)
        assert part.settings["hidden_units"][-1] % 3 == 0
        (part,) = build_parts(config("autoint", f"width:{k}", "heads=4"), FIELDS)
        assert part.settings["attention_dim"] % 4 == 0


def test_hidden_units_of_no_mlp_close_no_gap() -> None:
    run = config("autoint", "width:2", "mlp=false", "embedding_dim=24", "attention_dim=32")
    (part,) = build_parts(run, FIELDS)
    assert achieved_scale(run, part_macs(part, FIELDS), FIELDS) == pytest.approx(2, rel=0.05)


def test_planning_makes_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[torch.nn.Module] = []

    def build(*args: Any, **settings: Any) -> torch.nn.Module:
        built.append(build_model(*args, **settings))
        return built[-1]

    monkeypatch.setattr("modules.arms.build_model", build)
    build_parts(config("deepfm", "width:7"), FIELDS)
    assert built
    assert all(parameter.is_meta for model in built for parameter in model.parameters())


def test_counted_macs_of_an_mlp_are_those_of_its_formula() -> None:
    part = config("fnn", "base", "hidden_units=50,30,20").part
    assert part_macs(part, FIELDS) == FIELDS * DIM * 50 + 50 * 30 + 30 * 20 + 20


@pytest.mark.parametrize("name", MODELS)
def test_joint_2_costs_exactly_twice_the_base(name: str, schema: Schema) -> None:
    base, joint = (network_of(config(name, arm), schema) for arm in ("base", "joint:2"))
    assert macs_of(joint) == 2 * macs_of(base)
    assert count_parameters(joint) == {
        part: 2 * count for part, count in count_parameters(base).items()
    }
    assert achieved_scale(config(name, "joint:2"), macs_of(joint), FIELDS) == 2


@pytest.mark.parametrize("name", MODELS)
def test_joint_is_the_mean_logit_of_its_modules(name: str, schema: Schema, ids: Tensor) -> None:
    base, one, two = (
        network_of(config(name, arm), schema) for arm in ("base", "joint:1", "joint:2")
    )
    torch.testing.assert_close(one.state_dict(), base.state_dict(), rtol=0, atol=0)
    parts = [build_network(config(name), schema, Streams.of(3, part)).eval() for part in range(2)]
    logits = torch.stack([part(ids) for part in parts])
    assert not torch.equal(logits[0], logits[1])
    torch.testing.assert_close(two(ids), logits.mean(dim=0))
    table, columns = join_tables([base])
    alone = Network(table, JointModel([base.model], columns))
    torch.testing.assert_close(alone(ids), base(ids), rtol=0, atol=0)


FORMS: list[tuple[str, list[str]]] = [
    *((name, []) for name in INTERACTIONS),
    ("dcnv2", ["structure=stacked"]),
    ("autoint", ["mlp=false"]),
    ("finalmlp", ["gating=false"]),
    ("finalmlp", ["gate1_fields=0,2"]),
    ("deepfm", ["first_order=false"]),
    ("fnn", ["batch_norm=true"]),
    ("rankmixer", ["embedding_dim=24"]),
]
every_form = pytest.mark.parametrize(("name", "more"), FORMS)


@every_form
def test_equal_embedding_sets_give_the_models_own_logit(
    name: str, more: list[str], schema: Schema, ids: Tensor
) -> None:
    run = config(name, "base", *more)
    copies = [network_of(run, schema) for _ in range(3)]
    expected = network_of(run, schema)(ids)
    table, columns = join_tables(copies)
    models = [copy.model for copy in copies]
    multi = Network(table, MultiEmbeddingModel(name, models, columns)).eval()
    torch.testing.assert_close(multi(ids), expected)


@every_form
def test_every_set_has_its_part_in_a_rows_own_logit(
    name: str, more: list[str], schema: Schema, ids: Tensor
) -> None:
    network = network_of(config(name, "multi:2", *more), schema)
    together = network(ids)
    torch.testing.assert_close(
        together, torch.cat([network(ids[row : row + 1]) for row in range(len(ids))])
    )
    torch.testing.assert_close(network(ids.repeat(200, 1)), together.repeat(200))  # in blocks
    vectors, weights = network.table(ids)
    vectors.requires_grad_()
    network.model(vectors, weights).square().sum().backward()
    assert vectors.grad is not None
    assert ((vectors.grad != 0).sum(dim=(0, 1)) > 0).all()  # of both sets, every column
    for parameter_name, parameter in network.model.named_parameters():
        assert parameter.grad is not None, parameter_name


def test_sets_meet_in_the_first_hidden_layer(schema: Schema, ids: Tensor) -> None:
    network = network_of(config("fnn", "multi:2"), schema)
    vectors, _ = network.table(ids)
    state = network.model.state_dict()
    hidden = [
        torch.relu(
            own.flatten(start_dim=1) @ state[f"model.mlp.first.{number}.0.weight"].T
            + state[f"model.mlp.first.{number}.0.bias"]
        )
        for number, own in enumerate(vectors.split(DIM, dim=2))
    ]
    rest = build_model("fnn", 1, embedding_dim=48, hidden_units=(24,)).mlp
    assert isinstance(rest, torch.nn.Module)
    rest.load_state_dict(
        {
            key.removeprefix("model.mlp.rest."): value
            for key, value in state.items()
            if ".rest." in key
        }
    )
    expected = rest((hidden[0] + hidden[1]) / 2).squeeze(1)
    torch.testing.assert_close(network(ids), expected)
    assert macs_of(network) == 2 * FIELDS * DIM * 48 + 48 * 24 + 24  # the rest exists once


def test_a_mix_joins_architectures_of_different_dimensions(schema: Schema) -> None:
    run = config("rankmixer:24+wukong:6")
    assert (run.model, run.arm) == ("rankmixer+wukong", "joint:2")
    network = network_of(run, schema)
    assert network.table.weight.shape == (schema.num_features, 30)
    assert macs_of(network) == sum(part_macs(part, FIELDS) for part in run.mix)
    assert achieved_scale(run, macs_of(network), FIELDS) == pytest.approx(2)
    built = resolved_settings(run, FIELDS)["built"]
    assert [part["embedding_dim"] for part in built] == [24, 6]
    default = config("lr+fm")
    assert [part.embedding_dim for part in default.mix] == [DIM, DIM]


@pytest.mark.parametrize(
    ("mix", "options", "message"),
    [
        ("fm:x+lr", {}, "'fm:x': the embedding dimension 'x' is not a whole number"),
        ("fm:²+lr", {}, "the embedding dimension '²' is not a whole number"),
        ("fm+lr", {"arm": "width:2"}, "modules of a mix make the arm joint:2"),
        ("fm+lr", {"profiles": ["small"]}, "lr is 0.003 for fm and 0.01 for lr; choose with --set"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(mix: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("toy", mix, **options)


def test_settings_of_an_arm_say_what_was_built() -> None:
    assert "built" not in resolved_settings(config("deepfm"), FIELDS)
    (built,) = resolved_settings(config("deepfm", "width:2"), FIELDS)["built"]
    assert built["embedding_dim"] > DIM
    assert isinstance(built["settings"]["hidden_units"], list)
