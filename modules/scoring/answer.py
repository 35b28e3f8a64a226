"""The answer of a merge in words, every one of them computed from the tables."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from modules.scoring.budget import MERGED, best_model
from modules.scoring.groups import ALL, SELECTED
from modules.scoring.layout import interval, short
from modules.scoring.members import BASE
from modules.scoring.tables import Tables

OWN_COST = 1.05  # an arm that costs up to so much of its base is no bigger model


def answer(tables: Tables) -> str:
    """Who wins at each budget for the model best on validation, and what merging all gains.

    Nothing is chosen by its test score. A gain is within the noise where its interval contains 0
    or where it is not above the sd of single runs over seeds.
    """
    scores = tables.merged_members()
    model = best_model(scores)
    rows = tables.budget[tables.budget["group"] == model]
    against_base = rows[rows["against"] == BASE]
    base = against_base[against_base["contender"] == BASE].iloc[0]
    merges = against_base[against_base["contender"] == MERGED]
    arms = against_base[~against_base["contender"].isin([BASE, MERGED])]
    if merges.empty and arms.empty and len(scores) == 1:
        return (
            f"There is nothing to merge: one member, {_name(scores.iloc[0])}, at test AUC "
            f"{base['test_auc']:.5f} and log loss {base['test_logloss']:.5f}."
        )
    of_base = tables.about.arm == BASE
    who = f"The base, {model}" if of_base else f"{model}'s {tables.about.arm}"
    paragraphs = [
        f"{who} (the best on validation), has test AUC {base['test_auc']:.5f} and log "
        f"loss {base['test_logloss']:.5f}, the mean of {_seeds(base['runs'])}."
    ]
    bigger = arms[arms["factor"] > OWN_COST]
    paragraphs += _own_cost(arms.drop(bigger.index))
    paragraphs += _budgets(bigger, merges, rows[rows["against"].isin(bigger["contender"])])
    if bigger.empty and len(merges):
        paragraphs.append(_merge_alone(merges.iloc[-1], tables.about.arm))
    if bigger.empty and of_base:
        bigger_arms = "joint:2" if model == "lr" else "width:2,joint:2"  # LR has no width
        paragraphs.append(
            f"No bigger {model} was trained to compare with; `python trainer_group.py --dataset "
            f"{tables.about.dataset} --models {model} --arms {bigger_arms}`, with the --profile "
            f"and the --set of the base, trains some."
        )
    paragraphs += _own_settings(tables.about.own_settings)
    paragraphs += _tally(tables.budget)
    paragraphs += _several_models(tables, scores)
    paragraphs.append(_noise_note(base["auc_noise"]))
    return "\n\n".join(paragraphs)


def _own_cost(arms: pd.DataFrame) -> list[str]:
    """What arms gain that cost no more than their base."""
    if arms.empty:
        return []
    return [f"At the base's own multiply-adds: {_gains(arms)}."]


def _budgets(arms: pd.DataFrame, merges: pd.DataFrame, duels: pd.DataFrame) -> list[str]:
    """What each way to spend a budget gains, and who is ahead: a sentence a budget.

    A budget is that of K merged and the arms that are compared with them; or of an arm alone, as
    no merge costs about as much.
    """
    k_of = dict(zip(duels["against"], duels["k"], strict=True))
    budgets: dict[object, list[int]] = {}
    for place, arm in arms.sort_values("factor").iterrows():
        budgets.setdefault(k_of.get(arm["contender"], f"{arm['factor']:.1f}x"), []).append(place)
    return [
        _budget_sentence(arms.loc[sorted(places)], merges[merges["k"] == key], duels)
        for key, places in budgets.items()
    ]


def _budget_sentence(arms: pd.DataFrame, merge: pd.DataFrame, duels: pd.DataFrame) -> str:
    """One budget. merge: the row of the merge of this cost, if there is one."""
    if merge.empty:
        budget = f"At {arms['factor'].median():.1f}x the base's multiply-adds"
        return f"{budget}: {_gains(arms)}; no merge costs as much."
    duels = duels[duels["against"].isin(arms["contender"])]
    arms_of: dict[str, list[str]] = {}  # by verdict
    for _, duel in duels.iterrows():
        difference = f"{duel['auc_gain']:+z.5f} {interval(duel['auc_low'], duel['auc_high'])}"
        arms_of.setdefault(_ahead(duel), []).append(f"{duel['against']} ({difference})")
    verdicts = "; ".join(f"{verdict} {', '.join(names)}" for verdict, names in arms_of.items())
    return f"At {_merging(merge.iloc[0], BASE)}; {_gains(arms)}. At this cost merging {verdicts}."


def _gains(arms: pd.DataFrame) -> str:
    return "; ".join(f"{arm['contender']} {_gain(arm)}" for _, arm in arms.iterrows())


def _merging(merge: pd.Series, arm: str) -> str:
    """ "2.0x the base's multiply-adds: merging 2 x deepfm gains ... over base"."""
    return (
        f"{merge['factor']:.1f}x the {arm}'s multiply-adds: merging {merge['k']} x "
        f"{merge['group']} {_gain(merge)} over {arm}"
    )


def _merge_alone(merge: pd.Series, arm: str) -> str:
    loss = interval(merge["logloss_low"], merge["logloss_high"]) + _within(merge, "logloss")
    return f"At {_merging(merge, arm)}, and {merge['logloss_gain']:+z.5f} nats of log loss {loss}."


def _own_settings(arms: Iterable[str]) -> list[str]:
    """Which arms differ from their base in more than their size."""
    of_model: dict[str, list[str]] = {}
    for name in arms:
        model, _, arm = name.partition("/")
        of_model.setdefault(model, []).append(arm)
    said = "; ".join(f"{model} {', '.join(names)}" for model, names in of_model.items())
    return [f"Trained with settings of their own, which the report lists: {said}."] if said else []


def _tally(budget: pd.DataFrame) -> list[str]:
    """How often merging won at equal cost, over every model and arm."""
    duels = budget[budget["against"] != BASE]
    if duels["group"].nunique() < 2:
        return []
    auc, loss = duels["auc_verdict"].value_counts(), duels["logloss_verdict"].value_counts()
    return [
        f"Over all {len(duels)} comparisons of a merge with a bigger model at the nearest equal "
        f"cost, merging has the higher AUC in {auc.get('gain', 0)}, the lower in "
        f"{auc.get('loss', 0)}, and the difference is within the noise in {auc.get('noise', 0)}; "
        f"it has the lower log loss in {loss.get('gain', 0)}, the higher in "
        f"{loss.get('loss', 0)}, and within the noise are {loss.get('noise', 0)}."
    ]


def _several_models(tables: Tables, scores: pd.DataFrame) -> list[str]:
    """What merging members of different models gains over the base of the best one."""
    rows = tables.budget[tables.budget["group"] == ALL]
    if rows.empty:
        return []
    macs = scores.groupby("model")["macs_per_row"].mean()
    merge = rows[rows["contender"] == ALL].iloc[0]
    gain = _gain(merge, "gain", "lose")
    said = [f"all {merge['k']} members of {len(macs)} models ({_cost(merge, macs)}) {gain}"]
    chosen = rows[rows["contender"] == SELECTED]
    workers = scores["model"].value_counts().max()
    chosen = chosen[chosen["k"] <= workers]
    if len(chosen):
        pick = chosen.iloc[-1]
        gain = _gain(pick, "gain", "lose")
        said.append(f"{pick['k']} members chosen on validation ({_cost(pick, macs)}) {gain}")
    base, arm = rows.iloc[0]["base_model"], tables.about.arm
    return [f"Merging several models, against the {arm} of {base}: {'; '.join(said)}."]


def _cost(merge: pd.Series, macs: pd.Series) -> str:
    """The multiply-adds of a merge of several models, and those in the dearest one's."""
    factor = merge["macs_per_row"] / macs.max()
    return f"{short(merge['macs_per_row'])} multiply-adds a row, {factor:.1f}x {macs.idxmax()}"


def _noise_note(noise: float) -> str:
    if pd.isna(noise):
        over_seeds = "the base has one seed, so that the noise of its seeds is unknown"
    else:
        over_seeds = f"single members vary by sd {noise:.5f} over seeds"
    return (
        f"In brackets: 95 % intervals for these test rows and members, paired. Within noise: the "
        f"interval contains 0; within the noise of seeds: the gain is not above the sd over seeds "
        f"of single members or of single runs of the arm, whichever is larger. Here {over_seeds}."
    )


def _gain(row: pd.Series, gains: str = "gains", loses: str = "loses") -> str:
    """ "gains +0.00210 AUC [+0.00170, +0.00250]", with the verdict where it is noise.

    Or "loses 0.00040 AUC [0.00010, 0.00070]": the interval is that of the loss.
    """
    gain, low, high = (row[f"auc_{part}"] for part in ("gain", "low", "high"))
    within = _within(row, "auc")
    if gain >= 0:
        return f"{gains} {gain:+z.5f} AUC {interval(low, high)}{within}"
    return f"{loses} {-gain:z.5f} AUC [{-high:z.5f}, {-low:z.5f}]{within}"


def _ahead(duel: pd.Series) -> str:
    """The verdict on a merge against an arm."""
    level = f"is level{_within(duel, 'auc')} with"
    words = {"gain": "is ahead of", "loss": "is behind", "noise": level}
    return words[duel["auc_verdict"]]


def _within(row: pd.Series, metric: str) -> str:
    """Which noise a difference is within, if any: that of these rows, or only that of seeds."""
    if row[f"{metric}_verdict"] != "noise":
        return ""
    of_rows = row[f"{metric}_low"] <= 0 <= row[f"{metric}_high"]
    return " (within noise)" if of_rows else " (within the noise of seeds)"


def _seeds(count: int) -> str:
    return f"{count} seeds" if count > 1 else "one seed"


def _name(member: pd.Series) -> str:
    return f"{member['model']} seed {member['seed']}"
