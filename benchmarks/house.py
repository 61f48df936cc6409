"""Count the house: files, lines, names, and the files whose code a record, a tensor and a verdict run through.

python -m benchmarks.house [SOURCE]         of another checkout's `src`, to compare with
"""

from __future__ import annotations

import ast
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOURCE = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "src").resolve()
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 32}


def count() -> None:
    """Print files, lines, names without an underscore, and names that modules offer in `__all__`."""
    trees, lines = [], 0
    for file in SOURCE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        trees.append(ast.parse(text))
        lines += len(text.splitlines())
    named = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    public = sum(not node.name.startswith("_") for node in named)
    offered = 0
    for node in (node for tree in trees for node in tree.body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        offered += len(ast.literal_eval(node.value)) if getattr(target, "id", "") == "__all__" else 0  # type: ignore[attr-defined]
    print(f"files {len(trees)}, lines {lines}")
    print(f"functions and classes without an underscore {public}, {1000 * public / lines:.1f} a thousand lines")
    print(f"names that modules offer {offered}, {1000 * offered / lines:.1f} a thousand lines")


@contextmanager
def traced(files: set[str]) -> Iterator[None]:
    """Note every file of the package whose functions are called."""

    def note(frame: Any, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(SOURCE)) and frame.f_code.co_name != "<module>":
            files.add(file[len(str(SOURCE)) + 1 :])

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def record(folder: Path) -> set[str]:
    """Take conversational pairs from a file to the loss, with LoRA: reading, preparing, collating, computing."""
    from peft import LoraConfig
    from transformers import LlamaConfig, LlamaForCausalLM

    from ropo import PreferenceConfig, PreferenceTrainer
    from ropo.preferences import load_preferences
    from tests.tiny.tokenizer import tiny_tokenizer

    turn = lambda role, text: [{"role": role, "content": text}]  # noqa: E731
    pairs = [
        {"prompt": turn("user", "the cat"), "chosen": turn("assistant", text), "rejected": turn("assistant", "no")}
        for text in ("sat on", "ran", "one two", "yes")
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    files: set[str] = set()
    with traced(files):
        data = load_preferences(str(folder / "pairs.jsonl")).pairs

    class Traced(PreferenceTrainer):
        def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
            with traced(files):
                return super()._prepare_dataset(*args, **kwargs)

    args = PreferenceConfig(str(folder / "out"), max_steps=1, use_cpu=True, report_to="none", bf16=False)
    args.per_device_train_batch_size = 2
    model = LlamaForCausalLM(LlamaConfig(**SIZES, bos_token_id=1, eos_token_id=2, pad_token_id=0))
    adapter = LoraConfig(r=2, target_modules=["q_proj"])
    trainer = Traced(model, args=args, train_dataset=data, processing_class=tiny_tokenizer(), peft_config=adapter)
    with traced(files):
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.compute_loss(trainer.model.train(), trainer._prepare_inputs(batch))
    return files


def tensor(folder: Path) -> set[str]:
    """Take activations through adapted layers, forward and backward; kernels have been chosen before."""
    import torch
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from ropo import RopoConfig

    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**SIZES)), RopoConfig(target_modules=["q_proj"]))
    model(torch.arange(12)[None])
    files: set[str] = set()
    with traced(files):
        model(torch.arange(12)[None]).logits.sum().backward()
    return files


def verdict(folder: Path) -> set[str]:
    """Judge outputs by a chat model behind an endpoint (`ropo evaluate alpaca-eval`); files that know of verdicts."""
    from ropo.cli.main import main
    from tests.evaluation.fake_endpoint import serving

    for name in ("reference", "mine"):
        outputs = [{"instruction": f"request {i}", "output": name * (1 + i % 3), "generator": name} for i in range(12)]
        (folder / f"{name}.json").write_text(json.dumps([{**each, "dataset": "d"} for each in outputs]))
    os.environ.setdefault("OPENAI_API_KEY", "none")
    files: set[str] = set()
    flags = ["--reference_outputs", f"{folder}/reference.json", "--output", f"{folder}/judged", "--swapped", "2"]
    with serving(answer=lambda body: "A") as server, traced(files):
        judge = ["--judge", "openai:m", "--judge_url", server.url]
        status = main(["evaluate", "alpaca-eval", f"{folder}/mine.json", *flags, *judge])
    assert status == 0
    return {file for file in files if "/judg" in file or "/evaluation/" in file}


if __name__ == "__main__":
    sys.path.insert(0, str(SOURCE))
    count()
    for path in (record, tensor, verdict):
        with tempfile.TemporaryDirectory() as made:
            passed = path(Path(made))
        print(f"a {path.__name__} runs through {len(passed)} files: {', '.join(sorted(passed))}")
