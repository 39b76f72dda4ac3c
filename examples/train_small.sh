#!/usr/bin/env bash
# Train a small model from scratch on a terminology, then build its index.
#   examples/train_small.sh TERMINOLOGY OUTPUT [--set key=value …]
set -euo pipefail
terminology=$1 output=$2
shift 2
xsap train --config small --set terminology="$terminology" --set output="$output/run" "$@"
xsap index "$output/run/model" "$terminology" --out "$output/index"
