#!/usr/bin/env bash
exec bash "$(dirname "$0")/scripts/train_group.sh" avazu "${AVAZU_RAW:-}" "$@"
