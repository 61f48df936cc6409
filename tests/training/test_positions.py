"""Models whose positions end: what training cuts, and what the monitor leaves out of its answers."""

from __future__ import annotations

import logging

import pytest
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig

from ropo.core import once
from ropo.core.errors import UserError
from ropo.training.config import PreferenceConfig
from ropo.training.monitor import HackingMonitor
from ropo.training.trainer import PreferenceTrainer
from tests.tiny.tokenizer import tiny_tokenizer
from tests.tiny.zoo import POSITIONS, make
from tests.training.trainers import logged, options

pytestmark = pytest.mark.filterwarnings("ignore:The `'keep_end'`:FutureWarning")

LORA = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
SHORT = {"prompt": "the cat ", "chosen": "sat on the mat .", "rejected": "ran ."}
LONG = SHORT | {"prompt": "the dog ran on " * (POSITIONS // 3)}


@pytest.fixture(autouse=True)
def told_anew():
    once.say.cache_clear()


def trainer(folder, *, held_out, mode="keep_end", adapter=LORA):
    return PreferenceTrainer(
        make("gpt2"),
        args=PreferenceConfig(**options(folder, max_steps=2, truncation_mode=mode)),
        train_dataset=Dataset.from_list([SHORT, LONG] * 4),
        eval_dataset=Dataset.from_list(held_out),
        processing_class=tiny_tokenizer(),
        peft_config=adapter,
    )


def test_prompts_that_fill_the_positions_are_not_answered(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    made = trainer(tmp_path, held_out=[LONG, SHORT, SHORT | {"chosen": "yes"}])
    monitor = HackingMonitor(made, every=1, max_new_tokens=4)
    made.add_callback(monitor)
    made.train()
    assert len(made.train_dataset) == 8  # long prompts are trained on
    assert [len(pair.prompt) > POSITIONS for pair in monitor.held_out.pairs] == [True, False, False]
    assert len(monitor.held_out.prompts) == 2
    assert len(logged(made, "hacking/margin")) == len(logged(made, "hacking/kl_per_token")) == 2
    assert f"monitor: 1 of 3 prompts fill the model's {POSITIONS} positions and are not answered" in caplog.text


def test_without_a_prompt_to_answer_the_rest_is_measured(tmp_path):
    made = trainer(tmp_path, held_out=[LONG])
    made.add_callback(HackingMonitor(made, every=1, max_new_tokens=4))
    made.train()
    assert len(logged(made, "hacking/margin")) == 2
    assert not logged(made, "hacking/kl_per_token")
    with pytest.raises(UserError, match="stop_at_kl: needs prompts to answer"):
        HackingMonitor(made, kl_budget=0.1)


def test_virtual_tokens_take_positions_from_the_sequences(tmp_path):
    adapter = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    made = trainer(tmp_path, held_out=[SHORT], mode="keep_start", adapter=adapter)
    assert made.args.max_length == POSITIONS - 4
    made = trainer(tmp_path, held_out=[SHORT], adapter=adapter)
    made.train()  # its long prompts take all that is left
    assert len(logged(made, "loss")) == 2
