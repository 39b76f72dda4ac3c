#!/usr/bin/env bash
# Evaluate an index on XL-BEL: the mentions whose UMLS concept the terminology cross-references. For figures that compare with
# published ones, build the index of English names only: xsap index MODEL TERMINOLOGY --languages en --out INDEX
#   examples/evaluate_xlbel.sh INDEX TERMINOLOGY OUTPUT XLBEL_FILE…
set -euo pipefail
index=$1 terminology=$2 output=$3
shift 3
cd "$(dirname "$0")/.."  # the benchmarks are part of the checkout
mkdir -p "$output"
python -m benchmarks mentions xlbel "$@" --terminology "$terminology" --out "$output/mentions.tsv"
xsap evaluate "$output/mentions.tsv" --index "$index"
