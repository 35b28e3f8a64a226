#!/usr/bin/env bash
exec bash "$(dirname "$0")/scripts/train_group.sh" kdd12 "${KDD12_RAW:-}" "$@"
