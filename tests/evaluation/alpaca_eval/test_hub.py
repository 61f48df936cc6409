"""What comes from the hub where there is network: a stand-in for the download, as there is none here."""

from __future__ import annotations

import json
from hashlib import sha256

import huggingface_hub
import pytest

from ropo.cli.main import main
from ropo.evaluation.alpaca_eval import metrics
from ropo.evaluation.results import read_results

COUNT = 12
LACKS = "lacks the instruction difficulties"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(metrics, "REFITS", 20)  # the intervals are tested elsewhere
    (tmp_path / "letters.py").write_text("def length(record, answers):\n    return [len(a) for a in answers]\n")
    write("mine.json", [f"mine {'x' * (5 * i % 9)}" for i in range(COUNT)])
    write("alpaca_eval_gpt4_baseline.json", [f"other {'y' * (7 * i % 8)}" for i in range(COUNT)])
    rows = [f"{i},{(i * 5) % COUNT - 6}.5\n" for i in reversed(range(COUNT))]
    (tmp_path / "instruction_difficulty.csv").write_text("index,instruction_difficulty\n" + "".join(rows))
    return tmp_path


def write(name, texts):
    with open(name, "w") as file:
        json.dump([{"instruction": f"request {i}", "output": text} for i, text in enumerate(texts)], file)


@pytest.fixture
def asked(place, monkeypatch):
    names = []

    def download(repository, name, repo_type):
        names.append((repository, name, repo_type))
        if not (place / name).is_file():
            raise OSError("cannot be reached\nand more lines")
        return str(place / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return names


def evaluate(*flags):
    return main(["evaluate", "alpaca-eval", "mine.json", "--judge", "letters:length", "--output", "out", *flags])


def test_reference_and_difficulties_are_those_of_alpaca_eval_2(place, asked):
    assert evaluate() == 0
    repository = ("tatsu-lab/alpaca_eval", "dataset")
    assert [(name, kind) for name, _, kind in asked] == [repository] * 2
    result = read_results(place / "out")
    assert result.models[0].metric("win_rate").count == COUNT
    fitted = result.models[0].details["length_control"]
    assert fitted["psi"] is not None
    assert not any(LACKS in note for note in result.notes)

    known = {f"request {i}": float(f"{(i * 5) % COUNT - 6}.5") for i in range(COUNT)}
    hashed = {sha256(text.encode()).hexdigest()[:12]: value for text, value in known.items()}
    for each in (known, hashed):
        (place / "known.json").write_text(json.dumps(each))
        assert evaluate("--difficulties", "known.json", "--overwrite") == 0
        assert read_results(place / "out").models[0].details["length_control"] == fitted


def test_without_difficulties_the_rate_says_what_it_lacks(place, asked):
    (place / "instruction_difficulty.csv").unlink()
    assert evaluate() == 0
    result = read_results(place / "out")
    assert result.models[0].details["length_control"]["psi"] is None
    assert any(LACKS in note for note in result.notes)


def test_other_references_take_nothing_from_the_hub(place, asked):
    assert evaluate("--reference_outputs", "alpaca_eval_gpt4_baseline.json") == 0
    assert asked == []
    assert read_results(place / "out").models[0].details["length_control"]["psi"] is None


def test_without_network_one_line_names_the_way_out(place, asked, capsys):
    (place / "alpaca_eval_gpt4_baseline.json").unlink()
    assert evaluate() == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "ropo evaluate: error: reference outputs tatsu-lab/alpaca_eval/alpaca_eval_gpt4_baseline.json: the hub does "
        "not give them (cannot be reached); get https://huggingface.co/datasets/tatsu-lab/alpaca_eval/resolve/main/"
        "alpaca_eval_gpt4_baseline.json and name it with --reference_outputs"
    ]
    assert not (place / "out").exists()


NO_TABLE = "must be a JSON object from instruction, or instruction_sha, to number, or AlpacaEval's instruction_diff"
HEADER = "index,instruction_difficulty\n"
FIRST = f'"request 0": 1, "{sha256(b"request 1").hexdigest()[:12]}"'


@pytest.mark.parametrize(
    ("name", "text", "messages"),
    [
        ("bad.csv", f"{HEADER}0,1.5\n", ["lack 11 of 12 instructions, the first 'request 1'", "instruction_sha"]),
        ("bad.csv", f"{HEADER}zero,1.5\n", [NO_TABLE, "'zero'"]),
        ("bad.csv", f"{HEADER}0\n", [NO_TABLE]),
        ("bad.csv", f"{HEADER}0,1\n-1,1\n", [NO_TABLE, "place -1 stands twice or is none"]),
        ("bad.csv", f"{HEADER}0,1\n0,2\n", [NO_TABLE, "place 0 stands twice or is none"]),
        ("bad.csv", f"{HEADER}0,nan\n", [NO_TABLE, "NaN is no finite number"]),
        ("bad.csv", HEADER + '0,"' + "1" * 200_000, [NO_TABLE]),
        ("bad.CSV", f"{HEADER}0,\xe9\n", [NO_TABLE, "utf-8"]),
        ("bad.csv", "", [NO_TABLE]),
        ("bad.json", "[1, 2]", [NO_TABLE, "is list"]),
        ("bad.json", '{"request 0": ', [NO_TABLE, "is not valid JSON"]),
        ("bad.json", f"{{{FIRST}: true}}", [NO_TABLE, "true is no finite number"]),
        ("bad.json", f'{{{FIRST}: "2"}}', [NO_TABLE, '"2" is no finite number']),
        ("bad.json", f"{{{FIRST}: [2]}}", [NO_TABLE, "[2] is no finite number"]),
        ("bad.json", f"{{{FIRST}: 1e999}}", [NO_TABLE, "Infinity is no finite number"]),
        ("bad.json", f"{{{FIRST}: 1{'0' * 400}}}", [NO_TABLE, "too large"]),
        ("bad.json", f"{{{FIRST}: 2}}", ["lack 10 of 12 instructions, the first 'request 2'"]),
        ("none.json", None, ["no such file"]),
    ],
)
def test_bad_difficulties_are_one_line(place, asked, capsys, name, text, messages):
    if text is not None:
        (place / name).write_text(text, encoding="latin-1")
    assert evaluate("--difficulties", name) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ropo evaluate: error: difficulties {name}: ")
    for message in messages:
        assert message in line
    assert not (place / "out").exists()
