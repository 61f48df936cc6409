from __future__ import annotations

import pytest
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from ropo.core.errors import UserError
from ropo.lm.log_probs import TokenPair
from ropo.lm.tokens import shorten_pair, text_windows, tokenize_pair
from tests.lm.sampling.tiny import tiny_model
from tests.tiny_tokenizer import tiny_tokenizer

PLAIN = {"prompt": "the cat ", "chosen": "sat on the mat", "rejected": "ran"}
MESSAGES = {
    "prompt": [{"role": "user", "content": "the cat"}],
    "chosen": [{"role": "assistant", "content": "sat on the mat"}],
    "rejected": [{"role": "assistant", "content": "ran"}],
}


@pytest.mark.parametrize("record", [PLAIN, MESSAGES], ids=["plain", "messages"])
def test_tokens_are_those_that_trl_trains_on(record: dict, tmp_path) -> None:
    options = {"report_to": "none", "use_cpu": True, "bf16": False, "dataloader_pin_memory": False}
    trainer = DPOTrainer(
        tiny_model(),
        args=DPOConfig(output_dir=str(tmp_path), gradient_checkpointing=False, **options),
        train_dataset=Dataset.from_list([record]),
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(target_modules=["q_proj"]),
    )
    row = trainer.train_dataset[0]
    expected = TokenPair(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"])
    assert min(map(len, (expected.prompt, expected.chosen, expected.rejected))) > 0
    assert tokenize_pair(tiny_tokenizer(), record) == expected


def test_messages_need_a_chat_template() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        tokenize_pair(tokenizer, MESSAGES)


def test_shorten_keeps_the_end_of_the_prompt_and_the_beginning_of_answers() -> None:
    assert shorten_pair(TokenPair([1, 2, 3], [4, 5, 6], [7]), 2) == TokenPair([2, 3], [4, 5], [7])


def test_windows() -> None:
    tokenizer = tiny_tokenizer()
    text = "the cat sat on the mat ."
    assert [len(window) for window in text_windows(tokenizer, text, window=3, most=9)] == [3, 3]  # one is too short
    assert [len(window) for window in text_windows(tokenizer, text, window=3, most=1)] == [3]
    assert text_windows(tokenizer, text, window=7, most=1) == [tokenizer(text)["input_ids"]]
    with pytest.raises(UserError, match="at least two tokens"):
        text_windows(tokenizer, "cat", window=3, most=1)
