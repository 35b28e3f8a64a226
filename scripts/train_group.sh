#!/usr/bin/env bash
# Set up, prepare, train the group, merge: scripts/train_group.sh DATASET RAW [OPTION ...]
# RAW may be empty: then data/raw/DATASET is looked into, failing that what was prepared before is
# taken as it is unless ROWS is given, and failing that a log is planted.
# The options go to trainer_group.py, --runs and --models also to merge.py; --dry-run ends after the
# plan. MODELS (lr,fm,deepfm), SEEDS (5) and ROWS (of a planted log, 200000) are read from the
# environment.
set -euo pipefail
dataset=$1 raw=$2
shift 2
[ -z "$raw" ] || raw=$(realpath -m "$raw")
cd "$(dirname "$0")/.."

if [ -z "$raw" ]; then
  for name in train.gz train.csv train.txt.gz train.txt training.txt.gz training.txt; do
    if [ -f "data/raw/$dataset/$name" ]; then
      raw=data/raw/$dataset/$name
      break
    fi
  done
fi
if [ -n "$raw" ]; then
  echo "$dataset: the log $raw"
  source_of_rows=(--raw "$raw")
elif [ -z "${ROWS:-}" ] && [ -f "data/encoded/$dataset/schema.yaml" ]; then
  echo "$dataset: no raw log given (${dataset^^}_RAW=PATH), so data/encoded/$dataset as it is"
  source_of_rows=()
else
  rows=${ROWS:-200000}
  echo "$dataset: no raw log given (${dataset^^}_RAW=PATH), so a SYNTHETIC log of $rows rows"
  source_of_rows=(--synthetic "$rows")
fi

source scripts/setup.sh requirements.txt
for option in "$@"; do
  case $option in -h | --help) exec python trainer_group.py --help ;; esac
done
models=${MODELS:-lr,fm,deepfm}
if [ ${#source_of_rows[@]} -gt 0 ]; then
  python -m data.prepare "$dataset" "${source_of_rows[@]}"
fi
profile=$(python - "data/encoded/$dataset" <<'PY'
import sys
from pathlib import Path

from data.schema import read_schema

if read_schema(Path(sys.argv[1])).rows["train"] < 2_000_000:
    print("--profile=small")
PY
)
python trainer_group.py --dataset "$dataset" --models "$models" --seeds "${SEEDS:-5}" $profile "$@"

to_merge=()
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) exit 0 ;;
    --runs | --models) to_merge+=("$1" "$2") && shift ;;
    --runs=* | --models=*) to_merge+=("$1") ;;
  esac
  shift
done
python merge.py --dataset "$dataset" --models "$models" "${to_merge[@]}"
