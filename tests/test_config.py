"""Settings: where a value comes from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from modules import config
from modules.cli import parse_seeds
from modules.config import ConfigError, RunConfig, resolve
from modules.models import MODELS, ModelError
from modules.runs import RunError


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configs folder in place of the project's."""
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    (tmp_path / "profiles").mkdir()
    return tmp_path


def test_later_sources_win(configs: Path) -> None:
    (configs / "toy.yaml").write_text(
        "seed: 7\nlr: 1e-2\nbatch_size: 64\nmodels: {deepfm: {batch_size: 32, dropout: 0.1}}\n"
    )
    (configs / "profiles/quick.yaml").write_text("epochs: 9\nhidden_units: [8, 4]\n")
    plain = resolve("toy", "deepfm")
    assert (plain.seed, plain.training.lr, plain.training.batch_size) == (7, 0.01, 32)
    assert plain.model_settings["dropout"] == 0.1
    assert plain.model_settings["hidden_units"] == (1024, 512, 256)  # the model's own default
    assert resolve("toy", "fm").training.batch_size == 64
    quick = resolve("toy", "deepfm", profiles=["quick"], overrides=["epochs=3", "dropout=0"])
    assert quick.training.epochs == 3
    assert quick.model_settings["hidden_units"] == (8, 4)
    assert quick.model_settings["dropout"] == 0.0
    assert resolve("toy", "lr", profiles=["quick"]).model_settings == {}  # not an LR's setting


def test_values_take_the_settings_type() -> None:
    run = resolve(
        "mine",
        "deepfm",
        overrides=["lr=3e-4", "hidden_units=256,128", "first_order=false", "embedding_init=0.05"],
    )
    assert run.training.lr == 3e-4
    assert run.training.embedding_init == 0.05
    assert run.model_settings["hidden_units"] == (256, 128)
    assert run.model_settings["first_order"] is False
    written = yaml.safe_load(run.to_yaml())
    assert written["training"]["lr"] == 3e-4
    assert written["model_settings"]["hidden_units"] == [256, 128]


@pytest.mark.parametrize("model", ["deepfm", "finalmlp", "lr", "rankmixer:24+wukong:16"])
def test_settings_are_read_back_as_they_were_written(model: str) -> None:
    run = resolve("mine", model, overrides=["lr=3e-4", "vary=init+order"])
    assert RunConfig.from_dict(yaml.safe_load(run.to_yaml())) == run


def test_settings_of_another_version_are_refused() -> None:
    content = resolve("mine", "fm").to_dict()
    newer = content | {"training": content["training"] | {"momentum": 0.9}}
    older = {key: value for key, value in content.items() if key != "dataset"}
    for settings, missed in ((newer, "momentum"), (older, "dataset")):
        with pytest.raises(ConfigError, match=f"the run fm base seed 2021 .*'{missed}'.* --force"):
            RunConfig.from_dict(settings)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1", "unknown setting 'learning_rat'"),
        ("epoch=1", "did you mean 'epochs'"),
        ("lr=fast", "lr='fast' is not a number"),
        ("lr=-1", "lr=-1.0 is not a positive number"),
        ("lr=.nan", "lr=nan is not a positive number"),
        ("l2=.nan", "l2=nan is not a number from 0.0 on"),
        ("batch_size=2.5", "batch_size=2.5 is not a whole number"),
        ("batch_size=0", "batch_size=0 is not a number from 1 on"),
        ("epochs=true", "epochs=True is not a whole number"),
        ("optimizer=sparse", "optimizer='sparse' is not one of deferred, dense"),
        ("vary=order", "vary='order' is not one of init, init\\+order"),
        ("first_order=1", "first_order=1 is not true or false"),
        ("hidden_units=a,b", "hidden_units='a,b' is not a list of whole numbers"),
        ("lr", "expected key=value"),
        ("lr=[", "not YAML"),
        ("lr=2020-13-45", "not YAML"),
        (f"lr=1{400 * '0'}", "is not a number"),
    ],
)
def test_bad_overrides_name_the_key_and_the_way_out(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("mine", "deepfm", overrides=[override])


def test_decay_of_the_whole_table_needs_the_dense_optimizer() -> None:
    table_scope = ["l2=1e-5", "l2_scope=table"]
    with pytest.raises(ConfigError, match="set optimizer=dense, or l2_scope=batch"):
        resolve("mine", "fm", overrides=table_scope)
    dense = resolve("mine", "fm", overrides=[*table_scope, "optimizer=dense"])
    assert dense.training.l2_scope == "table"


def test_an_override_must_fit_the_model_or_one_of_the_group() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'hidden_units'"):
        resolve("mine", "lr", overrides=["hidden_units=8"])
    group = resolve("mine", "lr", overrides=["hidden_units=8"], models=["lr", "deepfm"])
    assert group == resolve("mine", "lr")


def test_unknown_names_are_refused(configs: Path) -> None:
    (configs / "profiles/small.yaml").write_text("")
    with pytest.raises(ConfigError, match="unknown profile 'smal'; did you mean 'small'"):
        resolve("toy", "fm", profiles=["smal"])
    with pytest.raises(ModelError, match="unknown model"):
        resolve("toy", "fmm")
    with pytest.raises(ConfigError, match="unknown arm 'wide'; did you mean 'width'"):
        resolve("toy", "fm", arm="wide")
    (configs / "toy.yaml").write_text("models: {fm: {hidden_units: [3]}}")
    with pytest.raises(ConfigError, match=r"toy.yaml, models: fm: unknown setting 'hidden_units'"):
        resolve("toy", "fm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"- lr", r"toy.yaml: expected settings, as `lr: 1e-3`, not \['lr'\]"),
        (b"lr", r"toy.yaml: expected settings, .*not 'lr'"),
        (b"1: 2", r"toy.yaml: expected settings, .*not \{1: 2\}"),
        (b"lr: [1", r"toy.yaml: not YAML"),
        (b"lr: 2020-13-45", r"toy.yaml: not YAML"),
        (b"lr: \xff", r"toy.yaml: not YAML"),
        (b"models: [fm]", r"toy.yaml, models: expected settings, .*not \['fm'\]"),
        (b"models: {fm: 3}", r"toy.yaml, models: fm: expected settings, .*not 3"),
        (b"seed: -4", r"seed=-4 is not a number from 0 on"),
    ],
)
def test_a_malformed_file_is_named(configs: Path, text: bytes, message: str) -> None:
    (configs / "toy.yaml").write_bytes(text)
    with pytest.raises(ConfigError, match=message):
        resolve("toy", "fm")


@pytest.mark.parametrize("text", ["", "models:", "models: {fm: }"])
def test_a_file_may_say_nothing(configs: Path, text: str) -> None:
    (configs / "toy.yaml").write_text(text)
    assert resolve("toy", "fm") == RunConfig(
        dataset="toy", model="fm", model_settings={"first_order": True}
    )


def test_a_seed_is_not_negative() -> None:
    with pytest.raises(ConfigError, match="seed=-1 is not a number from 0 on"):
        resolve("mine", "fm", seed=-1)


def test_the_projects_own_files_resolve_for_every_model() -> None:
    root = Path(config.__file__).parents[1] / "configs"
    datasets = [path.stem for path in root.glob("*.yaml")]
    profiles = [path.stem for path in root.glob("profiles/*.yaml")]
    assert {"avazu", "criteo", "kdd12"} <= set(datasets)
    for dataset in datasets:
        for model in MODELS:
            assert isinstance(resolve(dataset, model, profiles=profiles), RunConfig)


@pytest.mark.parametrize("name", ["avazu/", "../avazu", "", ".x"])
def test_a_data_set_is_a_plain_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is not the name of a data set"):
        resolve(name, "lr")


def test_seeds_are_a_count_or_names() -> None:
    assert parse_seeds("3", first=2021) == [2021, 2022, 2023]
    assert parse_seeds("2001,5", first=2021) == [2001, 5]
    assert parse_seeds("7,", first=2021) == [7]
    assert parse_seeds(" 2 ", first=2021) == [2021, 2022]
    assert parse_seeds("2001, 5", first=2021) == [2001, 5]
    with pytest.raises(RunError, match=r"more than 999 members of each; .* --seeds 2021,$"):
        parse_seeds("2021", first=1)
    for bad in ("0", "", "a", "1,1", "-3", "²", "+3", "1_0", "1,,2", ","):
        with pytest.raises(RunError, match="expected a count"):
            parse_seeds(bad, first=1)
