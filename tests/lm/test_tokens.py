"""One record, one row of tokens: those of TRL's trainer, whatever the record's format and the model's template."""

from __future__ import annotations

import json
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from tokenizers.processors import TemplateProcessing
from trl import DPOConfig, DPOTrainer

from ropo.core.errors import UserError
from ropo.lm.templating import unread_lines
from ropo.lm.tokens import (
    Limits,
    TokenPair,
    first_tokens,
    holds_templated_prompt,
    text_windows,
    tokenize_pair,
    tokenize_prompt,
)
from tests.tiny.sampled import tiny_model
from tests.tiny.tokenizer import CHAT_TEMPLATE, tiny_tokenizer

PARTS = ("prompt", "chosen", "rejected")
PLAIN = {"prompt": "the cat ", "chosen": "sat on the mat", "rejected": "ran"}
MESSAGES = {
    "prompt": [{"role": "user", "content": "the cat"}],
    "chosen": [{"role": "assistant", "content": "sat on the mat"}],
    "rejected": [{"role": "assistant", "content": "ran"}],
}
TOOLS_TEMPLATE = (
    "{% if tools %}<user> {% for t in tools %}{{ t['name'] }} {% endfor %}<eos> {% endif %}{{ date | default('one') }} "
    + CHAT_TEMPLATE
)
# Writes an empty thought before the answer where one is asked for, and drops it from the finished conversation. No
# answer below begins with its words, or it would be there again.
THINKING_TEMPLATE = CHAT_TEMPLATE.replace("<assistant> {% endif %}", "<assistant> yes no {% endif %}")
SYSTEM_TEMPLATE = "{% if messages[0]['role'] != 'system' %}<user> a slow dog <eos> {% endif %}" + CHAT_TEMPLATE
TEMPLATES = {"plain": CHAT_TEMPLATE, "tools": TOOLS_TEMPLATE, "thinking": THINKING_TEMPLATE, "system": SYSTEM_TEMPLATE}

words = st.lists(
    st.sampled_from(["a", "the", "cat", "dog", "sat", "ran", "on", "mat", "one", "two"]), min_size=1, max_size=5
).map(" ".join)


def turn(role: str) -> st.SearchStrategy[dict[str, str]]:
    return st.builds(lambda content: {"role": role, "content": content}, words)


conversations = st.builds(
    lambda system, past, asked: [*system, *(each for both in past for each in both), asked],
    st.lists(turn("system"), max_size=1),
    st.lists(st.tuples(turn("user"), turn("assistant")), max_size=2),
    turn("user"),
)
answers = st.lists(turn("assistant"), min_size=1, max_size=1)
chats = st.fixed_dictionaries(
    {"prompt": conversations, "chosen": answers, "rejected": answers},
    optional={
        "tools": st.sampled_from([[{"name": "cat"}], json.dumps([{"name": "dog"}])]),
        "chat_template_kwargs": st.just({"date": "three"}),
    },
)
endings = st.sampled_from(["", " <eos>", "<eos>"])
texts = st.fixed_dictionaries(
    {"prompt": words.map(lambda text: text + " "), "chosen": st.builds(str.__add__, words, endings), "rejected": words}
)


def trl_trainer(tokenizer: Any, folder: Any) -> DPOTrainer:
    options = {"report_to": "none", "use_cpu": True, "bf16": False, "dataloader_pin_memory": False, "max_length": None}
    return DPOTrainer(
        tiny_model(),
        args=DPOConfig(output_dir=str(folder), gradient_checkpointing=False, **options),
        train_dataset=Dataset.from_list([PLAIN]),
        processing_class=tokenizer,
        peft_config=LoraConfig(target_modules=["q_proj"]),
    )


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the tokens that TRL's trainer makes of a record."""
    tokenizer = tiny_tokenizer()
    trainer = trl_trainer(tokenizer, tmp_path_factory.mktemp("trl"))

    def tokens(record: dict[str, Any], template: str) -> TokenPair:
        tokenizer.chat_template = template
        made = trainer._prepare_dataset(Dataset.from_list([record]), tokenizer, trainer.args, "train")
        return TokenPair(made[0]["prompt_ids"], made[0]["chosen_ids"], made[0]["rejected_ids"])

    return tokens


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=25, deadline=None)
@given(record=chats)
def test_conversations_have_the_tokens_that_trl_trains_on(trained_on: Any, template: str, record: dict) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATES[template]
    expected = trained_on(record, TEMPLATES[template])
    assert expected.prompt
    assert expected.chosen
    assert tokenize_pair(tokenizer, record) == expected
    asked = tokenize_prompt(tokenizer, record)
    assert asked[: len(expected.prompt)] == expected.prompt
    assert (asked == expected.prompt) == (template != "thinking")


@settings(max_examples=25, deadline=None)
@given(record=texts)
def test_texts_have_the_tokens_that_trl_trains_on(trained_on: Any, record: dict) -> None:
    found = tokenize_pair(tiny_tokenizer(), record)
    assert found == trained_on(record, CHAT_TEMPLATE)
    assert found.chosen[-1] == found.rejected[-1] == tiny_tokenizer().eos_token_id
    assert found.chosen.count(found.chosen[-1]) == 1


def test_messages_need_a_chat_template() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        tokenize_pair(tokenizer, MESSAGES)


@pytest.mark.parametrize("template", ["plain", "tools", "thinking", "system"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_prompt_that_was_templated_already_is_taken_as_it_is(template: str, wrapped: bool) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATES[template]
    written = {
        "prompt": tokenizer.apply_chat_template(MESSAGES["prompt"], tokenize=False, add_generation_prompt=True),
        "chosen": "sat on the mat <eos>\n",
        "rejected": "ran <eos>\n",
    }
    record = {name: [{"role": "user", "content": text}] for name, text in written.items()} if wrapped else written
    assert holds_templated_prompt(tokenizer, record)
    assert not holds_templated_prompt(tokenizer, MESSAGES)
    found = tokenize_pair(tokenizer, record)
    assert found.prompt == tokenize_prompt(tokenizer, MESSAGES) == tokenize_prompt(tokenizer, record)
    assert (found.chosen, found.rejected) == (
        tokenizer("sat on the mat <eos>").input_ids,
        tokenizer("ran <eos>").input_ids,
    )


def test_a_template_that_leaves_tool_calls_out_is_no_template_for_them() -> None:
    call = {"type": "function", "function": {"name": "cat", "arguments": {"a": 1}}}
    record = {**MESSAGES, "chosen": [{"role": "assistant", "content": "", "tool_calls": [call]}]}
    tokenizer = tiny_tokenizer()
    with pytest.raises(UserError, match="pair: chosen: has tool_calls, which the model's chat template leaves out"):
        tokenize_pair(tokenizer, record)
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "{{ m['content'] }}", "{{ m['content'] }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}"
    )
    assert "cat" in tokenizer.decode(tokenize_pair(tokenizer, record).chosen)


def test_an_ordinary_text_was_not_templated() -> None:
    tokenizer = tiny_tokenizer()
    for text in ("the cat", "what does <eos> mean", "the <user> sat", "dog ."):
        assert not holds_templated_prompt(tokenizer, {"prompt": text}), text
    tokenizer.chat_template = None
    assert not holds_templated_prompt(tokenizer, {"prompt": "<user> the cat"})


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
FRAMES = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"]),
    "a default system turn": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}" + CHATML,
        ["<|im_start|>", "<|im_end|>"],
    ),
    "thinking": (CHATML.replace("assistant\n{%", "assistant\n<think>\n{%"), ["<|im_start|>", "<|im_end|>"]),
    "plain brackets": (INST, []),
    "special brackets": (INST, ["[INST]", "[/INST]"]),
    "no token": (
        "{% for m in messages %}{{ {'system': '', 'user': 'USER: ', 'assistant': 'ASSISTANT: '}[m.role] }}"
        "{{ m.content }} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
        [],
    ),
}
_ASKED = "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
WRITTEN = {
    "chatml": [
        _ASKED,
        f"<|im_start|>system\nthe mat<|im_end|>\n{_ASKED}",
        f"{_ASKED}sat on",
        "<|im_start|>user\nthe cat<|im_end|>\n",
    ],
    "brackets": ["[INST] the cat [/INST]", "[INST]a[/INST] b <eos>[INST] c [/INST]", "<bos>[INST] the cat [/INST] sat"],
    "no token": ["USER: the cat ASSISTANT:", "the mat USER: the cat ASSISTANT:"],
}
MENTIONED = {
    "chatml": [
        "<|im_start|> is what?",
        "what ends with <|im_end|>",
        "<|im_start|>user and <|im_end|> are what?",
        "<|im_start|>",
        "explain <|im_start|>assistant",
    ],
    "brackets": [
        "[INST] is what?",
        "what ends with [/INST]",
        "[INST] and [/INST] are what?",
        "tell [INST] from [/INST]",
    ],
    "no token": ["write ASSISTANT:", "USER: is what?"],
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_template_is_told_from_a_mention_of_its_tokens(name: str) -> None:
    tokenizer = with_first_token()
    tokenizer.chat_template, special = FRAMES[name]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    kind = "brackets" if "brackets" in name else name if name == "no token" else "chatml"
    for text in WRITTEN[kind]:
        assert holds_templated_prompt(tokenizer, {"prompt": text}), text
    for text in MENTIONED[kind]:
        assert not holds_templated_prompt(tokenizer, {"prompt": text}), text


def test_a_text_that_brings_the_first_token_gets_no_second_one() -> None:
    tokenizer = with_first_token()
    record = {"prompt": "<bos> the cat ", "chosen": "sat", "rejected": "ran"}
    assert list(tokenize_pair(tokenizer, record).prompt).count(tokenizer.bos_token_id) == 1
    assert tokenize_prompt(tokenizer, {"prompt": "the cat"})[0] == tokenizer.bos_token_id


def test_a_prompt_does_not_end_with_the_token_that_a_tokenizer_puts_after_texts() -> None:
    tokenizer = tiny_tokenizer()
    plain = tokenize_prompt(tokenizer, {"prompt": "the cat"})
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    assert tokenizer("the cat").input_ids == [*plain, tokenizer.eos_token_id]
    assert tokenize_prompt(tokenizer, {"prompt": "the cat"}) == plain
    written = tokenize_prompt(tokenizer, {"prompt": "the cat <eos>"})
    assert written[: len(plain) + 1] == [*plain, tokenizer.eos_token_id]


def test_a_tokenizer_that_ends_texts_itself_ends_answers_twice_as_in_trl(tmp_path) -> None:
    """TRL writes the end token, and the tokenizer adds another: odd, but what its models were trained on."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>",
        special_tokens=[("<bos>", tokenizer.bos_token_id), ("<eos>", tokenizer.eos_token_id)],
    )
    trainer = trl_trainer(tokenizer, tmp_path)
    for record in (PLAIN, MESSAGES):
        row = trainer._prepare_dataset(Dataset.from_list([record]), tokenizer, trainer.args, "train")[0]
        assert tokenize_pair(tokenizer, record) == TokenPair(*(row[f"{name}_ids"] for name in PARTS))
    assert tokenize_pair(tokenizer, PLAIN).chosen[-2:] == [tokenizer.eos_token_id] * 2


def test_answers_are_cut_as_trl_cuts_them() -> None:
    pair = TokenPair([1, 2, 3], [4, 5, 6], [7])
    assert Limits(None).cut(pair) == [([1, 2, 3], [4, 5, 6]), ([1, 2, 3], [7])]
    assert Limits(5).cut(pair) == [([1, 2, 3], [4, 5]), ([1, 2, 3], [7])]
    assert Limits(3).cut(pair) == [([1, 2, 3], []), ([1, 2, 3], [])]
    assert Limits(2).cut(pair) == [([1, 2], []), ([1, 2], [])]
    assert Limits(5, "keep_end").cut(pair) == [([2, 3], [4, 5, 6]), ([1, 2, 3], [7])]
    assert Limits(2, "keep_end").cut(pair) == [([5], [6]), ([3], [7])]  # TRL scores no first token
    assert Limits(3, "keep_end").cut(pair) == [([4], [5, 6]), ([2, 3], [7])]
    assert not Limits(1, "keep_end").leave_room(pair)


def test_a_pack_holds_the_prompt_once() -> None:
    assert Limits().packed_tokens(3, 3, 1) == 3 - 1 + 3 + 1
    assert Limits(4).packed_tokens(3, 3, 1) == 3 - 1 + 1 + 1


def with_first_token() -> Any:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    first = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = first
    return tokenizer


def test_windows() -> None:
    tokenizer = tiny_tokenizer()
    text = "the cat sat on the mat ."
    ids = tokenizer(text)["input_ids"]
    assert [each.ids for each in text_windows(tokenizer, text, window=3, most=9)] == [
        ids[:3],
        ids[3:6],
    ]  # 1 is too short
    assert [len(each.tokens) for each in text_windows(tokenizer, text, window=3, most=1)] == [2]
    assert text_windows(tokenizer, text, window=7, most=1)[0].ids == ids
    with pytest.raises(UserError, match="at least two tokens"):
        text_windows(tokenizer, "cat", window=3, most=1)


def test_windows_begin_with_what_the_tokenizer_puts_first() -> None:
    tokenizer, bos = with_first_token(), tiny_tokenizer().bos_token_id
    text = "the cat sat on the mat ."
    ids = tokenizer(text)["input_ids"][1:]
    assert (first_tokens(tiny_tokenizer()), first_tokens(tokenizer)) == ([], [bos])
    found = text_windows(tokenizer, text, window=4, most=9)
    assert [each.context for each in found] == [[bos]] * 3
    assert [each.tokens for each in found] == [ids[:3], ids[3:6], ids[6:]]
    assert text_windows(tokenizer, "cat", window=3, most=1)[0].tokens == tokenizer("cat")["input_ids"][1:]


def test_what_a_template_leaves_out_is_said() -> None:
    tokenizer = tiny_tokenizer()
    record = {**MESSAGES, "tools": [{"name": "cat"}], "chat_template_kwargs": {"date": "three"}}
    assert unread_lines(tokenizer, [record, MESSAGES]) == [
        "tools of 1 records: left out by the model's chat template",
        "date of 1 records: left out by the model's chat template",
    ]
    tokenizer.chat_template = TOOLS_TEMPLATE
    assert unread_lines(tokenizer, [record]) == []
