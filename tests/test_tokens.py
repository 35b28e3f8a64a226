"""Lines as columns and texts as codes, against the same done with Python's split and dict."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.tokens import Interner, Texts, split_lines

# Lengths around that of a key, equal beginnings and ends, bytes of nought.
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters=",\n"), max_size=20),
    st.builds(
        lambda head, rest: head + rest,
        st.sampled_from(["", "\0", "1234567", "12345678", "123456789abcdef"]),
        st.text("\0" + "12", max_size=12),
    ),
)


def check(interner: Interner, codes: np.ndarray, texts: list[str]) -> None:
    """The codes say what the texts were, and a text has one code alone."""
    values = interner.values().to_pylist()
    assert [values[code] for code in codes] == texts
    assert len(set(values)) == len(values) == len(interner)


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1), min_size=1, max_size=4))
def test_texts_become_codes_that_are_counted(blocks: list[list[tuple[str, str, str]]]) -> None:
    interners = [Interner() for _ in range(3)]
    codes: list[list[np.ndarray]] = [[], [], []]
    for rows in blocks:
        lines = split_lines("".join(",".join(row) + "\n" for row in rows).encode(), ",", 3)
        assert lines is not None
        assert lines.rows == len(rows)
        for number, interner in enumerate(interners):
            codes[number].append(interner.codes(lines.column(number)))
    for number, interner in enumerate(interners):
        texts = [row[number] for rows in blocks for row in rows]
        check(interner, np.concatenate(codes[number]), texts)
        found = dict(zip(interner.values().to_pylist(), interner.counts.tolist(), strict=True))
        assert found == Counter(texts)
        # Codes go by the order in which the texts were met.
        assert list(found) == list(dict.fromkeys(texts))


@settings(deadline=None)
@given(st.lists(st.none() | TEXTS), st.integers(0, 3))
def test_an_arrow_column_gets_the_codes_of_its_texts(
    column: list[str | None], skipped: int
) -> None:
    interner = Interner()
    texts = [text or "" for text in column]
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        array = pa.array([*["unseen"] * skipped, *column], kind).slice(skipped)
        check(interner, interner.codes(Texts.of_arrow(array)), texts)
    assert interner.counts.sum() == 3 * len(texts)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=9), st.data())
def test_rows_of_a_dictionary_get_the_codes_of_its_texts(texts: list[str], data: Any) -> None:
    interner = Interner()
    rows = []
    for _ in range(2):
        # A text may be in the dictionary twice, or without a row.
        places = data.draw(st.lists(st.integers(0, len(texts) - 1)))
        found = interner.codes_of_rows(Texts.of_arrow(pa.array(texts)), np.array(places, np.int32))
        check(interner, found, [texts[place] for place in places])
        rows += [texts[place] for place in places]
    counts = dict(zip(interner.values().to_pylist(), interner.counts.tolist(), strict=True))
    assert counts == {text: rows.count(text) for text in texts}


def test_a_table_grows_and_keeps_its_codes() -> None:
    interner = Interner()
    rng = np.random.default_rng(0)
    # Of 1 to 18 digits: short texts and long ones, many more than the first table has room for.
    numbers = [int(10**power) for power in rng.uniform(0, 18, 40_000)]
    texts = [*map(str, numbers)] * 2
    codes = [
        interner.codes(Texts.of_arrow(pa.array(texts[start : start + 999])))
        for start in range(0, len(texts), 999)
    ]
    assert [code.dtype.itemsize for code in (codes[0], codes[-1])] == [2, 2]
    check(interner, np.concatenate(codes), texts)


@pytest.mark.parametrize(("texts", "bytes_each"), [(256, 1), (257, 2), (65_536, 2), (65_537, 4)])
def test_codes_are_as_narrow_as_can_be(texts: int, bytes_each: int) -> None:
    codes = Interner().codes(Texts.of_arrow(pa.array(map(str, range(texts)))))
    assert codes.dtype.itemsize == bytes_each
    assert codes.tolist() == list(range(texts))


def test_new_texts_can_be_asked_for_alone() -> None:
    interner = Interner()
    for column in (["a", "b"], ["b"], ["c", "a", "dd"]):
        interner.codes(Texts.of_arrow(pa.array(column)))
    assert interner.values(2).to_pylist() == ["c", "dd"]
    assert interner.values(4).to_pylist() == []


@pytest.mark.parametrize(
    "block", [b"a\n", b"a,b,c\n", b"\n", b"a,b\n\n", b"a\nb,c,d\n", b"a,b,c\nd\n"]
)
def test_uneven_lines_are_not_split(block: bytes) -> None:
    assert split_lines(block, ",", 2) is None
    assert split_lines(block + b"e,f\n", ",", 2) is None
