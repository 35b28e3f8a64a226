"""Score rows with trained members and their merge.

    python -m data.prepare --like data/encoded/avazu --raw new.csv
    python scripts/score.py --dataset avazu --data data/encoded/avazu-new --output scores.parquet

The rows must have the ids that the members were trained with: those of their own data set or of one
prepared --like it. The output has a row for each row of the split, in file order: the merged click
probability, the mean of the members', and that of every member.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.atomic import check_writable
from data.loader import Loader, read_labels
from data.schema import SPLITS, Schema, read_schema
from modules.config import RunConfig
from modules.group import USER_ERRORS
from modules.names import split_names
from modules.runs import Member, RunError, find_members, read_settings
from modules.scoring.members import MIX
from modules.scoring.metrics import auc, logloss, sigmoids
from modules.scoring.pools import probability_mean
from modules.training import Streams, build_placed_network, predict_logits, resolve_device
from modules.weights import load_weights


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    try:
        schema = read_schema(args.data)
        members = find_members(args.runs, args.dataset, args.models)
        members = _members_of(members, args.arm, args.models or (), schema)
        # Before the work, should it fail.
        if args.output.is_dir():
            raise RunError(f"--output {args.output} is a folder; name a Parquet file in it")
        if args.output.suffix != ".parquet":
            raise RunError(f"--output {args.output}: scores are Parquet; name it NAME.parquet")
        check_writable(args.output.parent)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        device = resolve_device(args.device)
        loader = Loader(args.data, args.split, batch_size=4096, schema=schema)
        logits = np.stack([_score(member, schema, loader, device) for member in members])
        weights = np.full((1, len(members)), 1 / len(members))
        named = {"merged": probability_mean(weights, logits.astype(np.float64))[0]}
        named |= {member.name: row for member, row in zip(members, logits, strict=True)}
        labels = read_labels(args.data, args.split, schema)
        for name, values in named.items():
            print(f"{name}: {_metrics(labels, values)}")
        columns = {name: sigmoids(values)[0].astype(np.float32) for name, values in named.items()}
        partial = args.output.with_suffix(".partial")
        pd.DataFrame(columns).to_parquet(partial, index=False)
        partial.replace(args.output)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what was there before is unchanged", file=sys.stderr)
        return 130
    print(f"{len(labels):,} rows of {args.data}: {args.output}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="of the members, as in runs/")
    parser.add_argument("--data", type=Path, required=True, help="the encoded rows")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--models", type=split_names, help="default: all trained")
    parser.add_argument("--arm", default="base")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--output", type=Path, required=True, help="a Parquet file")
    return parser.parse_args(argv)


def _members_of(
    members: Sequence[Member], arm: str, models: Sequence[str], schema: Schema
) -> list[Member]:
    """The members of an arm that know the ids of `schema`; there are some of each of `models`."""
    origin = schema.like["fingerprint"] if schema.like else schema.fingerprint
    known = [member for member in members if member.fingerprint == origin]
    if not known:
        raise RunError(
            f"none of the {len(members)} members under {members[0].folder.parents[2]} was trained "
            f"with the ids of these rows; encode them --like the members' data set"
        )
    if len(known) < len(members):
        unknown = f"{len(members) - len(known)} of {len(members)} members"
        print(f"left out: {unknown}, trained with other ids")
    chosen = [member for member in known if member.arm == arm]
    plain = [member for member in chosen if MIX not in member.model]
    if plain and not models:  # as merge.py, which merges no models that were trained as one
        chosen = plain
    missing = set(models) - {member.model for member in chosen}
    if missing or not chosen:
        of = f" of {', '.join(sorted(missing))}" if missing else ""
        there = ", ".join(sorted({f"{member.model}/{member.arm}" for member in known}))
        raise RunError(f"no member{of} in arm '{arm}'; there are: {there}")
    return chosen


def _score(member: Member, schema: Schema, loader: Loader, device: torch.device) -> np.ndarray:
    """Logits (rows,) of one member."""
    config = RunConfig.from_dict(read_settings(member.folder))
    network = build_placed_network(config, schema, Streams.of(config.seed), device)
    load_weights(network, member.folder)
    return predict_logits(network, loader)


def _metrics(labels: np.ndarray, logits: np.ndarray) -> str:
    """ "AUC 0.7, log loss 0.4"; rows of one class have no AUC."""
    loss = f"log loss {logloss(labels, logits):.5f}"
    return f"AUC {auc(labels, logits):.5f}, {loss}" if 0 < labels.mean() < 1 else loss


if __name__ == "__main__":
    sys.exit(main())
