"""A judge behind any OpenAI-compatible endpoint: concurrent, patient, and never writing its key anywhere."""

from __future__ import annotations

__all__ = ()

import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from tenacity.nap import sleep_using_event

from ropo.core.errors import UserError
from ropo.core.once import say
from ropo.judging.chat import Conversation, Failure, Reply
from ropo.judging.judge import Meter
from ropo.judging.options import DEFAULT_URL, JudgeOptions
from ropo.lm.templating import joined_system

_TEMPERATURE = 0.0  # the likeliest answer
_PLACEHOLDER = "[key]"
_SHORTEST_KEY = 8  # characters; less is a word for a server that asks for no key, which a verdict may well hold
_HOPELESS = 10  # questions in a row, at least, that fail before a server counts as down
_TOP_TOKENS, _FEW_TOKENS = 20, 5  # the most that OpenAI's endpoint reports, and what most others allow


class _Transient(Exception):
    """A failed attempt that is worth another one, after a pause where the server names one."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Refused(Exception):
    """An attempt that the server will refuse again."""


class EndpointChat:
    """Ask an OpenAI-compatible endpoint.

    Args:
        model: Name of the model there.
        options: How to ask.
        max_tokens: Longest answer in tokens.

    Raises:
        UserError: If the environment has no key, or the URL is none or carries a secret.
    """

    def __init__(self, model: str, options: JudgeOptions, max_tokens: int) -> None:
        self.model, self.options, self.max_tokens = model, options, max_tokens
        self.name = f"openai:{model}"
        _check_url(options.judge_url)
        self._key = os.environ.get(options.judge_key_variable, "").strip()
        if not self._key:
            raise UserError(
                f"judge {self.name}: the environment variable {_safe_name(options.judge_key_variable)} holds no key; "
                "set it (a server that asks for none takes any text)"
            )
        self._lacks: set[str] = set()  # what the model was found not to take
        self._client = openai.OpenAI(
            api_key=self._key, base_url=options.judge_url, timeout=options.judge_timeout, max_retries=0
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Return model, URL and sampling settings."""
        return {
            "model": self.model,
            "url": self.options.judge_url,
            "temperature": _TEMPERATURE,
            "max_tokens": self.max_tokens,
            # Under True lie replies of which only the last of several tokens of one text was kept.
            "logprobs": "of texts" if self.options.judge_logprobs else False,
        }

    def ask(
        self, conversations: Sequence[Conversation], keep: Callable[[int, Reply], None], meter: Meter
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """Yield answers as they come; see `ropo.judging.chat.ChatModel`.

        Raises:
            UserError: If the server does not know the key or the model, or so many questions in a row fail, however
                patiently they are asked, that it is plainly down. What was answered until then is kept.
        """
        stop = threading.Event()
        pool = ThreadPoolExecutor(self.options.judge_concurrency, thread_name_prefix="judge")

        def answer(number: int) -> Reply | Failure:
            if stop.is_set():
                return Failure("not asked")
            found = self._ask_patiently(conversations[number], meter, stop)
            if isinstance(found, Reply):
                keep(number, found)
            return found

        futures = {pool.submit(answer, number): number for number in range(len(conversations))}
        failed_in_a_row = 0
        try:
            for future in as_completed(futures):
                found = future.result()
                failed_in_a_row = failed_in_a_row + 1 if isinstance(found, Failure) and found.passing else 0
                if isinstance(found, Failure):
                    meter.count_failure(found.reason)
                    if failed_in_a_row >= max(_HOPELESS, 2 * self.options.judge_concurrency):
                        raise UserError(
                            f"judge {self.name} at {self.options.judge_url}: gave no answer to {failed_in_a_row} "
                            f"questions in a row (the last: {found.reason}); mend the server and run again: answers "
                            "are kept"
                        )
                yield futures[future], found
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask_patiently(self, turns: Conversation, meter: Meter, stop: threading.Event) -> Reply | Failure:
        def give_up(state: RetryCallState) -> bool:
            return stop.is_set() or stop_after_attempt(self.options.judge_attempts)(state)

        retrying = Retrying(
            retry=retry_if_exception_type(_Transient),
            stop=give_up,
            wait=self._pause,
            sleep=sleep_using_event(stop),
            before_sleep=lambda state: meter.count_retry(str(_error_of(state))),
            reraise=True,
        )
        try:
            return retrying(self._ask_once, turns, meter)
        except _Transient as error:
            return Failure(str(error), passing=True)
        except _Refused as error:
            return Failure(str(error))

    def _pause(self, state: RetryCallState) -> float:
        """Wait as long as the server asks for, else longer and longer with some chance, so that threads spread out."""
        error = _error_of(state)
        asked = error.wait if isinstance(error, _Transient) else None
        drawn = wait_random_exponential(multiplier=1.0, max=self.options.judge_longest_wait)(state)
        return min(asked, self.options.judge_longest_wait) if asked is not None else drawn

    def _ask_once(self, turns: Conversation, meter: Meter) -> Reply:
        lacks = set(self._lacks)
        options: dict[str, Any] = {}
        if self.options.judge_logprobs and "logprobs" not in lacks:
            most = _FEW_TOKENS if "top_logprobs" in lacks else _TOP_TOKENS
            options |= {"logprobs": True, "top_logprobs": most}
        if "temperature" not in lacks:
            options["temperature"] = _TEMPERATURE
        options["max_completion_tokens" if "max_tokens" in lacks else "max_tokens"] = self.max_tokens
        folds = "system" in lacks and turns[0]["role"] == "system"
        try:
            completion: Any = self._client.chat.completions.create(
                model=self.model,
                messages=joined_system(turns) if folds else list(turns),  # type: ignore[arg-type]
                **options,
            )
        except openai.APITimeoutError as error:
            raise _Transient(f"no answer within {self.options.judge_timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise _Transient("no connection") from error
        except openai.APIStatusError as error:
            if (lacking := _lacking(error, turns, lacks)) and lacking not in lacks:
                self._lacks.add(lacking)
                meter.count_retry(f"refused for its {lacking} ({error.status_code})")
                return self._ask_once(turns, meter)
            raise self._refusal(error) from error
        except (openai.APIError, ValueError) as error:  # a body that is not JSON, or not what it claims to be
            raise _Transient("nonsense instead of a completion") from error
        return self._read(completion)

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        """Tell what a status means: the user's mistake, a passing one, or one that only this question makes."""
        status = error.status_code
        where = f"judge {self.name} at {self.options.judge_url}"
        if status in (401, 403):
            return UserError(f"{where}: refuses the key of {self.options.judge_key_variable} ({status}); check it")
        if status == 404:
            return UserError(f"{where}: does not know this model or address (404); check --judge and --judge_url")
        if error.code == "insufficient_quota":
            return UserError(f"{where}: the account has no credit left; answers so far are kept")
        if status >= 500 or status in (408, 409, 425, 429):
            kind = "too many requests" if status == 429 else "server error" if status >= 500 else "passing error"
            return _Transient(f"{kind} ({status})", _seconds(error.response.headers.get("retry-after")))
        named = [part for part in (error.code, error.param) if isinstance(part, str) and part != str(status)]
        why = self._strike(", ".join(named))[:80]  # its message may differ from question to question
        return _Refused(f"refused ({status}: {why})" if why else f"refused ({status})")

    def _read(self, completion: Any) -> Reply:
        """Take the answer out of a completion, whose fields the client does not check."""
        try:
            choices = completion.choices
            if not choices:
                raise _Transient("empty choice")
            message = choices[0].message
            text = _visible(message.content)
            cut = getattr(choices[0], "finish_reason", None) == "length"
            usage = getattr(completion, "usage", None)
            tokens = [_count(getattr(usage, name, None)) for name in ("prompt_tokens", "completion_tokens")]
            apart = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
            # With thinking in a field of its own, the first token may be the thinking's: only the text counts then.
            first_token = {} if apart else _first_token(choices[0], self._strike)
            if self.options.judge_logprobs and not apart and not first_token:
                say(
                    f"judge {self.name}: the server tells no log-probabilities, so a verdict is the letter that it "
                    "writes, 0 or 1"
                )
        except (AttributeError, TypeError, IndexError, KeyError, ValueError) as error:
            raise _Transient("nonsense instead of a completion") from error
        if text is not None and not isinstance(text, str):
            raise _Transient("nonsense instead of a completion")
        if not cut and not (text and text.strip()):
            raise _Transient("empty choice")
        return Reply(self._strike(text or ""), tokens[0], tokens[1], first_token or None, cut)

    def _strike(self, text: str) -> str:
        """Strike the key out of what a server says."""
        return text if len(self._key) < _SHORTEST_KEY else text.replace(self._key, _PLACEHOLDER)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"judge_url must be an http(s) address such as {DEFAULT_URL}, got {url!r}; change --judge_url")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            "judge_url must carry no user name, password or query, which would end up in reports; put the key into "
            "the environment"
        )


def _safe_name(variable: str) -> str:
    """Return the name of a variable, unless it may be a key that was given in its place."""
    return variable if variable.isidentifier() and variable.isupper() else "that --judge_key_variable names"


def _lacking(error: openai.APIStatusError, turns: Conversation, known: Collection[str]) -> str | None:
    """Return what a model was refused for that can be left out or said otherwise: models that reason often take neither
    a temperature nor `max_tokens`, some chat templates no system turn, and some servers few log-probabilities or none.
    """
    if error.status_code not in (400, 422):  # the second is what servers say that check a request's fields
        return None
    if re.search("logprob", f"{error.param} {error.message}", re.IGNORECASE):
        return "logprobs" if "top_logprobs" in known else "top_logprobs"
    if error.param in ("temperature", "max_tokens"):
        return str(error.param)
    roles_named = re.search(r"system|roles", str(error.message), re.IGNORECASE) and turns[0]["role"] == "system"
    return "system" if roles_named else None


def _visible(content: Any) -> Any:
    """Return the text of a message; some servers give it in parts, thinking among them."""
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return "".join(str(part.get("text") or "") for part in parts)


def _first_token(choice: Any, strike: Callable[[str], str]) -> dict[str, float]:
    """Return the likeliest first tokens; the one that was written alone where the server tells no others.

    Tokens of one text, such as one with a blank that decoding drops, add up; one that is told twice counts once.
    """
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if not isinstance(content, list) or not content:
        return {}
    entries = getattr(content[0], "top_logprobs", None) or content[:1]
    told = [(getattr(entry, "token", None), getattr(entry, "logprob", None)) for entry in entries]
    plain = [
        (strike(str(token)), float(value))
        for token, value in told
        if token is not None and isinstance(value, int | float) and value <= 0  # neither NaN nor a probability
    ]
    likeliest: dict[str, float] = {}
    for text, log_prob in dict.fromkeys(plain):
        likeliest[text] = float(np.logaddexp(likeliest.get(text, -np.inf), log_prob))
    return likeliest


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _seconds(header: str | None) -> float | None:
    """Read a Retry-After header in seconds; a date, which few servers send, counts as none."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
