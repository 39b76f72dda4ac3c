#!/usr/bin/env bash
# Train a small model from scratch on a terminology, then build its index.
#   examples/train_small.sh TERMINOLOGY OUTPUT [--set key=value …]
set -euo pipefail
terminology=$1 output=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no "$root/xsap/train.py" \
    --config "$root/configs/train/small.toml" --set terminology="$terminology" --set output="$output/run" "$@"
xsap index "$output/run/model" "$terminology" --out "$output/index"
