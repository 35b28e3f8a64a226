"""The report of a merge: its tables, its picture, and the answer in computed words."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tabulate import tabulate

from modules.scoring.members import Members, reported
from modules.scoring.merging import ALL, SUBSET_SEED
from modules.scoring.metrics import auc, logloss_of_probabilities

REPORT, PICTURE = "report.md", "gain.png"
POOL_NAMES = {"prob": "probability mean", "logit": "logit mean"}
DATASET_NAMES = {"avazu": "Avazu", "criteo": "Criteo", "kdd12": "KDD12"}
# Okabe and Ito's colours, told apart by the colour-blind; shapes and dashes tell them in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Best:
    """What no model can beat on these test rows: the scores of their true probabilities."""

    auc: float
    logloss: float


@dataclass(frozen=True)
class About:
    """What was merged, on what rows, and where it was trained."""

    dataset: str
    synthetic: bool
    rows: dict[str, int]  # per split
    positives: dict[str, int]
    seeds: dict[str, list[int]]  # per model
    arm: str
    trained_on: dict[str, list[str]]  # machine, device, versions, commit: every value met
    best: Best | None  # of a planted log

    @classmethod
    def of(cls, dataset: str, members: Members) -> About:
        """Gathered from the members' own reports."""
        runs = members.runs
        seeds: dict[str, list[int]] = {}
        for run in runs:
            seeds.setdefault(run.model, []).append(run.seed)
        trained_on = {
            "machine": {str(reported(run, "machine")) for run in runs},
            "device": {str(reported(run, "device")) for run in runs},
            "versions": {
                ", ".join(f"{name} {number}" for name, number in reported(run, "versions").items())
                for run in runs
            },
            "commit": {str(reported(run, "git_commit") or "unknown") for run in runs},
        }
        return cls(
            dataset=dataset,
            synthetic=reported(runs[0], "data", "synthetic"),
            rows=reported(runs[0], "data", "rows"),
            positives=reported(runs[0], "data", "positives"),
            seeds=seeds,
            arm=runs[0].arm,
            trained_on={name: sorted(values) for name, values in trained_on.items()},
            best=_best(members),
        )

    @property
    def log(self) -> str:
        """The data set and its size, "synthetic Avazu log, 200,000 rows"."""
        planted = "synthetic " if self.synthetic else ""
        name = DATASET_NAMES.get(self.dataset, self.dataset)
        return f"{planted}{name} log, {sum(self.rows.values()):,} rows"


def write_results(
    folder: Path, about: About, scores: pd.DataFrame, merged: pd.DataFrame
) -> tuple[Path, Path]:
    """Write the tables, the report and the picture into `folder`; the paths of the last two.

    Everything is written beside `folder` and moved in when all of it is there; other files in
    `folder` are left alone.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        staging = Path(name)
        scores.to_csv(staging / "members.csv", index=False)
        merged.to_csv(staging / "merged.csv", index=False)
        (staging / REPORT).write_text(render_report(about, scores, merged))
        draw_gain(about, merged).savefig(staging / PICTURE, dpi=150)
        folder.mkdir(exist_ok=True)
        for file in staging.iterdir():
            file.replace(folder / file.name)
    return folder / REPORT, folder / PICTURE


def render_report(about: About, scores: pd.DataFrame, merged: pd.DataFrame) -> str:
    """The report in Markdown."""
    parts = [
        f"# Merging on the {about.log}",
        answer(scores, merged),
        *_best_line(about.best),
        f"![Gain over the mean member against K]({PICTURE})",
        "## All members merged (test split)",
        main_table(scores, merged, "pipe"),
        "The sd is over members; for `all` it includes the differences between models, and its "
        "mean member is that of all models, weak ones included. Pick the "
        "member that is best on validation: the one best on test is an oracle, for comparison "
        "only. Ambiguity A is the log loss that the logit mean gains over the mean member.",
        "## Gain over the mean member against K (test split)",
        _gain_table(merged),
        _subset_note(merged),
        "## Cost",
        _cost_table(scores, list(merged["group"].unique())),
        "A merge costs the sum of its members; with a worker for each, its latency is that of "
        "the slowest. Seconds are those of training, as the runs reported them.",
        "## Rows, seeds, machine",
        _about_list(about),
    ]
    return "\n\n".join(parts) + "\n"


def answer(scores: pd.DataFrame, merged: pd.DataFrame) -> str:
    """What merging gained, in words: for the model best on validation, and for all members.

    Nothing is chosen by its test score. A gain that is not above the sd of single members over
    seeds is called noise.
    """
    if len(scores) == 1:
        return (
            f"There is nothing to merge: one member, {_name(scores.iloc[0])}, at test AUC "
            f"{scores['test_auc'].iloc[0]:.5f} and log loss {scores['test_logloss'].iloc[0]:.5f}."
        )
    merges = _whole_groups(merged)
    val_auc = scores.groupby("model")["val_auc"].mean()
    model = val_auc.idxmax()
    paragraphs = []
    if merges.at[model, "k"] > 1:
        paragraphs.append(
            _sentence(f"{merges.at[model, 'k']} x {model}", merges.loc[model], scores)
        )
    if ALL in merges.index:
        merge = merges.loc[ALL]
        best = scores.loc[scores["val_auc"].idxmax()]
        rivals = {f"the member best on validation ({_name(best)})": best["test_auc"]}
        if merges.at[model, "k"] > 1:
            rivals[f"{merges.at[model, 'k']} x {model} merged"] = merges.at[model, "test_auc"]
        over = " and ".join(
            f"{merge['test_auc'] - rival:+z.5f} against {name}" for name, rival in rivals.items()
        )
        names = f"all {merge['k']} members of {len(val_auc)} models"
        paragraphs.append(f"{_sentence(names, merge, scores)} Its AUC is {over}.")
    return "\n\n".join(paragraphs)


def main_table(scores: pd.DataFrame, merged: pd.DataFrame, style: str = "simple") -> str:
    """All members of each group merged, beside its members; test split, in a tabulate style."""
    pools = list(merged["pool"].unique())
    by_pool = {pool: _whole_groups(merged, pool) for pool in pools}
    header = [
        "group",
        "K",
        "mean member\nAUC (sd)",
        "best on val,\ntest AUC",
        "oracle: best\non test",
        *(f"merged AUC,\n{POOL_NAMES[pool]}" for pool in pools),
        "mean member\nlog loss (sd)",
        *(f"merged log loss,\n{POOL_NAMES[pool]}" for pool in pools),
        "ambiguity\nA",
    ]
    rows = [
        [
            group,
            str(merge["k"]),
            _with_sd(merge["member_auc"], _members_of(group, scores)["test_auc"].std()),
            f"{merge['best_on_val_auc']:.5f}",
            f"{merge['best_member_auc']:.5f}",
            *(f"{by_pool[pool].at[group, 'test_auc']:.5f}" for pool in pools),
            _with_sd(merge["member_logloss"], _members_of(group, scores)["test_logloss"].std()),
            *(f"{by_pool[pool].at[group, 'test_logloss']:.5f}" for pool in pools),
            f"{merge['ambiguity']:z.5f}",
        ]
        for group, merge in _whole_groups(merged).iterrows()
    ]
    return _table(header, rows, style)


def draw_gain(about: About, merged: pd.DataFrame) -> Figure:
    """Gain over the mean member against K in AUC and log loss, a line a group, first pool."""
    pool = merged["pool"].iloc[0]
    merged = merged[merged["pool"] == pool]
    figure = Figure(figsize=(9.5, 4.8), layout="constrained")
    panels = figure.subplots(1, 2)
    _draw_panel(panels[0], merged, "auc_gain", "AUC gain (10⁻³)")
    _draw_panel(panels[1], merged, "logloss_gain", "log loss gain (10⁻³ nats)")
    figure.suptitle(f"Merging on the {about.log}: test gain over the mean member", fontsize=11)
    notes = [
        f"Pool: {POOL_NAMES[pool]}. Bars: sd over subsets of K members, which overlap. "
        f"The mean member is that of the group itself.",
        *_best_line(about.best),
    ]
    figure.supxlabel("\n".join(notes), fontsize=8)
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside right upper", title="group", frameon=False)
    return figure


def _draw_panel(panel: Axes, merged: pd.DataFrame, gain: str, label: str) -> None:
    groups = list(merged["group"].unique())
    colours, markers, dashes = cycle(COLOURS), cycle(MARKERS), cycle(DASHES)
    for place, group in enumerate(groups):
        rows = merged[merged["group"] == group]
        shift = 0.4 * ((place + 0.5) / len(groups) - 0.5)  # so that bars at one K stay apart
        panel.errorbar(
            rows["k"] + shift,
            1000 * rows[gain],
            yerr=1000 * rows[f"{gain}_sd"],
            label=group,
            color="black" if group == ALL else next(colours),
            marker="*" if group == ALL else next(markers),
            linestyle="-" if group == ALL else next(dashes),
            linewidth=1.4,
            markersize=7 if group == ALL else 5,
            elinewidth=0.8,
            capsize=2,
        )
    panel.axhline(0, color="0.5", linewidth=0.8)
    panel.grid(color="0.9", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("K, members merged")
    panel.set_ylabel(label)


def _best(members: Members) -> Best | None:
    if members.truth is None:
        return None
    labels = members.labels["test"]
    return Best(auc(labels, members.truth), logloss_of_probabilities(labels, members.truth))


def _best_line(best: Best | None) -> list[str]:
    if best is None:
        return []
    return [
        f"Best possible on these rows, by the true probabilities: AUC {best.auc:.5f}, log loss "
        f"{best.logloss:.5f}."
    ]


def _sentence(names: str, merge: pd.Series, scores: pd.DataFrame) -> str:
    """What the merge of a group gained over its mean member, against the noise of the seeds."""
    noise = _seed_sd(_members_of(merge.name, scores))
    if math.isnan(noise):
        verdict = "one seed a model, so that the seed noise is unknown"
    else:
        side = "within" if abs(merge["auc_gain"]) <= noise else "beyond"
        verdict = f"sd {noise:.5f} over seeds: {side} the seed noise"
    return (
        f"Merging {names} ({POOL_NAMES[merge['pool']]}) reaches test AUC "
        f"{merge['test_auc']:.5f}, {merge['auc_gain']:+z.5f} over the mean member ({verdict}), "
        f"and log loss {merge['test_logloss']:.5f}, {-merge['logloss_gain']:+z.5f} against it."
    )


def _seed_sd(scores: pd.DataFrame) -> float:
    """Sd of test AUC over seeds within a model, pooled over models; NaN for one seed a model."""
    return float(np.sqrt(scores.groupby("model")["test_auc"].var().mean()))


def _whole_groups(merged: pd.DataFrame, pool: str | None = None) -> pd.DataFrame:
    """The rows in which a group's members are all merged, by group; by default the first pool."""
    rows = merged[merged["pool"] == (pool or merged["pool"].iloc[0])]
    return rows.groupby("group", sort=False).tail(1).set_index("group")


def _members_of(group: str, scores: pd.DataFrame) -> pd.DataFrame:
    return scores if group == ALL else scores[scores["model"] == group]


def _name(member: pd.Series) -> str:
    return f"{member['model']} seed {member['seed']}"


def _gain_table(merged: pd.DataFrame) -> str:
    pools = list(merged["pool"].unique())
    header = ["group", "K", "subsets"]
    header += [f"AUC, {POOL_NAMES[pool]} (sd)" for pool in pools]
    header += [f"log loss, {POOL_NAMES[pool]} (sd)" for pool in pools]
    header += ["ambiguity A"]
    rows = []
    for (group, k), merges in merged.groupby(["group", "k"], sort=False):
        first = merges.iloc[0]
        rows.append(
            [
                group,
                str(k),
                f"{first['subsets']} of {first['subsets_possible']}",
                *(_with_sd(*gain, sign="+") for gain in merges[["auc_gain", "auc_gain_sd"]].values),
                *(
                    _with_sd(*gain, sign="+")
                    for gain in merges[["logloss_gain", "logloss_gain_sd"]].values
                ),
                f"{first['ambiguity']:z.5f}",
            ]
        )
    return _table(header, rows, "pipe")


def _subset_note(merged: pd.DataFrame) -> str:
    sampled = (merged["subsets"] < merged["subsets_possible"]).any()
    how = (
        f"Where not all subsets are scored, those that are were drawn at random (seed "
        f"{SUBSET_SEED})."
        if sampled
        else "All subsets are scored."
    )
    return (
        f"Positive is better. Each row is the mean over subsets of K members, each against the "
        f"mean of its own members. {how} Subsets overlap, so their sd is not that of independent "
        f"merges: it falls towards 0 as K nears the whole group."
    )


def _cost_table(scores: pd.DataFrame, groups: Sequence[str]) -> str:
    header = [
        "group",
        "members",
        "table parameters, mean member",
        "dense parameters, mean member",
        "multiply-adds a row, mean member",
        "multiply-adds a row, merged",
        "seconds, mean member",
        "seconds, all members",
    ]
    rows = []
    for group in groups:
        members = _members_of(group, scores)
        rows.append(
            [
                group,
                str(len(members)),
                f"{members['table_parameters'].mean():,.0f}",
                f"{members['dense_parameters'].mean():,.0f}",
                f"{members['macs_per_row'].mean():,.0f}",
                f"{members['macs_per_row'].sum():,.0f}",
                f"{members['seconds'].mean():,.1f}",
                f"{members['seconds'].sum():,.1f}",
            ]
        )
    return _table(header, rows, "pipe")


def _about_list(about: About) -> str:
    rows = ", ".join(
        f"{split} {count:,} ({about.positives[split] / count:.2%} positive)"
        for split, count in about.rows.items()
    )
    seeds = "; ".join(
        f"{model} {', '.join(map(str, seeds))}" for model, seeds in about.seeds.items()
    )
    lines = [f"rows: {rows}", f"seeds: {seeds}", f"arm: {about.arm}"]
    lines += [f"{name}: {'; '.join(values)}" for name, values in about.trained_on.items()]
    return "\n".join(f"- {line}" for line in lines)


def _with_sd(mean: float, sd: float, *, sign: str = "") -> str:
    return f"{mean:{sign}z.5f}" + ("" if math.isnan(sd) else f" ({sd:.5f})")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], style: str) -> str:
    if style == "pipe":  # a Markdown cell is one line
        header = [name.replace("\n", " ") for name in header]
    aligned = ["left"] + ["right"] * (len(header) - 1)
    return tabulate(rows, header, tablefmt=style, disable_numparse=True, colalign=aligned)
