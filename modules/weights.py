"""The weights file of a run, in safetensors."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch

from modules.embedding import Network
from modules.runs import RunError

WEIGHTS = "model.safetensors"


def save_weights(network: Network, folder: Path) -> None:
    """Write all weights of `network` to the run in `folder`."""
    safetensors.torch.save_model(network, str(folder / WEIGHTS))


def has_weights(folder: Path) -> bool:
    """Whether the weights of the run in `folder` are there and whole; they are not read."""
    try:
        with safetensors.safe_open(folder / WEIGHTS, framework="pt"):  # which compares its length
            return True
    except (OSError, safetensors.SafetensorError):
        return False


def load_weights(network: Network, folder: Path) -> None:
    """Give `network` the weights of the run in `folder`; `RunError` if they do not fit it."""
    path = folder / WEIGHTS
    try:
        safetensors.torch.load_model(network, path)
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        raise RunError(
            f"{path}: not this member's weights ({error}); train it again with --force"
        ) from error
