"""Preference pairs from records of every format."""

from __future__ import annotations

import pytest

from ropo.core.errors import UserError
from ropo.preferences.data import collect, count_shared_prompts, load_preferences


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


PLAIN = {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}
CHAT = {"prompt": [user("2 + 2 = ?")], "chosen": [assistant("4")], "rejected": [assistant("5")]}


def gather(*records, wrap=False):
    return collect("x", [(f"x:{line}", record) for line, record in enumerate(records, 1)], wrap)


def pair(*records, wrap=False):
    row = gather(*records, wrap=wrap).pairs[0]
    return {name: row[name] for name in ("prompt", "chosen", "rejected")}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (PLAIN, PLAIN),
        (CHAT, CHAT),
        ({"chosen": "2 + 2 = 4", "rejected": "2 + 2 = 5"}, {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}),
        ({"chosen": CHAT["prompt"] + CHAT["chosen"], "rejected": CHAT["prompt"] + CHAT["rejected"]}, CHAT),
        # a text prompt beside whole conversations, as in UltraFeedback's binarized form
        (
            {
                "prompt": "2 + 2 = ?",
                "chosen": [user("2 + 2 = ?"), assistant("4")],
                "rejected": [user("2 + 2 = ?"), assistant("5")],
            },
            CHAT,
        ),
        ({"prompt": "2 + 2 = ?", "chosen": [assistant("4")], "rejected": [assistant("5")]}, CHAT),
        ({**CHAT, "score_chosen": 9.0, "messages": [assistant("4")]}, CHAT),
    ],
    ids=["plain", "chat", "plain, implicit", "chat, implicit", "ultrafeedback", "text prompt", "extra columns"],
)
def test_formats(record, expected):
    assert pair(record) == expected


def test_only_pairs_that_are_kept_count_as_wrapped():
    assert gather(PLAIN, PLAIN, wrap=True).duplicates == 1
    assert gather(PLAIN, PLAIN, wrap=True).wrapped == 1


def test_a_plain_prompt_becomes_a_user_turn_when_wrapped():
    assert pair(PLAIN, wrap=True) == {
        "prompt": [user("2 + 2 =")],
        "chosen": [assistant(" 4")],
        "rejected": [assistant(" 5")],
    }
    assert gather(PLAIN, wrap=True).wrapped == 1


def test_wrapping_leaves_conversations_and_whole_texts_alone():
    assert pair(CHAT, wrap=True) == CHAT
    assert gather(CHAT, wrap=True).wrapped == 0
    assert isinstance(pair({"chosen": "Human: hi AI: a", "rejected": "Human: hi AI: b"}, wrap=True)["prompt"], str)


def test_conversations_are_split_after_the_shared_turns():
    shared = [{"role": "system", "content": ""}, user("a"), assistant("b"), user("c")]
    ending = [assistant("e"), user("f"), assistant("g")]
    found = gather({"chosen": [*shared, assistant("d")], "rejected": shared + ending}).pairs[0]
    assert found["prompt"] == shared
    assert (found["chosen"], found["rejected"]) == ([assistant("d")], ending)


def test_ties_and_duplicates_are_dropped_and_counted():
    tie = {**PLAIN, "rejected": " 4"}
    other = {**PLAIN, "rejected": " 6"}
    data = gather(PLAIN, tie, {**PLAIN, "score": 1}, other, PLAIN)
    assert (len(data), data.duplicates, data.ties) == (2, 2, 1)
    assert data.pairs["where"][:] == ["x:1", "x:4"]


def test_the_fingerprint_is_of_the_pairs_not_of_the_file():
    other = {**PLAIN, "rejected": " 6"}
    assert gather(PLAIN, other).sha256 == gather(other, {**PLAIN, "score": 1}, PLAIN).sha256
    assert gather(PLAIN).sha256 != gather(other).sha256


def test_tools_are_handed_on():
    assert gather({**CHAT, "tools": '[{"name": "add"}]'}).pairs[0]["tools"] == '[{"name": "add"}]'


def test_shared_prompts_are_counted():
    held_out = gather(PLAIN, {**PLAIN, "prompt": "3 + 3 ="})
    assert count_shared_prompts(gather(PLAIN), held_out) == 1


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "x:2: has no field 'rejected'; its fields are prompt, chosen"),
        ({"prompt": "a", "chosen": "b", "reject": "c"}, "x:2: has no field 'rejected'; rename 'reject'"),
        ({**PLAIN, "chosen": ""}, "x:2: chosen is empty"),
        ({**PLAIN, "prompt": "  "}, "x:2: prompt is empty"),
        ({**PLAIN, "prompt": None}, "x:2: prompt must be text or a list of messages, not nothing"),
        ({**PLAIN, "chosen": 3.5}, r"x:2: chosen must be text or a list of messages, not 3.5 \(float\)"),
        ({**CHAT, "chosen": []}, "x:2: chosen is an empty list"),
        ({**CHAT, "chosen": ["4"]}, "x:2: chosen, message 1: must be an object with role and content"),
        ({**CHAT, "chosen": [{"role": "robot", "content": "4"}]}, "x:2: chosen, message 1: the role must be one of"),
        ({**CHAT, "chosen": [{"role": "assistant"}]}, "x:2: chosen, message 1: content must be text, not nothing"),
        ({**CHAT, "rejected": [assistant("")]}, "x:2: rejected, message 1: content is empty"),
        ({**CHAT, "rejected": "5"}, "x:2: one of chosen and rejected is text, the other messages"),
        ({**PLAIN, "prompt": CHAT["prompt"]}, "x:2: prompt is messages but the answers are text"),
        (
            {**CHAT, "chosen": CHAT["prompt"] + CHAT["chosen"], "rejected": CHAT["prompt"] + CHAT["rejected"]},
            "x:2: chosen must start with the assistant's turn; it repeats the prompt",
        ),
        ({**CHAT, "rejected": [user("5")]}, "x:2: rejected must start and end with the assistant's turn"),
        ({"chosen": [assistant("4")], "rejected": [assistant("5")]}, "x:2: chosen and rejected share no turn"),
        (
            {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b"), user("c")]},
            "x:2: one of chosen and rejected is the beginning of the other",
        ),
        ({"chosen": "yes", "rejected": "no"}, "x:2: chosen and rejected share no beginning"),
        (PLAIN, "x:2: is text where x:1 is messages; use one format throughout"),
    ],
)
def test_a_bad_record_is_named(record, message):
    with pytest.raises(UserError, match=f"^data {message}"):
        gather({**CHAT, "prompt": [user("first")]}, record)


def test_nothing_to_learn_from():
    with pytest.raises(UserError, match="x: holds no record"):
        gather()
    with pytest.raises(UserError, match="chosen equals rejected in all 2 records"):
        gather({**PLAIN, "rejected": " 4"}, {**CHAT, "rejected": CHAT["chosen"]})


@pytest.mark.parametrize(("name", "pairs", "wrapped"), [("ultrafeedback.test", 183, 183), ("hh_harmless.test", 217, 0)])
def test_real_data(name, pairs, wrapped, shared_data):
    data = load_preferences(str(shared_data / "preferences" / f"{name}.jsonl"))
    assert (len(data), data.duplicates, data.ties, data.wrapped) == (pairs, 0, 0, wrapped)
    assert data.pairs[0]["prompt"][0]["role"] == "user"
