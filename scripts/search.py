"""Search an architecture's settings for the merge of K members, or for the member itself.

    python scripts/search.py --dataset criteo --model deepfm --profile small \\
        --objective merged --members 3 --trials 30 --name criteo_sample_deepfm_merged

A trial trains K members and is judged by validation log loss: that of their mean logit
(`--objective merged`) or the mean of their own (`--objective member`), so that both objectives
cost the same. No row of the test split is read. The best trial becomes configs/profiles/NAME.yaml.
`--arm width:2` searches that arm in the same space with the same number of trials; its profile is
for that arm alone (`trainer_group.py --profile NAME --arms width:2`), in the runs folder of the
base that it is compared with.
A search that was stopped goes on where it was when started again (its journal is kept under
runs/search); --force begins anew. Needs requirements-search.txt.
"""

from __future__ import annotations

import argparse
import io
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import torch
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.atomic import check_writable
from data.loader import read_labels
from data.schema import Schema, read_schema
from modules import config as configuration
from modules.arms import build_parts
from modules.cli import add_shared_arguments
from modules.config import Arm, ConfigError, RunConfig, resolve, setting_differences, with_defaults
from modules.group import USER_ERRORS
from modules.models import model_settings, unknown_name
from modules.names import split_names
from modules.runs import RunError
from modules.scoring.metrics import auc, logloss
from modules.training import fit_member, resolve_device

OBJECTIVES = ("merged", "member")
STARTUP_TRIALS = 6  # the first ones and some drawn at random; then the sampler learns from them
HOPELESS = 0.01  # log loss by which the first member may lie above the best trial's objective
INITS = (1e-3, 5e-2)  # standard deviations of the embeddings' initialisation
MAX_EPOCHS = 3
FALLING = ("linear", "cosine")  # schedules under which the learning rate ends at zero
HIGHEST_LR = {True: 2e-2, False: 1e-2}  # of a falling rate, whose mean is half of it, and of others
SEARCHED = (
    "lr",
    "schedule",
    "batch_size",
    "vary",
    "embedding_init",
    "dropout",
    "bootstrap",
    "epochs",
)
FAILURE = "failure"  # a failed trial's attribute: why; without it the trial was interrupted
HEADING = "# Found on validation alone, by: "


@dataclass(frozen=True)
class Task:
    """What is searched: the settings to start from, the data, and how a trial is judged."""

    config: RunConfig
    schema: Schema
    data: Path
    labels: np.ndarray  # of the val split, (rows,)
    device: torch.device
    members: int
    objective: str
    searched: tuple[str, ...]  # names of settings


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parse(argv)
    try:
        path = _profile_path(args.name)
        task = _task(args)
        study = _open_study(args, task)
        deadline = time.monotonic() + args.seconds
        while len(_ended(study)) < args.trials and time.monotonic() < deadline:
            study.optimize(lambda trial: run_trial(trial, task), n_trials=1, catch=(RunError,))
            print(_describe(_ended(study)[-1]), flush=True)
        print(_budget(study, task))
        if not study.get_trials(states=(TrialState.COMPLETE,)):
            raise RunError("no trial was completed; give it more --trials or --seconds")
        path.write_text(profile_of(study, task, args.profile, argv))
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        without = " without --force" if args.force else ""
        print(f"interrupted: the same command{without} goes on where it was", file=sys.stderr)
        return 130
    print(path)
    return 0


def suggest(trial: optuna.Trial, task: Task) -> dict[str, Any]:
    """The settings of a trial. What creates diversity is searched, the architecture is not."""
    training = task.config.training
    batch_sizes = sorted({256, 512, 1024, 2048, training.batch_size})
    schedules = sorted({"constant", "linear", training.schedule})
    space: dict[str, Callable[[], Any]] = {
        "schedule": lambda: trial.suggest_categorical("schedule", schedules),
        "batch_size": lambda: trial.suggest_categorical("batch_size", batch_sizes),
        "vary": lambda: trial.suggest_categorical("vary", ["init", "init+order"]),
        "embedding_init": lambda: trial.suggest_float("embedding_init", *INITS, log=True),
        "dropout": lambda: trial.suggest_float("dropout", 0.0, 0.5, step=0.05),
        "bootstrap": lambda: trial.suggest_float("bootstrap", 0.0, 1.0, step=0.25),
        "epochs": lambda: trial.suggest_int("epochs", 1, MAX_EPOCHS),
    }
    settings = {key: space[key]() for key in task.searched if key != "lr"}
    if "lr" in task.searched:  # last, as the schedule says how high it may be
        highest = HIGHEST_LR[settings.get("schedule", training.schedule) in FALLING]
        bounds = min(3e-4, training.lr), max(highest, training.lr)
        settings["lr"] = trial.suggest_float("lr", *bounds, log=True)
    return rounded(settings)


def rounded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers to four digits: what is tried is what the profile says."""
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in settings.items()
    }


def first_trials(task: Task) -> list[dict[str, Any]]:
    """Tried first: as configured, every seed's own order, noisier steps, and those falling to zero.

    Noise of the optimisation costs a single model little and makes members differ.
    """
    training, schema = task.config.training, task.schema
    xavier = (2 / (schema.num_features + training.embedding_dim)) ** 0.5  # sd of the official one
    as_configured = asdict(training) | {
        "embedding_init": min(max(training.embedding_init or xavier, INITS[0]), INITS[1]),
        "epochs": min(training.epochs, MAX_EPOCHS),
        "dropout": task.config.model_settings.get("dropout", 0.0),
    }
    own_order = {**as_configured, "vary": "init+order"}
    noisier = {
        **own_order,
        "lr": max(training.lr, min(5 * training.lr, HIGHEST_LR[False])),
        "batch_size": min(512, training.batch_size),
        "epochs": 1,
    }
    return [
        {key: settings[key] for key in task.searched}
        for settings in (as_configured, own_order, noisier, {**noisier, "schedule": "linear"})
    ]


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """`config` with other training settings and settings of the model's own."""
    shared = asdict(config.training)
    training = {key: value for key, value in settings.items() if key in shared}
    own = {key: value for key, value in settings.items() if key not in shared}
    return replace(
        config,
        training=replace(config.training, **training),
        model_settings={**config.model_settings, **own},
    )


def run_trial(trial: optuna.Trial, task: Task) -> float:
    """Train the members of a trial; the validation log loss that it is judged by."""
    try:
        return _judged(trial, task, with_settings(task.config, suggest(trial, task)))
    except RunError as error:
        trial.set_user_attr(FAILURE, str(error))
        raise


def _judged(trial: optuna.Trial, task: Task, config: RunConfig) -> float:
    started = time.perf_counter()
    total = np.zeros(len(task.labels))
    losses: list[float] = []
    member_epochs = 0
    for number in range(task.members):
        logits, epochs = _val_logits(config.with_seed(config.seed + number), task)
        member_epochs += epochs
        total += logits
        losses.append(logloss(task.labels, logits))
        merged = total / (number + 1)
        figures = {
            "merged_logloss": logloss(task.labels, merged),
            "merged_auc": auc(task.labels, merged),
            "member_logloss": float(np.mean(losses)),
            "member_epochs": member_epochs,
            "seconds": time.perf_counter() - started,
        }
        for key, value in figures.items():
            trial.set_user_attr(key, value)
        if number == 0 and losses[0] > _best_value(trial.study) + HOPELESS:
            raise optuna.TrialPruned  # by much, as merging makes up for a weaker member
    return figures[f"{task.objective}_logloss"]


def profile_of(
    study: optuna.Study, task: Task, profiles: Sequence[str], argv: Sequence[str]
) -> str:
    """The best trial as a profile, and whence: to be used alone or behind `profiles`.

    It says what differs from the data set's settings, or from these with `profiles`.
    """
    found = with_settings(task.config, rounded(study.best_trial.params)).to_dict()
    plain, given = (
        resolve(task.config.dataset, task.config.model, profiles=names).to_dict()
        for names in ((), profiles)
    )
    differing = {
        key: value
        for part in ("training", "model_settings")
        for before in (plain, given)
        for key, _, value in setting_differences(before[part], found[part])
    }
    figures = study.best_trial.user_attrs
    arm = task.config.arm
    use = (
        f"# For --arms {arm} alone, beside a base with settings of its own.\n"
        if arm != "base"
        else ""
    )
    comment = (
        f"{HEADING}python scripts/search.py {shlex.join(argv)}\n"
        f"# {_budget(study, task)}\n"
        f"# Validation log loss: {figures['merged_logloss']:.5f} merged, "
        f"{figures['member_logloss']:.5f} the mean member.\n{use}"
    )
    return comment + yaml.safe_dump({"models": {task.config.model: differing}}, sort_keys=False)


def _val_logits(config: RunConfig, task: Task) -> tuple[np.ndarray, int]:
    """The validation logits (rows,) of one member, and the epochs that it was trained."""
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        trainer, epochs = fit_member(config, task.schema, task.data, Path(folder), task.device)
    return trainer.best_val_logits, len(epochs)


def _profile_path(name: str) -> Path:
    """Where the profile goes; `ConfigError` where a file of somebody's own would be lost."""
    path = configuration.CONFIGS / "profiles" / f"{name}.yaml"
    if path.name != f"{name}.yaml":
        raise ConfigError(f"--name {name}: a name, not a path")
    if path.exists() and not path.read_text().startswith(HEADING):
        raise ConfigError(f"--name {name}: {path} is not of a search; choose another name")
    return path


def _task(args: argparse.Namespace) -> Task:
    data = args.data or Path("data/encoded") / args.dataset
    schema = read_schema(data)
    if args.members < 1 or args.trials < 1:
        raise RunError(f"--members {args.members} --trials {args.trials}: must be at least 1")
    if Arm.parse(args.arm).kind.startswith("soup"):
        raise ConfigError(
            f"--arm {args.arm} averages weights and has no settings of its own; search --arm base"
        )
    config = resolve(
        args.dataset, args.model, arm=args.arm, profiles=args.profile, overrides=args.set
    )
    build_parts(config, schema.num_fields)  # a model may not grow that way: said before a trial
    known = [key for key in SEARCHED if key != "dropout" or key in model_settings(args.model)]
    asked = args.search or known
    for key in asked:
        if key not in known:
            raise ConfigError(f"--search: {unknown_name('setting', key, known)}")
    return Task(
        config=config,
        schema=schema,
        data=data,
        labels=read_labels(data, "val", schema),
        device=resolve_device(args.device),
        members=args.members,
        objective=args.objective,
        searched=tuple(asked),
    )


def _open_study(args: argparse.Namespace, task: Task) -> optuna.Study:
    """The study of this name, begun or taken up; `RunError` where it was another search."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = args.runs / "search" / f"{args.name}.journal"
    check_writable(journal.parent)
    journal.parent.mkdir(parents=True, exist_ok=True)
    if args.force:
        journal.unlink(missing_ok=True)
    if journal.exists():
        _drop_unfinished_line(journal)
    try:
        study = optuna.create_study(
            study_name=args.name,
            storage=JournalStorage(JournalFileBackend(str(journal))),
            load_if_exists=True,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{journal}: not a search's journal ({error!r}); choose another --name, or begin anew "
            f"with --force"
        ) from error
    # Taken up again, the sampler must not repeat the draws that it began with.
    study.sampler = optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS, seed=task.config.seed + len(study.trials)
    )
    search = {
        "config": yaml.safe_load(task.config.to_yaml()),
        "data": task.schema.fingerprint,
        "members": task.members,
        "objective": task.objective,
        "search": list(task.searched),
    }
    if not study.trials:
        study.set_user_attr("search", search)
        for settings in first_trials(task):
            study.enqueue_trial(settings, skip_if_exists=True)
    before = study.user_attrs["search"]
    before["config"] = with_defaults(before["config"])
    for key, there, here in setting_differences(before, search):
        raise RunError(
            f"{journal} is a search with {key}={there!r}, not {here!r}; choose another --name, or "
            f"begin anew with --force"
        )
    _queue_interrupted(study)
    return study


def _drop_unfinished_line(journal: Path) -> None:
    """Cut off what a process that was killed while it wrote left behind the last whole line.

    Else the next line would be written behind it, and no later search could read the journal.
    """
    written = journal.read_bytes()
    whole = written.rfind(b"\n") + 1
    if whole < len(written):
        with journal.open("r+b") as file:
            file.truncate(whole)


def _queue_interrupted(study: optuna.Study) -> None:
    """Queue the trials in which a search was stopped, unless they are queued or made up for."""
    trials = study.get_trials()
    settled = [_drawn(trial) for trial in trials if not _was_interrupted(trial)]
    for settings in map(_drawn, filter(_was_interrupted, trials)):
        if settings and settings not in settled:
            study.enqueue_trial(settings)
            settled.append(settings)


def _was_interrupted(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state == TrialState.RUNNING or (
        trial.state == TrialState.FAIL and FAILURE not in trial.user_attrs
    )


def _drawn(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """What was to be tried: as it was queued, or as the sampler drew it."""
    queued: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return {**queued, **trial.params}


def _best_value(study: optuna.Study) -> float:
    values = [trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))]
    return min((value for value in values if value is not None), default=float("inf"))


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that count, in the order in which they were begun."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [trial for trial in study.get_trials(states=states) if not _was_interrupted(trial)]


def _budget(study: optuna.Study, task: Task) -> str:
    trials = _ended(study)
    epochs = sum(trial.user_attrs.get("member_epochs", 0) for trial in trials)
    seconds = sum(trial.user_attrs.get("seconds", 0.0) for trial in trials)
    first = task.config.seed
    return (
        f"{len(trials)} trials of up to {task.members} members (seeds {first} to "
        f"{first + task.members - 1}): {epochs} member-epochs, {seconds:.0f} s of training"
    )


def _describe(trial: optuna.trial.FrozenTrial) -> str:
    settings = " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in trial.params.items()
    )
    figures = trial.user_attrs
    scores = figures.get(FAILURE) or (
        f"merged {figures['merged_logloss']:.5f} (AUC {figures['merged_auc']:.5f}), "
        f"member {figures['member_logloss']:.5f}, {figures['seconds']:.0f} s"
    )
    return f"trial {trial.number} {trial.state.name.lower()}: {scores}; {settings}"


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--arm", default="base", help="base, width:2, depth:2, joint:2, multi:2")
    parser.add_argument("--objective", choices=OBJECTIVES, default="merged")
    parser.add_argument(
        "--search", type=split_names, metavar="A,B", help=f"default: {','.join(SEARCHED)}"
    )
    parser.add_argument("--members", type=int, default=3, help="trained in every trial")
    parser.add_argument("--trials", type=int, default=30, help="in all, earlier ones included")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no trial after so long"
    )
    parser.add_argument("--name", required=True, help="of the profile and of the search")
    add_shared_arguments(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
