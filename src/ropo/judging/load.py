"""Make the judge that options name."""

from __future__ import annotations

__all__ = ["load_chat_judge", "load_judge"]

from pathlib import Path
from typing import TYPE_CHECKING

from ropo.core.errors import UserError
from ropo.judging.options import CHAT_KINDS, ENDPOINT_TOKENS, KINDS, JudgeOptions

if TYPE_CHECKING:
    from ropo.judging.chat import ChatJudge
    from ropo.judging.judge import Judge


def load_judge(options: JudgeOptions, folder: Path, batch_size: int, usual_tokens: int, flag: str = "judge") -> Judge:
    """Return the judge that options name.

    The libraries of a kind are imported with it alone: `openai` is not needed for rules.

    Args:
        options: What to load, and how to ask it.
        folder: Where its verdicts are kept.
        batch_size: Conversations that a local model answers at once.
        usual_tokens: Longest verdict that its questions need, where the options name none.
        flag: What the user named it with, for the messages.

    Raises:
        UserError: If they name none, a key is missing, or a model or function cannot be loaded.
    """
    kind, _, rest = options.judge.partition(":")
    if options.judge != "rules" and not (kind and rest):
        kinds = KINDS if flag == "judge" else f"`rules` (the default), {KINDS.replace('`rules` or ', 'or ')}"
        raise UserError(f"{flag} must be {kinds}, got {options.judge!r}; change --{flag}")
    if kind in CHAT_KINDS:
        return load_chat_judge(options, folder, batch_size, usual_tokens)
    if options.judge_logprobs:
        raise UserError(
            f"judge_logprobs: only an endpoint gives them, or a local chat model, got judge {options.judge}; drop the "
            "flag"
        )
    from ropo.judging.scores import RuleJudge, function_judge, import_function, reward_judge
    from ropo.judging.store import VerdictStore

    if options.judge == "rules":
        return RuleJudge()
    if kind == "reward":
        return reward_judge(rest, VerdictStore(folder))
    return function_judge(options.judge, import_function(options.judge))


def load_chat_judge(options: JudgeOptions, folder: Path, batch_size: int, usual_tokens: int) -> ChatJudge:
    """Return the judge in words that options name; see `load_judge`."""
    from ropo.judging.chat import ChatJudge, ChatModel
    from ropo.judging.store import VerdictStore

    kind, _, model = options.judge.partition(":")
    chat: ChatModel
    if kind == "openai":
        from ropo.judging.endpoint import EndpointChat

        chat = EndpointChat(model, options, options.judge_max_tokens or max(usual_tokens, ENDPOINT_TOKENS))
    else:
        from ropo.judging.local import LocalChat

        chat = LocalChat(model, options.judge_max_tokens, batch_size, usual_tokens, options.judge_logprobs)
    return ChatJudge(chat, VerdictStore(folder))
