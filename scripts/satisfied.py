"""Exit with 0 if this Python has every package of a requirements file at its exact version."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def missing(path: Path) -> list[str]:
    """The lines `name==version` of a requirements file that are not satisfied here."""
    unsatisfied = []
    for line in path.read_text().splitlines():
        requirement = line.partition("#")[0].strip()
        if requirement.startswith("-r "):
            unsatisfied += missing(path.parent / requirement.removeprefix("-r ").strip())
        elif requirement:
            name, _, wanted = requirement.partition("==")
            try:
                # A local build tag, as in 2.13.0+cpu, is the same version.
                satisfied = version(name).partition("+")[0] == wanted
            except PackageNotFoundError:
                satisfied = False
            if not satisfied:
                unsatisfied.append(requirement)
    return unsatisfied


if __name__ == "__main__":
    sys.exit(sys.version_info < (3, 11) or bool(missing(Path(sys.argv[1]))))
