"""Raw click log -> encoded data set.

    python -m data.prepare avazu --raw PATH [--format parquet,tfrecord] [--vocabulary all|train]
    python -m data.prepare avazu --synthetic ROWS
    python -m data.prepare NAME --log my_log.yaml
    python -m data.prepare --like data/encoded/avazu --raw new.csv

The log is read once, as codes of its texts, which go to disk column by column; what follows needs
only those: the codes of one column after another, put in the order of the split, the vocabulary,
and shard after shard, written with the ids that it has for the codes. So memory holds the
distinct texts, the split's row numbers and a few columns, never the log. The data set is complete
or absent, and one made from the same log in the same way is not made again.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import re
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import polars as pl
from tqdm import tqdm

from data.atomic import atomic_folder
from data.log import Log, official_log
from data.own_chunks import read_own_chunks
from data.own_log import like_log, read_own_log
from data.raw import RAW_FORMATS, RawFormat, raw_format, root
from data.reading import read_chunks
from data.schema import (
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
from data.spill import Spill
from data.split import SplitRule, split_rows
from data.synthetic import truth_path, write_log
from data.threads import map_ahead
from data.tokens import Interner
from data.vocabulary import (
    VOCABULARY_FILE,
    Vocabulary,
    build_vocabulary,
    reuse_vocabulary,
    write_vocabulary,
)

VOCABULARIES = ("all", "train")
# A loader holds two shards: 2 x 160 MB at 39 fields.
SHARD_ROWS = 1_000_000
# Rows that are gathered at a time: few enough for the caches, many enough for a call.
PIECE_ROWS = 1 << 16
# Free bytes of a disk on which a failed write met its end.
MOSTLY_FULL = 1 << 20
ENCODED = Path("data/encoded")
# Within the folder being made; removed before it is complete.
SCRATCH = ".scratch"


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
class Base:
    """A data set whose ids other rows are given."""

    folder: Path
    schema: Schema

    @property
    def origin(self) -> dict[str, str]:
        """The data set that these ids come from: this one, or the one it was encoded like."""
        own = {"dataset": self.schema.dataset, "fingerprint": self.schema.fingerprint}
        return dict(self.schema.like or own)


@dataclass(frozen=True)
class Source:
    """What a data set is made of. synthetic: the truth lies beside the log."""

    log: Log
    identity: Future[tuple[RawFile, ...]]
    synthetic: bool
    base: Base | None

    @property
    def files(self) -> tuple[RawFile, ...]:
        """The names and hashes of the log's files, which may have to be waited for."""
        return self.identity.result()


@dataclass(frozen=True)
class CodedLog:
    """A log that was read. interners: of each used column, whose codes the spill has on disk."""

    log_format: RawFormat
    spill: Spill
    rows_of_files: tuple[int, ...]
    interners: dict[str, Interner]

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(self.rows_of_files)

    def codes(self, column: str) -> np.ndarray:
        """The codes (rows,) of a column."""
        return self.spill.column(self.number(column))

    def numbers(self, expression: pl.Expr, dtype: type[pl.DataType]) -> np.ndarray:
        """What an expression over one column gives for each row, (rows,)."""
        column = root(expression)
        texts = pl.DataFrame({column: self.interners[column].values()})
        table = texts.select(expression.cast(dtype)).to_series().to_numpy()
        numbers: np.ndarray = table.take(self.codes(column))
        return numbers

    @property
    def field_columns(self) -> list[str]:
        """The columns that a field depends on."""
        return list(dict.fromkeys(map(root, self.log_format.fields.values())))

    def number(self, column: str) -> int:
        """The place of a column among the used ones."""
        return list(self.interners).index(column)


def prepare(
    dataset: str,
    raw: Path,
    output: Path,
    settings: Settings = Settings(),
    *,
    force: bool = False,
) -> Schema:
    """Make the encoded data set of a log in an official format; see `prepare_log`."""
    return prepare_log(official_log(dataset, raw), output, settings, force=force)


def prepare_like(
    folder: Path,
    raw: Sequence[Path],
    output: Path,
    settings: Settings = Settings(),
    *,
    force: bool = False,
) -> Schema:
    """Encode other rows with the recipe, fields and ids of the data set in `folder`.

    Values without an id there get the unknown one of their field. Every row goes to the split
    `test`; the data set is called as its folder `output`. See `prepare_log`.
    """
    base = Base(folder, read_schema(folder))
    if base.schema.log is None:
        official = raw_format(base.origin["dataset"])
        log = Log(output.name, tuple(raw), official, SplitRule("test"))
    else:
        log = like_log(base.schema, folder, output.name, raw)
    settings = replace(settings, vocabulary=base.schema.vocabulary)
    return prepare_log(log, output, settings, base=base, force=force)


def prepare_log(
    log: Log,
    output: Path,
    settings: Settings = Settings(),
    *,
    base: Base | None = None,
    force: bool = False,
) -> Schema:
    """Make the encoded data set of a log in the folder `output`; return its schema.

    base: the data set whose ids are used; None to give ids by the log's own values. A data set
    that is complete is left alone unless `force` is set, another one is replaced. Raise
    `DataError` for input that cannot be used and a full disk; the folder is then as it was.
    """
    started = time.perf_counter()
    for path in log.files:
        if not path.is_file():
            raise DataError(f"{path} is not a file; give the {log.dataset} log with --raw PATH")
    older = _older(output, [*log.files, *([base.folder / SCHEMA_FILE] if base else [])])
    # The log is hashed while it is read, unless its hash may show that there is nothing to do.
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as hasher:
        synthetic = all(truth_path(path).exists() for path in log.files)
        source = Source(log, hasher.submit(_identify, log.files), synthetic, base)
        if older and not force and _is_complete(older, output, source, settings):
            print(f"{output} is complete ({_summary(older)}): nothing to do")
            return older
        if (output / SCHEMA_FILE).exists():
            print(f"replacing {output} ({_summary(older) if older else 'which could not be read'})")
        with atomic_folder(output, replace=True) as folder, _full_disk_named(output, folder):
            schema = _make(folder, source, settings)
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


def _identify(files: Sequence[Path]) -> tuple[RawFile, ...]:
    found = []
    for path in files:
        with path.open("rb") as file:
            found.append(RawFile(path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    return tuple(found)


def _older(output: Path, needed: Sequence[Path]) -> Schema | None:
    """The schema of the data set in `output`, None if there is none that can be read.

    Raise `DataError` where replacing the folder would delete something else.
    """
    for path in needed:
        if output.resolve() in path.resolve().parents:
            raise DataError(
                f"{path} lies in {output}, which would be replaced; choose another --output"
            )
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
    expected = {VOCABULARY_FILE} | {
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
    log, base = source.log, source.base
    return (
        older.dataset == log.dataset
        and older.log == log.description
        and older.split == log.split.describe()
        and older.like == (base.origin if base else None)
        and (base is not None or thresholds == log.format.thresholds)
        and older.vocabulary == settings.vocabulary
        and found == expected
        and [file.sha256 for file in older.raw] == [file.sha256 for file in source.files]
    )


def _summary(schema: Schema) -> str:
    rows = sum(schema.rows.values())
    names = ", ".join(file.name for file in schema.raw[:3])
    names += f" and {len(schema.raw) - 3} more files" if len(schema.raw) > 3 else ""
    return f"{schema.dataset}, {rows:,} rows of {names}, vocabulary {schema.vocabulary}"


# ---------------------------------------------------------------------- steps


@contextmanager
def _full_disk_named(output: Path, folder: Path) -> Iterator[None]:
    """Raise `DataError` where the disk of `folder`, which is to become `output`, is full."""
    try:
        yield
    except OSError as error:
        # numpy says only how many bytes it could not write.
        if error.errno != errno.ENOSPC and shutil.disk_usage(folder).free >= MOSTLY_FULL:
            raise
        raise DataError(
            f"{output}: no space left on its disk ({error}); free some, or choose a folder on "
            f"another disk with --output. What was there before is unchanged"
        ) from error


def _make(folder: Path, source: Source, settings: Settings) -> Schema:
    """Write the files of the data set into `folder`, by way of a scratch folder within it."""
    scratch = folder / SCRATCH
    scratch.mkdir()
    log_format, base = source.log.format, source.base
    # The vocabulary takes one thread long, so it is made while others order codes, and written
    # while they write shards.
    with (
        Spill(scratch, len(log_format.used_columns)) as spill,
        ThreadPoolExecutor(1, thread_name_prefix="vocabulary") as pool,
    ):
        log = _read_coded(source.log, spill)
        counts = {name: interner.counts for name, interner in log.interners.items()}
        if base:
            started = pool.submit(
                reuse_vocabulary, log_format, log.interners, base.folder, base.schema.fields
            )
        elif settings.vocabulary == "all":
            started = pool.submit(build_vocabulary, log_format, log.interners, counts)
        labels = log.numbers(log_format.label, pl.UInt8)
        time_of_row = source.log.own.time if source.log.own else None
        times = None if time_of_row is None else log.numbers(time_of_row, pl.Int64)
        splits = split_rows(source.log.split, labels, times, log.rows_of_files)
        _order_codes(scratch, splits, log)
        if not base and settings.vocabulary == "train":
            counts = _count(scratch, len(splits["train"]), log)
            started = pool.submit(build_vocabulary, log_format, log.interners, counts)
        vocabulary = started.result()
        schema = _describe(source, settings, vocabulary, splits, labels)
        written = [pool.submit(write_vocabulary, vocabulary, folder)]
        if source.synthetic:
            written.append(pool.submit(_write_truths, source.log.files, log, splits, folder))
        _write_shards(folder, splits, labels, log, vocabulary, settings)
        for each in written:
            each.result()
    shutil.rmtree(scratch)
    write_schema(schema, folder)
    return schema


def _read_coded(log: Log, spill: Spill) -> CodedLog:
    interners = {name: Interner() for name in log.format.used_columns}
    rows_of_files = []
    with _progress("reading") as bar:
        for path in log.files:
            rows = 0
            for chunk in _read(path, log, interners):
                spill.append(chunk)
                rows += len(chunk[0])
                bar.update(len(chunk[0]))
            rows_of_files.append(rows)
    return CodedLog(log.format, spill, tuple(rows_of_files), interners)


def _read(path: Path, log: Log, interners: Mapping[str, Interner]) -> Iterator[list[np.ndarray]]:
    """The codes of the used columns, chunk by chunk of a file."""
    if log.own:
        return read_own_chunks(path, log, interners)
    return read_chunks(path, log.format, interners)


def _order_codes(scratch: Path, splits: Mapping[str, np.ndarray], log: CodedLog) -> None:
    """Write for each column of a field a file of the codes of all rows, split after split.

    A column at a time, so that the rows can be gathered in any order from memory.
    """

    def order_column(name: str) -> None:
        codes = log.codes(name)
        log.spill.drop(log.number(name))
        with _codes_file(scratch, log.number(name)).open("wb") as file:
            for split in SPLITS:
                for start in range(0, len(splits[split]), PIECE_ROWS):
                    file.write(codes.take(splits[split][start : start + PIECE_ROWS]).data)

    columns = log.field_columns
    with _progress("ordering", log.rows) as bar:
        for done, _ in enumerate(map_ahead(order_column, columns), start=1):
            bar.update(log.rows * done // len(columns) - bar.n)


def _count(scratch: Path, rows: int, log: CodedLog) -> dict[str, np.ndarray]:
    """Column -> how often each of its texts occurs, by code, in the first of the ordered rows."""
    counts = {name: np.zeros(len(log.interners[name]), np.int64) for name in log.field_columns}
    for name, counted in counts.items():
        for start in range(0, rows, PIECE_ROWS):
            part = _read_codes(scratch, log, name, start, min(PIECE_ROWS, rows - start))
            np.add.at(counted, part, 1)
    return counts


def _read_codes(scratch: Path, log: CodedLog, name: str, start: int, rows: int) -> np.ndarray:
    """The codes of some of the ordered rows."""
    path, dtype = _codes_file(scratch, log.number(name)), log.interners[name].dtype
    return np.fromfile(path, dtype, rows, offset=start * dtype.itemsize)


def _codes_file(scratch: Path, number: int) -> Path:
    return scratch / f"ordered-{number}"


def _write_truths(
    files: Sequence[Path], log: CodedLog, splits: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Write the true probabilities of the splits that have them."""
    truths = [_read_truth(*each) for each in zip(files, log.rows_of_files, strict=True)]
    truth = truths[0] if len(truths) == 1 else np.concatenate(truths)
    for split in TRUTH_SPLITS:
        np.save(folder / truth_name(split), truth[splits[split]].astype(np.float64))


def _read_truth(raw: Path, rows: int) -> np.ndarray:
    """The true probabilities (rows,) beside a synthetic log."""
    path = truth_path(raw)
    try:
        truth: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: not an array ({error}); remove it and the log") from error
    if truth.shape != (rows,):
        raise DataError(
            f"{path}: an array of shape {truth.shape} beside a log of {rows} rows; is it the "
            f"truth of another log? Remove it, or both to plant them again"
        )
    return truth


def _describe(
    source: Source,
    settings: Settings,
    vocabulary: Vocabulary,
    splits: Mapping[str, np.ndarray],
    labels: np.ndarray,
) -> Schema:
    return Schema(
        dataset=source.log.dataset,
        fields=vocabulary.fields,
        vocabulary=settings.vocabulary,
        split=source.log.split.describe(),
        rows={split: len(splits[split]) for split in SPLITS},
        positives={
            split: _count_positives(split, labels[splits[split]], refuse=source.base is None)
            for split in SPLITS
        },
        raw=source.files,
        synthetic=source.synthetic,
        log=source.log.description,
        like=source.base.origin if source.base else None,
    )


def _count_positives(split: str, labels: np.ndarray, *, refuse: bool) -> int:
    """How many rows were clicked; `refuse` a split of one class, which no AUC can be had of."""
    positives = int(np.count_nonzero(labels))
    for number, what in ((positives, "positive"), (len(labels) - positives, "negative")):
        if refuse and number == 0:
            raise DataError(
                f"split '{split}' has no {what} row ({len(labels)} rows, {positives} positives); "
                f"give a longer log, or one that is split in another way"
            )
    return positives


def _write_shards(
    folder: Path,
    splits: Mapping[str, np.ndarray],
    labels: np.ndarray,
    log: CodedLog,
    vocabulary: Vocabulary,
    settings: Settings,
) -> None:
    """Write the shards of every split, several at a time, from the files of `_order_codes`."""
    names = tuple(log.log_format.fields)
    columns = [root(expression) for expression in log.log_format.fields.values()]

    def write_shard(shard: tuple[str, int, int]) -> int:
        split, number, begin = shard
        start = number * settings.shard_rows
        picked = splits[split][start : start + settings.shard_rows]

        def pieces() -> Iterator[Rows]:
            for first in range(0, len(picked), PIECE_ROWS):
                part = picked[first : first + PIECE_ROWS]
                ids = np.empty((len(names), len(part)), dtype=np.int32)
                for column, table, own in zip(columns, vocabulary.tables, ids, strict=True):
                    row = begin + start + first
                    codes = _read_codes(folder / SCRATCH, log, column, row, len(part))
                    table.take(codes, out=own, mode="clip")
                yield Rows(ids.T, labels[part])

        for file_format in settings.formats:
            path = folder / shard_name(split, number, file_format)
            shard_format(path).write_shard(path, names, pieces())
        return len(picked)

    shards, begin = [], 0
    for split in SPLITS:
        numbers = range(-(-len(splits[split]) // settings.shard_rows))
        shards += [(split, number, begin) for number in numbers]
        begin += len(splits[split])
    with _progress("writing", len(labels)) as bar:
        for rows in map_ahead(write_shard, shards):
            bar.update(rows)


def _progress(phase: str, rows: int | None = None) -> tqdm[NoReturn]:
    """A bar of the rows of a phase, shown on a terminal only."""
    return tqdm(total=rows, desc=phase, unit=" rows", unit_scale=True, disable=None, leave=False)


def _peak_memory() -> float:
    """The most memory that this process has held, in GiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Unlike getrusage, this does not count what the parent held when it started us.
        (line,) = (line for line in status.read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) / (1 << 20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, KiB elsewhere.
    return float(peak / (1 << 30 if sys.platform == "darwin" else 1 << 20))


def _report(schema: Schema, output: Path, seconds: float) -> None:
    for split in filter(schema.rows.get, SPLITS):
        rows, positives = schema.rows[split], schema.positives[split]
        print(f"  {split:5} {rows:>12,} rows, {positives / rows:.2%} positive")
    rows = sum(schema.rows.values())
    print(
        f"{output}: {rows:,} rows, {schema.num_fields} fields, {schema.num_features:,} features "
        f"in {seconds:.1f} s ({rows / seconds:,.0f} rows/s), "
        f"peak memory {_peak_memory():.2f} GiB"
    )


# -------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    arguments = _parse_arguments(argv)
    try:
        _run(arguments)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what was there before is unchanged", file=sys.stderr)
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    settings = Settings(arguments.format, arguments.vocabulary or "all", arguments.shard_rows)
    name, raw = arguments.dataset, arguments.raw
    if arguments.like:
        name = name or f"{arguments.like.resolve().name}-{raw[0].name.partition('.')[0]}"
        output = arguments.output or ENCODED / name
        prepare_like(arguments.like, raw, output, settings, force=arguments.force)
        return
    if arguments.log:
        log = read_own_log(arguments.log, name, raw)
    else:
        log = official_log(name, *(raw or [plant(name, arguments.synthetic, arguments.seed)]))
    prepare_log(log, arguments.output or ENCODED / name, settings, force=arguments.force)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare", description="Make the encoded data set of a raw click log."
    )
    parser.add_argument(
        "dataset", nargs="?", help=f"{', '.join(RAW_FORMATS)}, or a name for your own log"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--raw", type=Path, nargs="+", metavar="PATH", default=[], help="the log, plain or gzipped"
    )
    source.add_argument(
        "--synthetic", type=_positive, metavar="ROWS", help="plant a log of that many rows instead"
    )
    recipe = parser.add_mutually_exclusive_group()
    recipe.add_argument(
        "--log", type=Path, metavar="YAML", help="describes your own log; --raw replaces its files"
    )
    recipe.add_argument(
        "--like", type=Path, metavar="DIR", help="encode --raw with the ids of this data set"
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
        help="count values over all rows (official) or the training rows alone (all)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="the folder (data/encoded/DATASET)"
    )
    parser.add_argument(
        "--shard-rows", type=_positive, default=SHARD_ROWS, help=f"rows of a shard ({SHARD_ROWS})"
    )
    parser.add_argument("--force", action="store_true", help="make it again even if complete")
    arguments = parser.parse_args(argv)
    if wrong := _misfit(arguments):
        parser.error(wrong)
    return arguments


def _misfit(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the arguments taken together, None if nothing is."""
    name, own = arguments.dataset, arguments.log or arguments.like
    if own and arguments.synthetic:
        return "--synthetic plants an official log: not allowed with --log or --like"
    if arguments.like:
        if not arguments.raw:
            return "--like needs the rows to encode: --raw PATH"
        if arguments.vocabulary:
            return "--like uses the vocabulary there is: --vocabulary not allowed"
    elif name is None:
        return f"the name of the data set is missing: {', '.join(RAW_FORMATS)} or your own log's"
    elif not own and name not in RAW_FORMATS:
        return (
            f"unknown data set '{name}': choose from {', '.join(RAW_FORMATS)}, or describe your "
            f"own log with --log YAML"
        )
    elif not own and not (arguments.raw or arguments.synthetic):
        return "one of the arguments --raw --synthetic is required"
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        return f"'{name}' cannot name a folder: use letters, digits, '_', '-' and '.'"
    return None


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
