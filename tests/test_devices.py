"""Every tensor of a step lies on its device."""

from __future__ import annotations

from modules.models import MODELS
from tests.conftest import ROOT, run_command


def test_forward_backward_and_update_mix_no_devices() -> None:
    output = run_command(ROOT / "tests/claimed_device.py", cwd=ROOT)
    for name in MODELS:
        for optimizer in ("DeferredAdam", "DenseAdam"):
            assert f"{name} {optimizer}: as asked" in output
