"""FastChat's files, fetched where none are named: from a real HTTP server on this machine."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest

from ropo.core.errors import UserError
from ropo.evaluation.mt_bench import FILES, MtBenchSettings, benchmark
from ropo.evaluation.mt_bench.benchmark import NAMES, published_file, read_benchmark

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["one", "two"]},
    {"question_id": 111, "category": "math", "turns": ["three", "four"]},
]
ANSWERS = [{"question_id": 111, "choices": [{"turns": ["right", "right too"]}]}]
PROMPTS = [{"name": name, "system_prompt": "s", "prompt_template": "t"} for name in NAMES.values()]
RECORDS = {"questions": QUESTIONS, "reference_answers": ANSWERS, "judge_prompts": PROMPTS}


class Server(ThreadingHTTPServer):
    """Serve a folder and note what is fetched."""

    def __init__(self, folder: Path) -> None:
        self.fetched: list[str] = []
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                server.fetched.append(self.path)
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """FastChat's repository on localhost, the network switched on, and a cache of its own."""
    for name, records in RECORDS.items():
        write(tmp_path / "fastchat" / FILES[name], *records)
    with Server(tmp_path / "fastchat") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(benchmark, "PAGE", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "cache")
        yield server
        server.shutdown()


def write(path: Path, *records: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def settings(**given: object) -> MtBenchSettings:
    return MtBenchSettings(judge="openai:m", **given)


def test_where_no_file_is_named_all_three_are_fetched_once(server):
    for _ in range(2):
        benchmark = read_benchmark(settings())
        assert [question.number for question in benchmark.questions] == [81, 111]
        assert benchmark.references == {111: ["right", "right too"]}
        assert benchmark.name == "question.jsonl"
    assert sorted(server.fetched) == sorted(f"/{file}" for file in FILES.values())


def test_what_was_fetched_is_read_without_network(server, monkeypatch):
    before = read_benchmark(settings())
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert read_benchmark(settings()).questions == before.questions


def test_a_named_file_is_not_fetched(server, tmp_path):
    own = {name: write(tmp_path / f"{name}.jsonl", *records) for name, records in RECORDS.items()}
    assert read_benchmark(settings(**own)).name == "questions.jsonl"
    assert server.fetched == []
    writing = write(tmp_path / "writing.jsonl", QUESTIONS[0])
    read_benchmark(settings(questions=writing, judge_prompts=own["judge_prompts"]))
    assert server.fetched == [], "nothing is judged against an answer"


def test_questions_of_your_own_do_not_get_the_published_answers(server, tmp_path):
    own = write(tmp_path / "own.jsonl", *QUESTIONS)
    with pytest.raises(UserError, match=r"reference_answers: 1 questions of .*own.jsonl .*question_id 111, math"):
        read_benchmark(settings(questions=own))
    assert server.fetched == []


def test_without_network_one_line_says_where_to_get_the_file(server, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    mend = r"get http://127.0.0.1:\d+/mt_bench/question.jsonl and name it with --questions$"
    with pytest.raises(UserError, match=rf"questions: cannot be fetched \(Offline mode.*; {mend}"):
        published_file("questions")


def test_a_file_that_is_gone_is_one_line(server, tmp_path):
    (tmp_path / "fastchat" / FILES["judge_prompts"]).unlink()
    with pytest.raises(UserError, match=r"judge_prompts: cannot be fetched \(404"):
        published_file("judge_prompts")
    assert not list((tmp_path / "cache").glob("*.incomplete"))
