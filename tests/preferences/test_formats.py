"""Every format's record is TRL's record, and what a format does not read is refused by name."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ropo.core.errors import UserError
from ropo.preferences.data import collect
from ropo.preferences.formats import FORMATS, format_of, prompt_of
from ropo.preferences.formats.columns import BESIDE, MEDIA, is_label

# Texts as people write them; HH's markup is another format's, and blank ones are refused.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text and text != "" and "Human:" not in text and "Assistant:" not in text
)
exchanges = st.lists(st.tuples(texts, texts), max_size=2)
calls = [{"name": "weather", "arguments": {"lat": 59.91273123456789, "big": 2**70, "none": None}}]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def turns_of(system: str | None, history: list[tuple[str, str]], question: str) -> list[dict[str, Any]]:
    earlier = [turn for asked, said in history for turn in (user(asked), assistant(said))]
    return [*([{"role": "system", "content": system}] if system else []), *earlier, user(question)]


def shared_gpt(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]


def records_of(
    system: str | None, history: list[tuple[str, str]], question: str, chosen: str, rejected: str
) -> dict[str, dict[str, Any]]:
    """Write one pair in every format that can hold it."""
    turns = turns_of(system, history, question)
    beside = {"system": system, "history": [list(each) for each in history]}
    answers = {"chosen": chosen, "rejected": rejected}
    messages = {name: [assistant(text)] for name, text in answers.items()}
    whole = {name: [*turns, *answer] for name, answer in messages.items()}
    records: dict[str, dict[str, Any]] = {
        "TRL": {"prompt": turns, **messages},
        "TRL, implicit": whole,
        "TRL, implicit, with messages": {**whole, "messages": whole["chosen"]},
        "UltraFeedback": {
            "prompt": question,
            **whole,
            "messages": whole["chosen"],
            "prompt_id": "a1",
            "score_chosen": 8.5,
        },
        "ShareGPT": {
            "conversations": shared_gpt(turns),
            "chosen": {"from": "gpt", "value": chosen},
            "rejected": {"from": "gpt", "value": rejected},
        },
        "ShareGPT, system beside": {
            "conversations": shared_gpt(turns_of(None, history, question)),
            **answers,
            "system": system,
        },
        "ShareGPT in the answers": {name: shared_gpt(value) for name, value in whole.items()},
        "messages": {"messages": turns, **{name: value[0] for name, value in messages.items()}},
        "ms-swift": {"messages": whole["chosen"], "rejected_response": rejected},
        "ms-swift, two conversations": {"messages": whole["chosen"], "rejected_messages": whole["rejected"]},
        "ms-swift, human and assistant": {
            "conversation": [{"human": a, "assistant": b} for a, b in [*history, (question, chosen)]],
            "system": system,
            "rejected_response": rejected,
        },
        "ms-swift query": {"query": question, "response": chosen, "rejected_response": rejected, **beside},
        "ms-swift Alpaca": {"instruction": question, "output": chosen, "rejected_response": rejected, **beside},
        "LLaMA-Factory": {"instruction": question, "input": "", **answers, **beside},
        "LLaMA-Factory, older": {"instruction": question, "input": "", "output": [chosen, rejected], **beside},
        "AlpacaFarm": {"instruction": question, "output_1": rejected, "output_2": chosen, "preference": 2, **beside},
        "Orca": {"question": question, **answers, **beside},
        "Argilla": {"prompt": question, "chosen_response": chosen, "rejected_response": rejected, **beside},
        "ropo pairs": {"prompt": turns, **messages, "scorer": "rules", "sampling": {"seed": 0}, "anything": "carried"},
    }
    if system is None:
        parts = [("Human", asked, "Assistant", said) for asked, said in history]
        before = "".join(f"\n\n{a}: {b}\n\n{c}: {d}" for a, b, c, d in parts) + f"\n\nHuman: {question}\n\nAssistant:"
        records["HH"] = {name: f"{before} {text}" for name, text in answers.items()}
        records["HH with a prompt"] = {"prompt": before, **{name: f" {text}" for name, text in answers.items()}}
    return records


def pair_of(record: dict[str, Any], wrap: bool = True) -> dict[str, Any]:
    row = collect("x", [("x:1", record)], wrap).pairs[0]
    return {name: value for name, value in row.items() if name != "where" and value}


@given(st.none() | texts, exchanges, texts, texts, texts)
def test_every_format_is_the_same_record(system, history, question, chosen, rejected) -> None:
    assume(chosen != rejected)
    expected = {
        "prompt": turns_of(system, history, question),
        "chosen": [assistant(chosen)],
        "rejected": [assistant(rejected)],
    }
    records = records_of(system, history, question, chosen, rejected)
    assert len(records) >= 19
    rows = collect("x", records.items(), wrap_prompts=True).pairs
    assert {row["where"]: {name: row[name] for name in expected} for row in rows} == {
        "TRL": expected
    }  # others repeat it


@given(texts, texts, texts, texts)
def test_an_input_stands_on_the_next_line(instruction, given_input, chosen, rejected) -> None:
    assume(chosen != rejected)
    record = {"instruction": instruction, "input": given_input, "chosen": chosen, "rejected": rejected}
    assert pair_of(record)["prompt"] == [user(f"{instruction}\n{given_input}")]
    assert pair_of(record, wrap=False)["prompt"] == f"{instruction}\n{given_input}"


def test_a_blank_input_is_none() -> None:
    record = {"instruction": "Where?", "input": " \n", "chosen": "a", "rejected": "b"}
    assert pair_of(record)["prompt"] == [user("Where?")]


def test_plain_dialogues_keep_their_markup_and_part_before_the_answer() -> None:
    said = "\n\nHuman: Where is the Louvre?\n\nAssistant:"
    record = {"chosen": f"{said} The Louvre is in Paris.", "rejected": f"{said} The Louvre is in Rome."}
    expected = {"prompt": said, "chosen": " The Louvre is in Paris.", "rejected": " The Louvre is in Rome."}
    assert pair_of(record, wrap=False) == expected
    assert pair_of(expected, wrap=False) == expected
    assert pair_of(expected)["prompt"] == [user("Where is the Louvre?")]


@pytest.mark.parametrize("name", ["tools", "chat_template_kwargs"])
def test_what_the_template_gets_beside_a_text_makes_it_a_conversation(name) -> None:
    beside = {"tools": [{"name": "add"}], "chat_template_kwargs": {"enable_thinking": False}}[name]
    record = {"prompt": "2 + 2", "chosen": "4", "rejected": "5", name: beside}
    found = pair_of(record, wrap=False)
    assert found["prompt"] == [user("2 + 2")]
    assert found[name] == (json.dumps(beside) if name == "tools" else beside)
    assert pair_of({**record, name: json.dumps(beside)}, wrap=False) == found


def test_calls_and_their_results() -> None:
    turns = [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": json.dumps(calls[0])},
        {"from": "observation", "value": "rain"},
    ]
    record = {
        "conversations": turns,
        "chosen": {"from": "gpt", "value": "Rain."},
        "rejected": {"from": "function_call", "value": json.dumps(calls)},
    }
    called = {"role": "assistant", "tool_calls": [{"type": "function", "function": calls[0]}]}
    found = pair_of(record)
    assert found["prompt"] == [user("Weather?"), called, {"role": "tool", "content": "rain"}]
    assert found["rejected"] == [called]


def test_a_developer_keeps_its_role() -> None:
    turns = [{"role": "developer", "content": "Be brief."}, user("Hi")]
    assert pair_of({"prompt": turns, "chosen": [assistant("a")], "rejected": [assistant("b")]})["prompt"] == turns


@pytest.mark.parametrize(("user_name", "answer_name"), [("human", "gpt"), ("user", "model"), ("human", "bot")])
def test_roles_by_other_names(user_name, answer_name) -> None:
    asked = {"role": user_name, "content": "Hi"}
    record = {"prompt": [asked], "chosen": [{"role": answer_name, "content": "a"}], "rejected": [assistant("b")]}
    expected = {"prompt": [user("Hi")], "chosen": [assistant("a")], "rejected": [assistant("b")]}
    assert pair_of(record) == expected
    whole = {name: [asked, *record[name]] for name in ("chosen", "rejected")}
    assert pair_of(whole) == expected
    assert pair_of({"prompt": "Hi", **whole}) == expected
    assert pair_of({"messages": [asked], **{name: record[name] for name in whole}}) == expected


def test_a_named_function_is_a_tool() -> None:
    result = {"role": "function", "name": "weather", "content": "4 C"}
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": calls[0]}]}
    record = {"prompt": [user("Weather?"), call, result], "chosen": [assistant("a")], "rejected": [assistant("b")]}
    assert pair_of(record)["prompt"][-1] == {**result, "role": "tool"}
    del result["name"]
    with pytest.raises(UserError, match="prompt, turn 3 has the role 'function', a call or its result; name it 'func"):
        pair_of(record)


@pytest.mark.parametrize("beside", [{"system": "Be brief."}, {"history": [["a", "b"]]}, {"tools": [{"name": "add"}]}])
def test_what_stands_beside_whole_conversations_comes_before_them(beside) -> None:
    whole = {name: [user("Hi"), assistant(name)] for name in ("chosen", "rejected")}
    found = pair_of({"prompt": "Hi", **whole, "messages": whole["chosen"], **beside})
    assert (
        found
        == pair_of({**whole, **beside})
        == pair_of({"prompt": "Hi", "chosen": "chosen", "rejected": "rejected", **beside})
    )


@pytest.mark.parametrize("break_", ["\n", "\r\n"])
def test_dialogues_of_any_system(break_) -> None:
    gap = 2 * break_
    said = f"{gap}Human: Hi{gap}Assistant: Yes?{gap}Human: Why?{gap}Assistant:"
    expected = {"prompt": [user("Hi"), assistant("Yes?"), user("Why?")]} | {
        name: [assistant(name)] for name in ("chosen", "rejected")
    }
    texts = {name: f" {name}" for name in ("chosen", "rejected")}
    assert pair_of({name: said + text for name, text in texts.items()}) == expected
    assert pair_of({"prompt": said, **texts}) == expected
    assert prompt_of({"prompt": said})["prompt"] == expected["prompt"]


@pytest.mark.parametrize(
    "said",
    [
        "Be kind.\n\nHuman: Hi\n\nAssistant:",
        "Human: Hi\nAssistant:",
        "User: Hi\nAssistant:",
        "\n\nHuman: Hi\n\n\tAssistant:",
    ],
)
def test_what_is_almost_a_dialogue_is_refused_for_a_chat_template_alone(said) -> None:
    texts = {"chosen": " yes", "rejected": " no"}
    for record in ({"prompt": said, **texts}, {name: said + text for name, text in texts.items()}):
        with pytest.raises(UserError, match=r"is marked with Human: and Assistant: .* give --plain_prompts"):
            pair_of(record)
        assert pair_of(record, wrap=False) == {"prompt": said, **texts}


def test_a_text_may_quote_a_dialogue() -> None:
    quoted = "Sum this up.\nHuman: Hi\nAssistant: Yes?\nWhat was asked?"
    assert pair_of({"prompt": quoted, "chosen": "a", "rejected": "b"})["prompt"] == [user(quoted)]


CALLS = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    "call",
    [CALLS, CALLS["function"], {"function": {"name": "add", "arguments": '{"a": 1}'}}, {"function": {"name": "now"}}],
)
def test_calls_as_libraries_write_them(call) -> None:
    turn = {"role": "assistant", "tool_calls": [call]}
    assert pair_of({"prompt": [user("a")], "chosen": [turn], "rejected": [assistant("b")]})["chosen"] == [turn]


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"tool_calls": {"function": {"name": "add"}}}, "tool_calls must be a list of calls"),
        ({"tool_calls": "[]"}, "tool_calls must be a list of calls"),
        ({"tool_calls": [{"type": "function"}]}, "call 1: the function's name must be text, not nothing"),
        ({"tool_calls": [CALLS, {"function": None}]}, "call 2: must be an object with a function"),
        ({"tool_calls": [CALLS, "add"]}, r"call 2: must be an object with a function, .* not 'add' \(str\)"),
        ({"tool_calls": [{"function": {"name": "", "arguments": {}}}]}, "call 1: the function's name must be text"),
        ({"tool_calls": [{"function": {"name": "add", "arguments": "a=1"}}]}, "call 1: arguments must be an object or"),
        ({"tool_calls": [{"function": {"name": "add", "arguments": [1]}}]}, "call 1: arguments must be an object or"),
        ({"tool_calls": [{"function": {"name": "add", "arguments": "3"}}]}, "call 1: arguments must be an object or"),
        ({"tool_calls": [{"function": {"name": "add", "arguments": None}}]}, "call 1: arguments must be an object or"),
        ({"content": "a", "function_call": {"name": "add", "arguments": "{}"}}, "function_call is read by no chat"),
        ({"role": "user", "content": "a", "tool_calls": [CALLS]}, "tool_calls belong to the assistant's turn"),
    ],
)
def test_malformed_calls_are_named(turn, message) -> None:
    turns = [{"role": "assistant", **turn}]
    record = {"prompt": [user("a")], "chosen": turns, "rejected": [assistant("b")]}
    with pytest.raises(UserError, match=f"^data x:1: chosen, message 1: .*{message}"):
        pair_of(record)


ANSWERS = {"chosen": "The Louvre is in Paris.", "rejected": "The Louvre is in Rome."}
ASKED = {"prompt": "Where is the Louvre?", **ANSWERS}
TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**ANSWERS, "Question": "Where?"}, "the column 'Question' .* would be read by nobody.*call it 'prompt'"),
        ({**ANSWERS, "input": "Where?"}, "the column 'input' .* would be read by nobody.*call it 'prompt'"),
        ({**ASKED, "input": "A long text."}, r"the column 'input' \('A long text.' \(str\)\) would be read by nobody"),
        ({**ASKED, "context": "A long text."}, "the column 'context' .* call it 'meta_context'"),
        ({**ASKED, "label": 0}, "the column 'label' .* would be read by nobody"),
        ({**ASKED, "source": "An article.\nIt goes on."}, "the column 'source' .* would be read by nobody"),
        ({**ASKED, "source": "words " * 50}, "the column 'source' .* would be read by nobody"),
        (
            {"prompt": [{**user("Where?"), "images": ["a.png"]}], "chosen": "b", "rejected": "c"},
            r"prompt, message 1: 'images' holds \['a.png'\] \(list\), but only text",
        ),
        ({**ASKED, "images": ["a.png"]}, r"the column 'images' holds \['a.png'\] \(list\), but only text"),
        ({**ASKED, "audios": ["a.wav"]}, "the column 'audios' holds"),
        ({**ASKED, "instruction": "Where?"}, "both 'prompt' and 'instruction', and each could be the question"),
        ({**ANSWERS, "question": "a", "query": "b"}, "both 'question' and 'query'"),
        ({**ASKED, "messages": [user("Why?")]}, "columns 'prompt' and 'messages', and only the latter says 'Why"),
        ({**ANSWERS, "system": "Be brief."}, "a column 'system' but texts without a prompt"),
        ({**ANSWERS, "tools": [{"name": "add"}]}, "a column 'tools' but texts without a prompt"),
        ({**ASKED, "history": [["a"]]}, r"history, exchange 1 must be \[user, assistant\]"),
        ({**ASKED, "history": "a"}, "history is not valid JSON"),
        ({**ASKED, "history": "1"}, r"history must be a list of \[user, assistant\], not 1"),
        ({**ASKED, "system": 3}, "system must be text, not 3"),
        ({**ASKED, "system": "a", "system_prompt": "b"}, "both 'system' and 'system_prompt'"),
        ({**ASKED, "tools": "{}"}, "tools must be a list, not {}"),
        ({**ASKED, "chat_template_kwargs": [1]}, r"chat_template_kwargs must be an object, not \[1\]"),
        ({**ASKED, "chat_template_kwargs": {"tools": 1}}, "chat_template_kwargs must not set 'tools'"),
        (
            {"prompt": [{"role": "system", "content": "a"}, user("b")], **ANSWERS, "system": "c"},
            "a system column and turns that start with another system's message",
        ),
        (
            {
                "prompt": "Why?",
                "chosen": [user("Where?"), assistant("a")],
                "rejected": [user("Where?"), assistant("b")],
            },
            "prompt says 'Why.', which is no user's turn of chosen and rejected",
        ),
        (
            {"chosen": [user("a"), user("b"), assistant("c")], "rejected": [user("a"), user("d"), assistant("c")]},
            "the prompts of chosen and rejected differ in turn 2",
        ),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"},
            "the prompts of chosen and rejected differ in turn 1",
        ),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: d", "system": "e"},
            "a column 'system' beside a dialogue that is one text",
        ),
        ({"conversations": TURNS, **ANSWERS}, "the conversation ends with the assistant's turn"),
        ({"conversations": [{"from": "robot", "value": "Hi"}], **ANSWERS}, "turn 1 has the role 'robot'"),
        ({"conversations": [{"from": ["human"], "value": "Hi"}], **ANSWERS}, r"turn 1 has the role \['human'\]"),
        ({"conversations": [{"from": "human", "value": 3}], **ANSWERS}, "turn 1 must be text, not 3"),
        (
            {"conversations": [{"from": "human", "value": "a", "weight": 0}], **ANSWERS},
            "the field 'weight' beside from",
        ),
        ({"conversations": [{"from": "function_call", "value": "a"}], **ANSWERS}, "is a call whose value"),
        ({"conversations": [{"from": "function_call", "value": "[1]"}], **ANSWERS}, "is a call that must be an object"),
        ({"conversation": [{"human": "a", "bot": "b", "x": "c"}], **ANSWERS}, "must be an object with human and"),
        ({"conversations": "[]", **ANSWERS}, "must be a list of turns"),
        ({"messages": [user("a")], "rejected_response": "b"}, "must end with the assistant's turn"),
        ({"instruction": "a", "output": "b"}, "output must be a list of two answers"),
        ({"instruction": "a", "output": ["b"]}, "output must be a list of two answers"),
        ({"instruction": "a", "output_1": "b", "output_2": "c", "preference": 1.5}, "preference must be 1 or 2"),
        (
            {**ASKED, "chosen": '[{"role": "assistant", "content": "a"}]'},
            "chosen is a text that holds a list of messages",
        ),
        (
            {**ASKED, "chosen": '{"role": "assistant", "content": "a"}'},
            "chosen is a text that holds a list of messages",
        ),
        (
            {"question": '[{"from": "human", "value": "a"}]', **ANSWERS},
            "question is a text that holds a list of messages",
        ),
    ],
)
def test_what_would_be_dropped_is_named(record, message) -> None:
    with pytest.raises(UserError, match=f"^data x:1: .*{message}"):
        collect("x", [("x:1", record)], wrap_prompts=True)


def test_labels_are_left_out_and_said() -> None:
    labels = {
        **{"id": 3, "source": "web", "chosen-rating": 4.5, "score_rejected": 2, "ranks": [1, 2], "meta_why": "a\nb"},
        "metadata": {"any": "thing\n" * 100},
    }
    silent = {"input": "", "images": [], "history": None, "tools": "", "system": " "}
    data = collect("x", [("x:1", {**ASKED, **labels, **silent})], wrap_prompts=True)
    names = ", ".join(repr(name) for name in labels)
    assert data.reading == f"read as TRL (prompt, chosen, rejected); not read, as labels: {names}"
    assert data.pairs[0]["prompt"] == [user(ASKED["prompt"])]


def test_several_formats_in_one_file_are_said() -> None:
    other = {"question": "Why?", "chosen": "a", "rejected": "b"}
    data = collect("x", [("x:1", ASKED), ("x:2", other), ("x:3", {**other, "chosen": "c"})], wrap_prompts=True)
    assert data.reading == (
        "read as TRL (prompt, chosen, rejected) in 1 records, Orca DPO (question, chosen, rejected) in 2 records"
    )


columns = sorted({name for each in FORMATS for name in each.needs} | {*BESIDE, *MEDIA, "input", "messages", "id", "x"})
values = st.sampled_from(
    [
        *("text", "\n\nHuman: a\n\nAssistant:", "\n\nHuman: a\n\nAssistant: b", "", None, 3, [], {}),
        *(
            [user("a")],
            [assistant("a")],
            [user("a"), assistant("b")],
            shared_gpt([user("a")]),
            assistant("b"),
            ["a", "b"],
        ),
    ]
)


@given(st.dictionaries(st.sampled_from(columns), values))
def test_a_record_is_of_one_format_or_of_none(record) -> None:
    try:
        found = format_of(record)
    except ValueError:
        return
    present = [name for name, value in record.items() if value or name in ("prompt", "chosen", "rejected")]
    assert all(found.reads(name) or is_label(name, record[name]) or found.open for name in present)
    fitting = [
        each
        for each in FORMATS
        if all(name in present for name in each.needs)
        and (each.open or all(each.reads(name) or is_label(name, record[name]) for name in present))
        and each.fits(record)
    ]
    assert fitting == [found]


def test_formats_of_the_same_columns_share_all_records_among_them() -> None:
    shapes = [
        "text",
        "\n\nHuman: a\n\nAssistant:",
        "\n\nHuman: a\n\nAssistant: b",
        [user("a")],
        [assistant("a")],
        None,
        3,
    ]
    several = 0
    for needs in {frozenset(each.needs) for each in FORMATS}:
        rivals = [each for each in FORMATS if frozenset(each.needs) == needs]
        several += len(rivals) > 1
        for shape in itertools.product(shapes, repeat=3):
            record = {**dict.fromkeys(needs, "text"), **dict(zip(("prompt", "chosen", "rejected"), shape, strict=True))}
            assert sum(each.fits(record) for each in rivals) == 1, record
    assert several == 3


def shapes(one: str, other: str) -> list[Any]:
    """Return values of many shapes that say two words, the usual ones first."""
    shared = "\n\nHuman: Why?\n\nAssistant:"
    return [
        *(f"{one} {other}", [user(one)], [assistant(one)], shared_gpt([user(one), assistant(other)])),
        *([user("Why?"), assistant(one)], f"{shared} {one}", f"The {one}", [one, other], [[one, other]], {"any": one}),
        *(assistant(one), [user(one), assistant(other)], 2, "", None, shared_gpt([user(one)])),
        *(shared_gpt([assistant(one)])[0], [{"human": one, "assistant": other}], [{"from": "tool", "value": one}]),
        [{"role": "tool", "content": one}],
    ]


@st.composite
def marked_records(draw: Any) -> dict[str, Any]:
    """Draw a record of a format's columns and perhaps others, in which every text has a word of its own."""
    usual = draw(st.integers(0, 3)) > 0
    any_shape = st.integers(0, 3 if usual else len(shapes("", "")) - 1)
    kinds = {name: draw(any_shape) for name in draw(st.sampled_from(FORMATS)).needs}
    if "rejected" in kinds and draw(st.integers(0, 3)) > 0:
        kinds["rejected"] = kinds["chosen"]
    kinds |= {name: draw(any_shape) for name in draw(st.lists(st.sampled_from(columns), max_size=2))}
    return {name: shapes(f"w{i}x", f"w{i}y")[kind] for i, (name, kind) in enumerate(kinds.items())}


def test_no_word_is_lost() -> None:
    """Whatever the columns: a record is refused, or its words are all in the pair or in columns named as labels."""
    read = 0

    @settings(max_examples=600, derandomize=True, database=None)
    @given(marked_records())
    def one(record: dict[str, Any]) -> None:
        nonlocal read
        try:
            data = collect("x", [("x:1", record)], wrap_prompts=True)
        except UserError:
            return
        read += 1
        pair = data.pairs[0]
        said = json.dumps(pair)
        if isinstance(pair["prompt"], str):  # two texts may part within a word
            said += pair["prompt"] + pair["chosen"] + pair["prompt"] + pair["rejected"]
        for name, value in record.items():
            lost = [word for word in re.findall(r"w\d+[xy]", json.dumps(value)) if word not in said]
            named = repr(name) in data.reading or name in ("scorer", "sampling")  # columns of ropo's own pairs
            assert not lost or named, (record, said)

    one()
    assert read > 60
