#!/usr/bin/env bash
# Set up with the development requirements, then lint, type-check and test.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh requirements-dev.txt
ruff check .
ruff format --check .
mypy
python -m pytest
