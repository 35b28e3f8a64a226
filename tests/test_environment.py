"""What the set-up relies on: one list of versions, scripts that find an environment."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


def requirements(name: str) -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    pins = [line for line in lines if line and not line.startswith("-r ")]
    return dict(pin.split("==") for pin in pins)  # anything but name==version fails here


def test_every_version_is_pinned_in_one_place() -> None:
    run, dev = requirements("requirements.txt"), requirements("requirements-dev.txt")
    assert not set(run) & set(dev)
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert set(environment) == {"name", "dependencies"}  # no prefix, no channel or mirror
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = (entry for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == {"pip": ["-r requirements.txt"]}
    assert not set(run | dev) & {entry.partition("=")[0] for entry in conda}
    python = next(entry for entry in conda if entry.startswith("python="))
    assert tuple(map(int, python.removeprefix("python=").split("."))) >= (3, 11)


def test_the_tests_run_with_the_pinned_versions() -> None:
    pins = requirements("requirements.txt") | requirements("requirements-dev.txt")
    assert {name: version(name).partition("+")[0] for name in pins} == pins


@pytest.mark.parametrize(
    ("line", "code"),
    [("torch==2.13.0", 0), ("torch==0.1", 1), ("no-such-package==1", 1), ("# nothing", 0)],
)
def test_satisfied_compares_with_what_is_installed(tmp_path: Path, line: str, code: int) -> None:
    (tmp_path / "inner.txt").write_text(f"{line}\n")
    (tmp_path / "outer.txt").write_text("-r inner.txt\n")
    command = [sys.executable, str(ROOT / "scripts/satisfied.py"), str(tmp_path / "outer.txt")]
    assert subprocess.run(command, check=False).returncode == code


def test_shell_scripts_parse() -> None:
    scripts = [*ROOT.glob("*.sh"), *ROOT.glob("scripts/*.sh"), ROOT / ".ci/run"]
    assert len(scripts) >= 7
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)
