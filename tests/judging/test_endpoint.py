"""The judge behind an endpoint, against a server that misbehaves."""

from __future__ import annotations

import math
import threading

import pytest
from tenacity import RetryCallState

from ropo.core.errors import UserError
from ropo.core.once import say
from ropo.judging.chat import ChatJudge, Failure, Reply
from ropo.judging.endpoint import EndpointChat, _Transient
from ropo.judging.judge import Meter, VerdictStore
from ropo.judging.options import JudgeOptions
from ropo.judging.reading import LOG_PROBS, TEXT, read_preference
from tests.evaluation.fake_endpoint import serving

KEY = "sk-secret-4711"
PATIENT = 60.0  # seconds: a busy machine may leave a thread waiting for long, and nothing here is about speed
SHORT = 1.0  # where the test is about running out of time


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)


def endpoint(url, model="m", max_tokens=1024, **options):
    given = {f"judge_{name}": value for name, value in ({"key_variable": "JUDGE_KEY"} | options).items()}
    return EndpointChat(model, JudgeOptions(judge=f"openai:{model}", judge_url=url, **given), max_tokens)


def chat(server, **options):
    options = {"timeout": PATIENT, "longest_wait": 0.02, "attempts": 3, "concurrency": 2} | options
    return endpoint(server.url, **options)


def ask_and_keep(model, conversations, folder, meter=None, advance=lambda replies: None):
    judge = ChatJudge(model, VerdictStore(folder))
    judge.meter = meter or Meter()
    return judge._replies(conversations, advance)


def questions(count):
    return [[{"role": "user", "content": f"question {number}"}] for number in range(count)]


def ask(server, folder, count=1, meter=None, **options):
    return ask_and_keep(chat(server, **options), questions(count), folder, meter)


def echo(body):
    return f"about {body['messages'][-1]['content']}"


def test_answers_come_back_in_order_and_are_counted(tmp_path):
    """No question is answered before four are open, so a judge that asks fewer at once would not come through."""
    meter, four = Meter(), threading.Barrier(4)

    def answer(body):
        four.wait(PATIENT)
        return echo(body)

    with serving(answer=answer) as server:
        found = ask(server, tmp_path, 20, meter, concurrency=4)
        assert server.keys == {f"Bearer {KEY}"}
        assert server.most_at_once == 4
    assert found == [Reply(f"about question {number}", 100, 10) for number in range(20)]
    assert meter.summary(2.0, 10.0) == {
        "calls": 20,
        "kept": 0,
        "retries": {},
        "failures": {},
        "prompt_tokens": 2000,
        "completion_tokens": 200,
        "answers_without_token_count": 0,
        "cost": pytest.approx((2000 * 2 + 200 * 10) / 1e6),
    }


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("429", "too many requests (429)"),
        ("500", "server error (500)"),
        ("503", "server error (503)"),
        ("not json", "nonsense instead of a completion"),
        ("broken json", "nonsense instead of a completion"),
        ("wrong shape", "nonsense instead of a completion"),
        ("empty choices", "empty choice"),
        ("no content", "empty choice"),
        ("hang up", "no connection"),
        ("silence", "no answer within 1 s"),
    ],
)
def test_a_fault_is_survived_and_counted(tmp_path, fault, reason):
    """Question 0 meets the fault once, question 1 always, question 2 never."""

    def faults(text, before):
        return fault if ("question 0" in text and not before) or "question 1" in text else None

    meter = Meter()
    with serving(answer=echo, faults=faults) as server:
        found = ask(server, tmp_path, 3, meter, timeout=SHORT if fault == "silence" else PATIENT)
        assert sorted(server.asked.values()) == [1, 2, 3]
    assert [getattr(answer, "text", None) for answer in found] == ["about question 0", None, "about question 2"]
    assert found[1] == Failure(reason, passing=True)
    assert meter.retries == {reason: 3}
    assert meter.failures == {reason: 1}
    assert meter.calls == 2


@pytest.mark.parametrize(("asked", "longest", "paused"), [(0.01, 0.02, 0.01), (7.0, 0.02, 0.02), (None, 0.02, None)])
def test_a_pause_is_as_long_as_the_server_asks_up_to_the_longest(asked, longest, paused):
    """Without a wish of the server it is drawn by chance, so that threads spread out."""
    state = RetryCallState(None, None, (), {})
    state.set_exception((_Transient, _Transient("too many requests (429)", asked), None))
    judge = endpoint("http://127.0.0.1:1/v1", longest_wait=longest)
    found = [judge._pause(state) for _ in range(50)]
    assert all(0 <= pause <= longest for pause in found)
    assert (set(found) == {paused}) if paused else (len(set(found)) > 40)


def test_the_servers_wish_for_a_pause_is_read(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(EndpointChat, "_pause", lambda self, state: waits.append(state.outcome.exception().wait) or 0)
    with serving(answer=echo, faults=lambda text, before: None if before else "429") as server:
        ask(server, tmp_path)
    assert waits == [0.01]


def test_failures_are_asked_again_by_the_next_run_and_answers_are_not(tmp_path):
    with serving(answer=echo, faults=lambda text, before: "500" if "question 1" in text else None) as server:
        assert isinstance(ask(server, tmp_path, 3)[1], Failure)
        server.faults = lambda text, before: None
        meter = Meter()
        assert [answer.text for answer in ask(server, tmp_path, 3, meter)] == [f"about question {i}" for i in range(3)]
        assert set(server.answered.values()) == {1}
    assert (meter.calls, meter.kept) == (1, 2)


def test_a_question_that_stands_twice_is_asked_once(tmp_path):
    with serving(answer=echo) as server:
        twice = [*questions(1), *questions(2)]
        steps = []
        found = ask_and_keep(chat(server), twice, tmp_path, Meter(), steps.append)
        assert server.asked.total() == 2
    assert found[0] == found[1] != found[2]
    assert sum(steps) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "other"), ("url", None), ("max_tokens", 7), ("logprobs", True)],
)
def test_another_judge_takes_no_verdict_of_this_one(tmp_path, field, value):
    with serving(answer=echo) as server:
        one = {"url": server.url}
        other = one | {field: value or server.url.replace("127.0.0.1", "localhost")}
        for each in (one, one, other, other):
            ask_and_keep(endpoint(**each), questions(1), tmp_path)
        assert server.asked.total() == 2


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("401", "refuses the key of JUDGE_KEY"),
        ("403", "refuses the key of JUDGE_KEY"),
        ("404", "does not know this model"),
    ],
)
def test_the_users_mistake_ends_the_run_at_once(tmp_path, status, message):
    with serving(answer=echo, faults=lambda text, before: status) as server:
        with pytest.raises(UserError, match=message) as caught:
            ask(server, tmp_path, 50)
        assert server.asked.total() < 50
    assert KEY not in str(caught.value)


def test_a_refused_question_fails_without_another_attempt(tmp_path):
    with serving(answer=echo, faults=lambda text, before: "400" if "question 1" in text else None) as server:
        found = ask(server, tmp_path, 3)
        assert server.asked.total() == 3
    assert found[1] == Failure("refused (400: unsupported_value, top_p)"), "what the server says is wrong"


def test_a_dead_server_ends_the_run_before_all_questions_have_failed(tmp_path):
    with serving(answer=echo, faults=lambda text, before: "500") as server:
        with pytest.raises(UserError, match="gave no answer to 10 questions in a row"):
            ask(server, tmp_path, 200, attempts=1)
        assert server.asked.total() < 50


def test_a_question_is_its_whole_conversation(tmp_path):
    asked = [[{"role": "system", "content": word}, *questions(1)[0]] for word in ("kind", "strict")]
    with serving(answer=lambda body: body["messages"][0]["content"]) as server:
        found = ask_and_keep(chat(server), asked, tmp_path)
    assert [answer.text for answer in found] == ["kind", "strict"]


def test_failures_between_answers_do_not_end_the_run(tmp_path):
    def faults(text, before):
        return None if int(text.split("question ")[1].rstrip('"}]')) % 3 else "500"

    with serving(answer=echo, faults=faults) as server:
        found = ask(server, tmp_path, 36, attempts=1)
    assert sum(isinstance(answer, Failure) for answer in found) == 12, "more than end a run where they come in a row"


def test_the_key_reaches_no_file(tmp_path):
    with serving(answer=lambda body: f"your key is {KEY}", logprobs={KEY: -0.5, "A": -1.0}) as server:
        (found,) = ask(server, tmp_path, logprobs=True)
    assert found.text == "your key is [key]"
    assert found.first_token == {"[key]": -0.5, "A": -1.0}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 1
    assert KEY not in files[0].read_text()


@pytest.mark.parametrize("word", ["x", "1", "EMPTY"])
def test_a_word_for_a_server_without_keys_garbles_no_verdict(tmp_path, monkeypatch, word):
    monkeypatch.setenv("JUDGE_KEY", word)
    with serving(answer=lambda body: "An EMPTY box: [[1]]") as server:
        assert ask(server, tmp_path)[0].text == "An EMPTY box: [[1]]"
        assert server.keys == {f"Bearer {word}"}


def test_first_token(tmp_path):
    with serving(answer=echo, logprobs={"A": -0.1, "B": -2.4}) as server:
        (found,) = ask(server, tmp_path, logprobs=True)
        (plain,) = ask(server, tmp_path)
        assert server.asked.total() == 2, "another question: the answer without log-probabilities is no substitute"
    assert found.first_token == {"A": -0.1, "B": -2.4}
    assert plain.first_token is None


def test_tokens_of_one_text_add_up_and_one_told_twice_counts_once(tmp_path):
    """As tokenizers of SentencePiece have A with a blank and without; the key's places are one text too."""
    told = [("A", 0.3), ("B", 0.4), ("A", 0.2), ("B", 0.4), (KEY, 0.02), ("[key]", 0.01)]
    top = [{"token": token, "logprob": math.log(share), "bytes": None} for token, share in told]
    choice = {"message": {"content": "A"}, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}
    with serving(answer=lambda body: choice) as server:
        (found,) = ask(server, tmp_path, logprobs=True)
    wanted = {"A": 0.5, "B": 0.4, "[key]": 0.03}
    assert found.first_token == {token: pytest.approx(math.log(share)) for token, share in wanted.items()}


def test_replies_kept_before_equal_texts_added_up_are_asked_again_and_others_are_not(tmp_path):
    with serving(answer=echo, logprobs={"A": -0.1, "B": -2.4}) as server:
        for logprobs in (False, True):
            old = chat(server, logprobs=logprobs).identity | {"logprobs": logprobs}
            VerdictStore(tmp_path).put({"judge": old, "turns": questions(1)[0]}, {"text": "old"})
        assert ask(server, tmp_path, logprobs=True)[0].text == "about question 0"
        assert ask(server, tmp_path)[0].text == "old"


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("most", [5, None])
def test_a_server_that_tells_fewer_log_probs_is_asked_for_fewer_or_none(tmp_path, caplog, status, most):
    say.cache_clear()
    refusals = []

    def refusal(body):
        asked = body.get("top_logprobs")
        if asked is None or (most is not None and asked <= most):
            return None
        refusals.append(asked)
        return f"{status} top_logprobs"

    with serving(answer=lambda body: "A", refusal=refusal, logprobs={"A": -0.1, "B": -2.4}) as server:
        found = ask(server, tmp_path, 4, meter := Meter(), logprobs=True, concurrency=1)
    assert refusals == ([20] if most else [20, 5]), "what one question taught holds for the next"
    assert meter.retries.total() == len(refusals)
    assert [reply.first_token for reply in found] == [{"A": -0.1, "B": -2.4} if most else None] * 4
    assert caplog.text.count("tells no log-probabilities") == (0 if most else 1)
    assert read_preference(found[0].text, found[0].first_token) == (
        (pytest.approx(math.exp(-2.4) / (math.exp(-0.1) + math.exp(-2.4))), LOG_PROBS) if most else (0.0, TEXT)
    )


@pytest.mark.parametrize(("log_prob", "source"), [(-0.001, LOG_PROBS), (-0.4, TEXT)])
def test_a_server_that_tells_the_written_token_alone(tmp_path, log_prob, source):
    """The other letter has at most what is left: where that is little, the preference is known."""
    with serving(answer=lambda body: "B", logprobs={"B": log_prob}, top=False) as server:
        (found,) = ask(server, tmp_path, logprobs=True)
    assert found.first_token == {"B": log_prob}
    assert read_preference(found.text, found.first_token) == (1.0, source)


def test_a_server_that_counts_no_tokens(tmp_path):
    meter = Meter()
    with serving(answer=echo, usage=False) as server:
        assert ask(server, tmp_path, 2, meter)[0].prompt_tokens is None
    assert meter.uncounted == 2


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_in_a_field_of_its_own_does_not_matter(tmp_path, field):
    """Its first token is the thinking's, so its log-probabilities say nothing of the verdict."""
    choice = {"message": {"role": "assistant", "content": "B", field: "A seems right. Answer: A"}}
    with serving(answer=lambda body: choice, logprobs={"A": -0.01, "B": -5.0}) as server:
        (found,) = ask(server, tmp_path, logprobs=True)
    assert found == Reply("B", 100, 10)
    assert read_preference(found.text, found.first_token, found.cut) == (1.0, TEXT)


def test_an_answer_in_parts_is_its_text(tmp_path):
    parts = [{"type": "thinking", "thinking": "A?"}, {"type": "text", "text": "B"}]
    with serving(answer=lambda body: {"message": {"role": "assistant", "content": parts}}) as server:
        assert ask(server, tmp_path)[0].text == "B"


def test_an_answer_cut_while_it_thinks_is_received_once_and_kept(tmp_path):
    """Such an answer was paid for: asking the same again would only be paid again."""
    choice = {"message": {"role": "assistant", "content": None, "reasoning_content": "Hm"}, "finish_reason": "length"}
    with serving(answer=lambda body: choice) as server:
        for _ in range(2):
            (found,) = ask(server, tmp_path)
        assert server.asked.total() == 1
    assert found == Reply("", 100, 10, cut=True)


@pytest.mark.parametrize(
    "lacking", [{"temperature"}, {"max_tokens"}, {"system"}, {"temperature", "max_tokens", "system"}]
)
def test_a_model_that_reasons_is_asked_without_what_it_does_not_take(tmp_path, lacking):
    """As OpenAI's reasoning models, and chat templates without a system turn, refuse questions."""
    bodies = []

    def refusal(body):
        bodies.append(body)
        present = {*body, *(turn["role"] for turn in body["messages"])}
        return next((f"400 {name}" for name in sorted(lacking & present)), None)

    asked = [[{"role": "system", "content": "Be strict."}, *turns] for turns in questions(6)]
    with serving(answer=lambda body: body["messages"][-1]["content"], refusal=refusal) as server:
        found = ask_and_keep(chat(server, concurrency=1), asked, tmp_path, meter := Meter())
        assert server.asked.total() == 6 + len(lacking), "what one question taught holds for the next"
    folded = "Be strict.\n\n" if "system" in lacking else ""
    assert [reply.text for reply in found] == [f"{folded}question {number}" for number in range(6)]
    assert not {*bodies[-1], *(turn["role"] for turn in bodies[-1]["messages"])} & lacking
    assert meter.retries == {f"refused for its {name} (400)": 1 for name in lacking}
    longest = "max_completion_tokens" if "max_tokens" in lacking else "max_tokens"
    assert bodies[-1][longest] == 1024


def test_missing_key(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UserError, match="variable JUDGE_KEY holds no key"):
        endpoint("http://127.0.0.1:1/v1")


@pytest.mark.parametrize("given", [KEY, "sk_live_4711", "AIzaSecret"])
def test_a_key_given_as_the_name_of_its_variable_is_not_repeated(given):
    with pytest.raises(UserError, match="variable that --judge_key_variable names holds no key") as caught:
        endpoint("http://127.0.0.1:1/v1", key_variable=given)
    assert given not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://me:pw@x/v1", "http://x/v1?key=3", "http://"])
def test_bad_url(url):
    with pytest.raises(UserError, match="judge_url must") as caught:
        endpoint(url)
    assert "pw" not in str(caught.value)
