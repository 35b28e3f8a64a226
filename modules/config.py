"""Settings of a run: dataclass defaults <- configs/<dataset>.yaml <- profiles <- `--set`."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from modules.models import MODELS, model_settings, unknown_name
from modules.precision import Precision
from modules.schedule import Schedule

ARMS = ("base", "width", "depth", "joint", "multi", "soup", "soup-late")
SCALED_ARMS = ("width", "depth")  # by any factor; the others by a whole number
LARGEST_ARM = 1000
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it, its place and the way out."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings that every model shares; the defaults follow the official example run."""

    embedding_dim: int = 16
    embedding_init: float | None = None  # std of a normal; None: Xavier-uniform over the table
    optimizer: Literal["deferred", "dense"] = "deferred"  # the same Adam, by used rows or by all
    lr: float = 1e-4
    schedule: Schedule = "constant"  # of the learning rate
    warmup_steps: int = 0
    l2: float = 0.0  # Adam's coupled weight decay, on the model and on rows of the table:
    l2_scope: Literal["batch", "table"] = "batch"  # those of the batch; all, as officially
    batch_size: int = 4096
    epochs: int = 1  # at most
    patience: int = 0  # epochs without a better val AUC that are forgiven before the stop
    vary: Literal["init", "init+order"] = "init"  # what a seed changes; "init" reads in file order
    bootstrap: float = 0.0  # share of the training rows that a seed replaces by rows drawn anew
    precision: Precision = "float32"  # of the model's matrix products in training
    compile: bool = False  # the model, by torch.compile
    table_device: Literal["model", "cpu"] = "model"  # cpu: a table larger than the GPU's memory
    resident: bool = False  # keep the rows in memory from epoch to epoch

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a value out of its range."""
        lowest = {
            "embedding_dim": 1,
            "batch_size": 1,
            "epochs": 1,
            "patience": 0,
            "l2": 0.0,
            "warmup_steps": 0,
        }
        for key, low in lowest.items():
            if not low <= getattr(self, key) < math.inf:
                raise ConfigError(f"{key}={getattr(self, key)} is not a number from {low} on")
        if self.l2 and self.l2_scope == "table" and self.optimizer != "dense":
            raise ConfigError(
                f"l2_scope=table decays every row in every step, which optimizer="
                f"{self.optimizer} does not visit; set optimizer=dense, or l2_scope=batch"
            )
        for key in ("lr", "embedding_init"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{key}={value} is not a positive number")
        if not 0 <= self.bootstrap <= 1:
            raise ConfigError(f"bootstrap={self.bootstrap} is not a share from 0 to 1")


@dataclass(frozen=True)
class Arm:
    """A way to spend an inference budget, and how much of it: `width:2`, `joint:4`."""

    kind: str
    k: float = 1

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Read an arm as the command line has it. Raises `ConfigError`."""
        kind, colon, number = text.partition(":")
        if kind not in ARMS:
            raise ConfigError(unknown_name("arm", kind, ARMS))
        if kind == "base":
            if colon:
                raise ConfigError(f"arm '{text}': base is written without a number")
            return cls(kind)
        try:
            k = float(number)
        except ValueError:
            k = math.nan
        whole = kind not in SCALED_ARMS
        if not 1 <= k <= LARGEST_ARM or (whole and k != int(k)):
            what = "a whole number" if whole else "a number"
            raise ConfigError(f"arm '{text}': expected {what} from 1 to {LARGEST_ARM}, as {kind}:2")
        if number != f"{k:g}":  # one folder a run
            raise ConfigError(f"arm '{text}': write it {kind}:{k:g}")
        return cls(kind, int(k) if whole else k)


@dataclass(frozen=True)
class Part:
    """One module of a network: the whole of it, or one of those that are trained jointly."""

    model: str
    embedding_dim: int
    settings: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """As YAML's own types."""
        return asdict(self) | {"settings": _plain(self.settings)}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run's result, apart from the data.

    mix: the modules of a joint mix; `model` is their names joined by `+`. Empty otherwise.
    """

    dataset: str
    model: str
    arm: str = "base"
    seed: int = 2021
    training: TrainingConfig = TrainingConfig()
    model_settings: Mapping[str, Any] = field(default_factory=dict)
    mix: Sequence[Part] = ()

    @property
    def part(self) -> Part:
        """The one module of the base arm."""
        return Part(self.model, self.training.embedding_dim, self.model_settings)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RunConfig:
        """The inverse of `to_dict`; also of a run's config.yaml, which says what was built too.

        Raises `ConfigError` where settings are missing or unknown, as those of another version.
        """
        given = {key: value for key, value in content.items() if key != "built"}
        try:
            given["training"] = TrainingConfig(**given["training"])
            given["model_settings"] = _hashable(given["model_settings"])
            given["mix"] = tuple(
                Part(**part | {"settings": _hashable(part["settings"])})
                for part in given.get("mix", ())
            )
            return cls(**given)
        except (TypeError, KeyError) as error:
            run = f"{given.get('model')} {given.get('arm')} seed {given.get('seed')}"
            raise ConfigError(
                f"the settings of the run {run} are not of this version ({error}); train it again "
                f"with --force, or use the version that trained it"
            ) from error

    def with_seed(self, seed: int) -> RunConfig:
        """The same run from another seed."""
        return replace(self, seed=seed)

    def to_yaml(self) -> str:
        """The resolved settings, as `config.yaml` in the run folder."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def to_dict(self) -> dict[str, Any]:
        """The same as nested dictionaries of YAML's own types."""
        content = asdict(self) | {"model_settings": _plain(self.model_settings)}
        del content["mix"]
        return content | ({"mix": [part.plain() for part in self.mix]} if self.mix else {})


def resolve(
    dataset: str,
    model: str,
    *,
    seed: int | None = None,
    arm: str = "base",
    profiles: Sequence[str] = (),
    overrides: Sequence[str] = (),
    models: Sequence[str] = (),
) -> RunConfig:
    """The settings of one run.

    model: a model's name, or several that are trained jointly, each perhaps with an embedding
    dimension of its own: `rankmixer:24+wukong:16`, whose arm is `joint:2`.
    overrides: `key=value` pairs. models: the models that the overrides are meant for, where not
    all of them know every key (`--set hidden_units=256,128` for LR and DeepFM together).
    Raises `ConfigError` or `ModelError` for an unknown model, key or value.
    """
    Arm.parse(arm)
    if not re.fullmatch(r"\w[\w.-]*", dataset):
        raise ConfigError(f"'{dataset}' is not the name of a data set, as criteo or my_log")
    if "+" in model:
        options = {"seed": seed, "profiles": profiles, "overrides": overrides, "models": models}
        return _resolve_mix(dataset, model, arm, options)
    defaults = _read_defaults(dataset, model, profiles)
    first_seed = _coerce("seed", defaults.pop("seed", RunConfig.seed), int)
    seed = first_seed if seed is None else seed
    if seed < 0:
        raise ConfigError(f"seed={seed} is not a number from 0 on")
    given = parse_overrides(overrides)
    _check_keys(given, models or (model,), place="--set")
    known = _known_settings(model)
    values = {
        key: _coerce(key, value, known[key])
        for key, value in (defaults | given).items()
        if key in known
    }
    shared = {setting.name for setting in fields(TrainingConfig)}
    return RunConfig(
        dataset=dataset,
        model=model,
        arm=arm,
        seed=seed,
        training=TrainingConfig(**{k: v for k, v in values.items() if k in shared}),
        model_settings=model_defaults(model) | {k: v for k, v in values.items() if k not in shared},
    )


def _resolve_mix(dataset: str, mix: str, arm: str, options: Mapping[str, Any]) -> RunConfig:
    """The settings of a joint mix, whose modules have all but their own settings in common."""
    texts = mix.split("+")
    expected = f"joint:{len(texts)}"
    if arm not in ("base", expected):
        raise ConfigError(f"arm '{arm}' of '{mix}': the modules of a mix make the arm {expected}")
    names = [text.partition(":")[0] for text in texts]
    options = {**options, "models": [*options["models"], *names]}
    runs = [resolve(dataset, name, **options) for name in names]
    dims = [
        _part_dim(text, run.training.embedding_dim) for text, run in zip(texts, runs, strict=True)
    ]
    for run in runs[1:]:
        for key, first, other in setting_differences(
            asdict(runs[0].training), asdict(run.training)
        ):
            if key != "embedding_dim":
                raise ConfigError(
                    f"the modules of '{mix}' are trained together, but {key} is {first} for "
                    f"{names[0]} and {other} for {run.model}; choose with --set {key}=..."
                )
    parts = tuple(
        Part(name, dim, run.model_settings)
        for name, dim, run in zip(names, dims, runs, strict=True)
    )
    return replace(runs[0], model="+".join(names), arm=expected, model_settings={}, mix=parts)


def _part_dim(text: str, default: int) -> int:
    """The embedding dimension of `wukong:16`, or the default of `wukong`."""
    name, colon, number = text.partition(":")
    if not colon:
        return default
    if not number.isdecimal() or int(number) == 0:
        raise ConfigError(
            f"'{text}': the embedding dimension '{number}' is not a whole number "
            f"from 1 on, as {name}:16"
        )
    return int(number)


def setting_differences(
    there: Mapping[str, Any], here: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Every setting that differs between two nested mappings: key, value there, value here."""
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from setting_differences(old, new)
        elif old != new:
            yield key, old, new


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings as its config.yaml has them, with those that are younger than the run.

    The default of a training setting is what the program did before there was the setting.
    """
    return {**settings, "training": asdict(TrainingConfig()) | settings["training"]}


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`["lr=3e-4", "hidden_units=[256, 128]"]` -> values by key; values are YAML."""
    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise ConfigError(f"--set {pair}: expected key=value")
        try:
            values[key] = yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:  # ValueError: 2020-13-45 is no date
            raise ConfigError(
                f"--set {pair}: the value is not YAML ({' '.join(str(error).split())})"
            ) from error
    return values


def model_defaults(model: str) -> dict[str, Any]:
    """The default of every setting of a model's own."""
    return {key: parameter.default for key, parameter in model_settings(model).items()}


def _read_defaults(dataset: str, model: str, profiles: Sequence[str]) -> dict[str, Any]:
    """What the YAML files of a data set and of profiles say of one model, later ones first."""
    paths = [CONFIGS / "profiles" / f"{name}.yaml" for name in profiles]
    for name, path in zip(profiles, paths, strict=True):
        if not path.is_file():
            known = (path.stem for path in (CONFIGS / "profiles").glob("*.yaml"))
            raise ConfigError(unknown_name("profile", name, known))
    dataset_path = CONFIGS / f"{dataset}.yaml"
    if dataset_path.is_file():  # a user's own log needs no file
        paths.insert(0, dataset_path)
    values: dict[str, Any] = {}
    for path in paths:
        content, of_models = _read_yaml(path)
        _check_keys(content, MODELS, place=str(path), more=("seed",))
        for name, settings in of_models.items():
            _check_keys(settings, (name,), place=f"{path}, models: {name}")
        values |= content | of_models.get(model, {})
    return values


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings in a file for all models, and those for each; a place left empty has none."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    content = _settings_at(str(path), content)
    models = _settings_at(f"{path}, models", content.pop("models", None))
    return content, {
        name: _settings_at(f"{path}, models: {name}", settings) for name, settings in models.items()
    }


def _settings_at(place: str, value: Any) -> dict[str, Any]:
    settings = {} if value is None else value
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ConfigError(f"{place}: expected settings, as `lr: 1e-3`, not {value!r}")
    return settings


def _known_settings(model: str) -> dict[str, Any]:
    """Type annotation of every setting that a run of `model` knows."""
    own = {key: parameter.annotation for key, parameter in model_settings(model).items()}
    return get_type_hints(TrainingConfig) | own


def _check_keys(
    values: Mapping[str, Any], models: Iterable[str], place: str, more: Sequence[str] = ()
) -> None:
    known = set(more).union(*(_known_settings(model) for model in models))
    for key in values:
        if key not in known:
            raise ConfigError(f"{place}: {unknown_name('setting', key, known)}")


def _coerce(key: str, value: Any, annotation: Any) -> Any:
    """`value` as the annotated type: bool, int, float, a Literal, a sequence of ints, or None."""
    try:
        return _convert(value, annotation)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{key}={value!r} is not {_describe(annotation)}") from None


def _convert(value: Any, annotation: Any) -> Any:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (annotation,) = (kind for kind in get_args(annotation) if kind is not type(None))
        return _convert(value, annotation)
    if origin is Literal:
        if value not in get_args(annotation):
            raise ValueError
        return value
    if origin is Sequence:
        items = value.split(",") if isinstance(value, str) else value
        items = [items] if isinstance(items, int) else items
        return tuple(_convert(item, get_args(annotation)[0]) for item in items)
    if annotation is bool:
        if not isinstance(value, bool):
            raise TypeError
        return value
    if isinstance(value, bool) or (annotation is int and isinstance(value, float)):
        raise TypeError
    return annotation(value)  # YAML 1.1 reads 3e-4 as text; float() does not


def _describe(annotation: Any) -> str:
    """What `_convert` accepts for an annotation, in words."""
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(get_args(annotation))}"
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_describe(kind) for kind in get_args(annotation))
    words = {bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}
    return words.get(annotation, "a list of whole numbers, as 256,128")


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as YAML's own types."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


def _hashable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as `resolve` gives them, out of YAML's own types."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
