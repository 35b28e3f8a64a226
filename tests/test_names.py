"""Names in a flag of the command line."""

from __future__ import annotations

import argparse

import pytest

from modules.names import split_names


def test_names_are_distinct_and_in_order() -> None:
    assert split_names("fm, lr,,fm,deepfm ") == ["fm", "lr", "deepfm"]


@pytest.mark.parametrize("text", ["", " ", ",,"])
def test_a_flag_without_a_name_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no name in"):
        split_names(text)
