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


def check_weights(folder: Path) -> None:
    """Raise `RunError` if the weights of the run in `folder` are missing or not whole."""
    path = folder / WEIGHTS
    try:
        with safetensors.safe_open(path, framework="pt"):  # which compares its length
            pass
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path}: no weights ({error}); train it again with --force") from error


def load_weights(network: Network, folder: Path) -> None:
    """Give `network` the weights of the run in `folder`; `RunError` if they do not fit it."""
    path = folder / WEIGHTS
    try:
        safetensors.torch.load_model(network, path)
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        raise RunError(
            f"{path}: not this member's weights ({error}); train it again with --force"
        ) from error
