"""A process of its own for llama.cpp: `python llama_cpp_answers.py MODEL.gguf < asked.json > answered.json`.

Asked: token ids of prompts, and either how many tokens to answer greedily, or answers, whose logits go to a file.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from llama_cpp import Llama

F32 = 0  # ggml's number of the type: the cache of keys and values is not to round


def main() -> None:
    """Answer, one prompt after the other."""
    asked = json.load(sys.stdin)
    model = Llama(sys.argv[1], n_ctx=256, n_threads=1, logits_all=True, verbose=False, type_k=F32, type_v=F32)
    if "answers" in asked:
        found = [_logits(model, *each) for each in zip(asked["prompts"], asked["answers"], strict=True)]
        np.save(asked["logits"], np.concatenate(found))
    else:
        json.dump([_answer(model, prompt, asked["tokens"]) for prompt in asked["prompts"]], sys.stdout)


def _logits(model: Llama, prompt: list[int], answer: list[int]) -> np.ndarray:
    model.reset()
    model.eval([*prompt, *answer[:-1]])
    return model.scores[len(prompt) - 1 : model.n_tokens].copy()


def _answer(model: Llama, prompt: list[int], most: int) -> list[int]:
    model.reset()
    model.eval(prompt)
    answer: list[int] = []
    while True:
        answer.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        if len(answer) == most or answer[-1] == model.token_eos():
            return answer
        model.eval(answer[-1:])


main()
