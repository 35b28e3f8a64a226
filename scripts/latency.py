"""Measure the latency of trained members again, in turns, and write it into their reports.

    python scripts/latency.py --dataset criteo

What a member reports was measured after its training, perhaps beside another one, or hours before
the member it is compared with. This builds every architecture and arm once a round, one after the
other and without training anything. Run it with nothing else on the machine, then merge.py. Members
that were trained on several encodings of the log need the folders of all: --data A B.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.schema import Schema, read_schema
from modules.config import RunConfig
from modules.cost import measure_latency_ms
from modules.group import USER_ERRORS
from modules.provenance import describe_machine
from modules.runs import Member, RunError, find_members, read_member, read_settings
from modules.training import Streams, build_placed_network, resolve_device


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data", type=Path, nargs="+", help="default: data/encoded/DATASET")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--rounds", type=int, default=3, help="their median counts")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: at least 1")
    try:
        folders = args.data or [Path("data/encoded") / args.dataset]
        schemas = {schema.fingerprint: schema for schema in map(read_schema, folders)}
        members = find_members(args.runs, args.dataset)
        alike = _alike(members, schemas)
        device = resolve_device(args.device)
        rounds = [_measure(alike, schemas, device) for _ in range(args.rounds)]
        for found, *measured in zip(alike.values(), *rounds, strict=True):
            _store(found, measured, device)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what was there before is unchanged", file=sys.stderr)
        return 130
    left = len(members) - sum(map(len, alike.values()))
    if left:
        print(f"{left} members of other data are left as they are; name it by --data")
    return 0


def _alike(
    members: Sequence[Member], schemas: Mapping[str, Schema]
) -> dict[tuple[str, str], list[Member]]:
    """The members of these data by what was built for them.

    That is the fingerprint of their data and their settings, but for the seed.
    """
    alike = defaultdict(list)
    for member in members:
        if member.fingerprint in schemas:
            settings = read_settings(member.folder)
            alike[member.fingerprint, json.dumps(settings | {"seed": 0})].append(member)
    if not alike:
        raise RunError(
            f"all {len(members)} members under {members[0].folder.parents[2]} were trained on "
            f"other data than this; name theirs by --data"
        )
    return dict(alike)


def _measure(
    alike: Iterable[tuple[str, str]], schemas: Mapping[str, Schema], device: torch.device
) -> list[float]:
    """Milliseconds of each."""
    times = []
    for fingerprint, settings in alike:
        config, schema = RunConfig.from_dict(json.loads(settings)), schemas[fingerprint]
        network = build_placed_network(config, schema, Streams.of(config.seed), device)
        times.append(measure_latency_ms(network, schema))
    return times


def _store(found: Sequence[Member], measured: Sequence[float], device: torch.device) -> None:
    """Write the median into the reports of members that were built alike, and print it."""
    before = [member.report.get("latency_ms", float("nan")) for member in found]
    latency = {"latency_ms": median(measured), "latency_machine": describe_machine(device)}
    for member in found:
        _rewrite_report(member, member.report | latency)
    print(
        f"{found[0].model}/{found[0].arm}: {median(measured):.2f} ms "
        f"({min(measured):.2f} to {max(measured):.2f}; {len(found)} members reported "
        f"{min(before):.2f} to {max(before):.2f})"
    )


def _rewrite_report(member: Member, report: dict[str, Any]) -> None:
    """Replace the report in one step, so that a stopped process leaves the old or the new one.

    Raises `RunError` where the member was trained again since it was read.
    """
    if read_member(member.folder).report != member.report:
        raise RunError(f"{member.folder} was trained again meanwhile; measure it once more")
    path = member.folder / "report.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
