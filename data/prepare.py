"""Raw click log -> encoded data set.

    python -m data.prepare avazu --raw PATH [--format parquet,tfrecord] [--vocabulary all|train]
    python -m data.prepare avazu --synthetic ROWS
    python -m data.prepare NAME --log my_log.yaml
    python -m data.prepare --like data/encoded/avazu --raw new.csv

The data set is complete or absent, and one made from the same log in the same way is not made
again. How it is made: `data.encode`.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from data.atomic import atomic_folder
from data.encode import SHARD_ROWS, Base, Settings, Source, encode_log
from data.log import Log, official_log
from data.own_log import like_log, read_own_log
from data.raw import RAW_FORMATS, raw_format
from data.schema import SCHEMA_FILE, SPLITS, DataError, RawFile, Schema, read_schema
from data.shards import SHARD_FORMATS, TRUTH_SPLITS, is_made_by_us, shard_name, truth_name
from data.split import SplitRule
from data.synthetic import truth_path, write_log
from data.vocabulary import VOCABULARY_FILE

VOCABULARIES = ("all", "train")
# Free bytes of a disk on which a failed write met its end.
MOSTLY_FULL = 1 << 20
ENCODED = Path("data/encoded")
LOG_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")


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
    _refuse_repeated(log.files)
    older = _older(output, [*log.files, *([base.folder / SCHEMA_FILE] if base else [])])
    # The log is hashed while it is read, unless its hash may show that there is nothing to do.
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as hasher:
        synthetic = all(truth_path(path).exists() for path in log.files)
        source = Source(log, hasher.submit(_identify, log.files), synthetic, base)
        if older and not force and _is_complete(older, output, source, settings):
            print(f"{output} is complete ({_summary(older)}): nothing to do")
            return older
        if (output / SCHEMA_FILE).exists():
            _refuse_others(output)
            there = _summary(older) if older else "which could not be read"
            print(f"replacing {output} ({there}), which stays until the new one is complete")
        with atomic_folder(output, replace=True) as folder, _full_disk_named(output, folder):
            schema = encode_log(folder, source, settings)
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


def _refuse_repeated(files: Sequence[Path]) -> None:
    resolved = [path.resolve() for path in files]
    for number, path in enumerate(files):
        if resolved[number] in resolved[:number]:
            raise DataError(f"{path} is named twice; its rows would count twice")


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
            raise _would_be_deleted(path, output)
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


def _is_of_data_set(path: Path) -> bool:
    return path.name in (SCHEMA_FILE, VOCABULARY_FILE) or is_made_by_us(path.name)


def _refuse_others(output: Path) -> None:
    for path in sorted(output.iterdir()):
        if not _is_of_data_set(path):
            raise _would_be_deleted(path, output)


def _would_be_deleted(path: Path, output: Path) -> DataError:
    return DataError(
        f"{path} lies in {output}, which would be replaced; move it, or choose another --output"
    )


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
    found = {path.name for path in output.iterdir() if _is_of_data_set(path)} - {SCHEMA_FILE}
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
        name = name or f"{arguments.like.resolve().name}-{_stem(raw[0])}"
        output = arguments.output or ENCODED / name
        prepare_like(arguments.like, raw, output, settings, force=arguments.force)
        return
    if arguments.log:
        log = read_own_log(arguments.log, name, raw)
    else:
        log = official_log(name, *(raw or [plant(name, arguments.synthetic, arguments.seed)]))
    prepare_log(log, arguments.output or ENCODED / name, settings, force=arguments.force)


def _stem(path: Path) -> str:
    """The name of a log without its format: views.2024-01-31 of views.2024-01-31.csv.gz."""
    plain = path.name.removesuffix(".gz")
    for suffix in LOG_SUFFIXES:
        plain = plain.removesuffix(suffix)
    return plain


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare",
        description="Make the encoded data set of a raw click log.",
        allow_abbrev=False,
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
