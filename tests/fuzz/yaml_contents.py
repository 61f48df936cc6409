"""Contents of YAML files: options and recipes, most of them wrong somewhere."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.fuzz.contents import damaged, mostly

SCALARS = (
    *("0.1", "1", "-1", "1e-3", "yes", "null", "", "'text'", "high", ".nan", ".inf", "0x", "0b_", "1:99:99", "1_"),
    *("2026-99-99", "2026-01-01", "!!python/object/apply:os.system ['true']", "!!binary x", "!!int x", "!!float y"),
    *("*missing", "&a [*a]", "&a {a: *a}", "{[1]: 2}", "{? {a: b} : c}", "[1, 2]", "{a: 1}", "[", "}", "%", "@", "\t"),
    *("!!set {a}", "!!omap [a: 1]", "!!null x", "!!bool maybe", "!!timestamp z", "? a", "<<", "\ud800", '"\\ud800"'),
    *("[" * 70 + "]" * 70, "[" * 3000, "9" * 5000, "- a", "99999999999999999999"),
)
LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
)
scalars = st.sampled_from(SCALARS) | st.text(st.characters(), max_size=6)

OPTIONS = (
    *("model", "data", "output", "beta", "learning_rate", "max_steps", "method", "dtype", "target_modules", "r"),
    *("loss_type", "loss_weights", "lr_scheduler_kwargs", "lr_scheduler_type", "max_length", "packing", "seed"),
    *("layers_to_transform", "reflections", "monitor_steps", "overwrite", "logging_steps", "save_strategy", "bf16"),
    *("optim", "optim_args", "report_to", "eval_strategy", "warmup_steps", "num_train_epochs", "config", "help", "x"),
    *(
        "deepspeed",
        "fsdp",
        "fsdp_config",
        "accelerator_config",
        "torch_compile",
        "f_divergence_type",
        "tokens_per_step",
    ),
)
GOOD = {"beta": "0.2", "learning_rate": "1e-3", "max_steps": "3", "loss_type": "[sigmoid, sft]", "packing": "false"}


@st.composite
def options(draw: Any) -> bytes:
    """Write options of `ropo train`, some of them unknown or with an odd value."""
    lines = ["model: m", "data: d", "output: o"]
    for _ in range(draw(st.integers(0, 3))):
        good = st.sampled_from(sorted(GOOD)).map(lambda name: f"{name}: {GOOD[name]}")
        odd = st.tuples(st.sampled_from(OPTIONS) | scalars, scalars).map(lambda pair: f"{pair[0]}: {pair[1]}")
        lines.append(draw(mostly(good, odd)))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


RECIPE = """\
title: A comparison
model: some/model
data:
  - name: toy
    train: train.jsonl
    validation_share: 0.25
    test: test.jsonl
budget: {pairs: 8, batch_size: 2}
training: {beta: 0.1}
methods:
  - {label: RoPO, method: ropo, learning_rates: [1e-3, 2e-3]}
  - {label: LoRA, method: lora, learning_rate: 1e-4}
evaluations:
  - {suite: preference, only: [toy]}
samples: 2
"""
WORDS = sorted({word.strip("{}[],:") for word in RECIPE.split()} - {"", "-"})


@st.composite
def recipes(draw: Any) -> bytes:
    """Write a recipe with a few words replaced, or lines dropped or repeated."""
    lines = RECIPE.splitlines()
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(("replace", "replace", "drop", "repeat", "indent")))
        if change == "replace":
            lines[place] = lines[place].replace(draw(st.sampled_from(WORDS)), draw(scalars))
        elif change == "drop":
            lines[place] = ""
        else:
            lines.insert(place, (" " if change == "indent" else "") + lines[place])
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def odd(usual: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return mostly(damaged(usual), st.just(LAUGHS.encode()) | st.binary(max_size=20) | scalars.map(_encode))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
