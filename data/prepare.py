"""Raw click log -> encoded data set.

    python -m data.prepare avazu --raw PATH [--format parquet,tfrecord] [--vocabulary all|train]
    python -m data.prepare avazu --synthetic ROWS

The log is read once, as codes of its values; what follows needs only those: split, vocabulary,
shards. The data set is complete or absent, and one made from the same log in the same way is
not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.atomic import atomic_folder
from data.raw import RAW_FORMATS, RawFormat, raw_format, read_log
from data.schema import (
    LABEL,
    SCHEMA_FILE,
    SPLITS,
    DataError,
    RawFile,
    Rows,
    Schema,
    read_schema,
    write_schema,
)
from data.shards import SHARD_FORMATS, TRUTH_SPLITS, shard_format, shard_name, truth_name
from data.split import SPLIT_SEED, random_split
from data.synthetic import truth_path, write_log
from data.vocabulary import Interner, Vocabulary, build_vocabulary

VOCABULARIES = ("all", "train")
# A loader holds two shards: 2 x 160 MB at 39 fields.
SHARD_ROWS = 1_000_000


@dataclass(frozen=True)
class Settings:
    """What is made of a log.

    formats: of the shards. vocabulary: "all" counts values over every row, as the official code
    does, "train" over the training rows alone. shard_rows: the most rows of one shard.
    """

    formats: tuple[str, ...] = ("parquet",)
    vocabulary: str = "all"
    shard_rows: int = SHARD_ROWS


@dataclass(frozen=True)
class Source:
    """What a data set is made of. synthetic: the truth lies beside the log."""

    dataset: str
    file: RawFile
    synthetic: bool


@dataclass(frozen=True)
class CodedLog:
    """A log in memory. codes: (rows, F) int32. labels: (rows,) uint8."""

    codes: np.ndarray
    labels: np.ndarray
    interner: Interner


def prepare(
    dataset: str,
    raw: Path,
    output: Path,
    settings: Settings = Settings(),
    *,
    force: bool = False,
) -> Schema:
    """Make the encoded data set of a raw log in the folder `output`; return its schema.

    One that is complete is left alone unless `force` is set, another one is replaced.
    Raise `DataError` for input that cannot be used; the folder is then as it was.
    """
    started = time.perf_counter()
    log_format = raw_format(dataset)
    source = Source(dataset, _identify(raw, dataset), truth_path(raw).exists())
    older = _older(output, raw)
    if older and not force and _is_complete(older, output, source, settings):
        print(f"{output} is complete ({_summary(older)}): nothing to do")
        return older

    log = _read_coded(raw, log_format)
    truth = _read_truth(raw, len(log.labels)) if source.synthetic else None
    splits = random_split(len(log.labels))
    counted = log.codes if settings.vocabulary == "all" else log.codes[splits["train"]]
    vocabulary = build_vocabulary(log.interner, counted, log_format.thresholds)
    schema = _describe(source, settings, vocabulary, splits, log.labels)
    if (output / SCHEMA_FILE).exists():
        print(f"replacing {output} ({_summary(older) if older else 'which could not be read'})")
    with atomic_folder(output, replace=True) as folder:
        for split in SPLITS:
            _write_shards(folder, split, splits[split], log, vocabulary, settings)
        if truth is not None:
            for split in TRUTH_SPLITS:
                np.save(folder / truth_name(split), truth[splits[split]], allow_pickle=False)
        write_schema(schema, folder)
    _report(schema, output, time.perf_counter() - started)
    return schema


def plant(dataset: str, rows: int, seed: int) -> Path:
    """The synthetic log of these arguments, written under data/raw unless it is there."""
    name = f"synthetic-{rows}-seed-{seed}{raw_format(dataset).suffix}"
    path = Path("data/raw") / dataset / name
    if path.exists() and truth_path(path).exists():
        print(f"using the synthetic log {path}")
    else:
        print(f"writing the synthetic log {path}")
        write_log(dataset, path, rows, seed)
    return path


# ------------------------------------------------------ what is there already


def _identify(raw: Path, dataset: str) -> RawFile:
    if not raw.is_file():
        raise DataError(f"{raw} is not a file; give the {dataset} log with --raw PATH")
    with raw.open("rb") as file:
        return RawFile(raw.name, hashlib.file_digest(file, "sha256").hexdigest())


def _older(output: Path, raw: Path) -> Schema | None:
    """The schema of the data set in `output`, None if there is none that can be read.

    Raise `DataError` where replacing the folder would delete something else.
    """
    if output.resolve() in raw.resolve().parents:
        raise DataError(f"{raw} lies in {output}, which would be replaced; choose another --output")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if not (output / SCHEMA_FILE).exists():
        raise DataError(
            f"{output} exists and is no encoded data set (it has no {SCHEMA_FILE}); "
            f"remove it or choose another --output"
        )
    try:
        return read_schema(output)
    except DataError:
        return None


def _is_complete(older: Schema, output: Path, source: Source, settings: Settings) -> bool:
    """Whether `output` is what would be made now: same log, same settings, every file there."""
    expected = {
        shard_name(split, number, file_format)
        for split in SPLITS
        for file_format in settings.formats
        for number in range(-(-older.rows[split] // settings.shard_rows))
    }
    if source.synthetic:
        expected |= {truth_name(split) for split in TRUTH_SPLITS}
    suffixes = (*SHARD_FORMATS, "npy")
    found = {path.name for suffix in suffixes for path in output.glob(f"*.{suffix}")}
    thresholds = {field.name: field.threshold for field in older.fields}
    return (
        older.dataset == source.dataset
        and [file.sha256 for file in older.raw] == [source.file.sha256]
        and older.vocabulary == settings.vocabulary
        and thresholds == raw_format(source.dataset).thresholds
        and found == expected
    )


def _summary(schema: Schema) -> str:
    rows = sum(schema.rows.values())
    names = ", ".join(file.name for file in schema.raw)
    return f"{schema.dataset}, {rows:,} rows of {names}, vocabulary {schema.vocabulary}"


# ---------------------------------------------------------------------- steps


def _read_coded(raw: Path, log_format: RawFormat) -> CodedLog:
    interner = Interner(tuple(log_format.fields))
    codes, labels = [], []
    for chunk in read_log(raw, log_format):
        codes.append(interner.codes(chunk))
        labels.append(chunk[LABEL].to_numpy())
    return CodedLog(np.concatenate(codes), np.concatenate(labels), interner)


def _read_truth(raw: Path, rows: int) -> np.ndarray:
    """The true probabilities (rows,) float64 beside a synthetic log."""
    path = truth_path(raw)
    try:
        truth: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: not an array ({error}); remove it and the log") from error
    if truth.shape != (rows,):
        raise DataError(
            f"{path}: an array of shape {truth.shape} beside a log of {rows} rows; is it the "
            f"truth of another log? Remove it, or both to plant them again"
        )
    return truth.astype(np.float64, copy=False)


def _describe(
    source: Source,
    settings: Settings,
    vocabulary: Vocabulary,
    splits: Mapping[str, np.ndarray],
    labels: np.ndarray,
) -> Schema:
    return Schema(
        dataset=source.dataset,
        fields=vocabulary.fields,
        vocabulary=settings.vocabulary,
        split={"rule": "random 8:1:1", "seed": SPLIT_SEED},
        rows={split: len(splits[split]) for split in SPLITS},
        positives={split: _count_positives(split, labels[splits[split]]) for split in SPLITS},
        raw=(source.file,),
        synthetic=source.synthetic,
    )


def _count_positives(split: str, labels: np.ndarray) -> int:
    positives = int(np.count_nonzero(labels))
    for number, what in ((positives, "positive"), (len(labels) - positives, "negative")):
        if number == 0:
            raise DataError(
                f"split '{split}' has no {what} row ({len(labels)} rows, {positives} positives); "
                f"give a longer log"
            )
    return positives


def _write_shards(
    folder: Path,
    split: str,
    split_rows: np.ndarray,
    log: CodedLog,
    vocabulary: Vocabulary,
    settings: Settings,
) -> None:
    names = log.interner.field_names
    for number, start in enumerate(range(0, len(split_rows), settings.shard_rows)):
        picked = split_rows[start : start + settings.shard_rows]
        rows = Rows(vocabulary.encode(log.codes[picked]), log.labels[picked])
        for file_format in settings.formats:
            path = folder / shard_name(split, number, file_format)
            shard_format(path).write_shard(path, names, rows)


def _report(schema: Schema, output: Path, seconds: float) -> None:
    for split in SPLITS:
        rows, positives = schema.rows[split], schema.positives[split]
        print(f"  {split:5} {rows:>12,} rows, {positives / rows:.2%} positive")
    rows = sum(schema.rows.values())
    print(
        f"{output}: {rows:,} rows, {schema.num_fields} fields, {schema.num_features:,} features "
        f"in {seconds:.1f} s ({rows / seconds:,.0f} rows/s)"
    )


# -------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    arguments = _parse_arguments(argv)
    try:
        raw = arguments.raw or plant(arguments.dataset, arguments.synthetic, arguments.seed)
        output = arguments.output or Path("data/encoded") / arguments.dataset
        settings = Settings(arguments.format, arguments.vocabulary, arguments.shard_rows)
        prepare(arguments.dataset, raw, output, settings, force=arguments.force)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare", description="Make the encoded data set of a raw click log."
    )
    parser.add_argument("dataset", choices=list(RAW_FORMATS))
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--raw", type=Path, metavar="PATH", help="the log, plain or gzipped")
    source.add_argument(
        "--synthetic", type=_positive, metavar="ROWS", help="plant a log of that many rows instead"
    )
    parser.add_argument("--seed", type=int, default=2021, help="of the synthetic log (2021)")
    parser.add_argument(
        "--format",
        type=_formats,
        default=("parquet",),
        metavar="NAME[,NAME]",
        help=f"of the shards: {', '.join(SHARD_FORMATS)} (parquet)",
    )
    parser.add_argument(
        "--vocabulary",
        choices=VOCABULARIES,
        default="all",
        help="count values over all rows (official) or the training rows alone (all)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="the folder (data/encoded/DATASET)"
    )
    parser.add_argument(
        "--shard-rows", type=_positive, default=SHARD_ROWS, help=f"rows of a shard ({SHARD_ROWS})"
    )
    parser.add_argument("--force", action="store_true", help="make it again even if complete")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in SHARD_FORMATS:
            known = ", ".join(SHARD_FORMATS)
            raise argparse.ArgumentTypeError(f"unknown format '{name}'; known are {known}")
    return names


if __name__ == "__main__":
    sys.exit(main())
