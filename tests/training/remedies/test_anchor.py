"""A few windows of general text in each step: which ones, what loss, and that a resumed run reads on."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from ropo.core.errors import UserError
from ropo.training.remedies.anchor import WINDOW, WINDOWS, kl_of_next, windows_of
from tests.tiny.trained import sentence, tiny_model, tiny_tokenizer
from tests.training.remedies.helpers import METHODS, losses, make, same, trained
from tests.training.trainers import logged


@pytest.fixture(scope="module")
def text(tmp_path_factory: Any) -> str:
    file = tmp_path_factory.mktemp("text") / "plain.txt"
    file.write_text(sentence(random.Random(3), 10 * WINDOW + 5))
    return str(file)


def test_windows_are_drawn_without_replacement_in_an_order_of_the_seed() -> None:
    first = [each for number in range(5) for each in windows_of(number, 10, seed=1, most=4)]
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10))
    assert first[:10] != first[10:]  # shuffled anew
    assert windows_of(3, 10, seed=1, most=4) == first[12:16]  # of the number alone
    assert windows_of(0, 10, seed=2, most=4) != first[:4]
    assert sorted(windows_of(7, 3, seed=1)) == [0, 1, 2]  # no more than there are


def test_the_divergence_of_the_next_token_worked_by_hand() -> None:
    """One position, reference (1/2, 1/2), policy (1/4, 3/4): log 2 / 2 + log(2/3) / 2."""
    policy, reference = torch.tensor([[[0.25, 0.75]]]).log(), torch.tensor([[[0.5, 0.5]]]).log()
    expected = 0.5 * math.log(2.0) + 0.5 * math.log(2.0 / 3.0)
    assert float(kl_of_next(policy + 3.0, reference - 1.0)) == pytest.approx(
        expected, rel=1e-5
    )  # logits have an offset
    both = [torch.cat([each, reference], dim=1) for each in (policy, reference)]
    assert float(kl_of_next(*both)) == pytest.approx(expected / 2, rel=1e-5)  # the mean over positions


def test_the_loss_is_the_text_s_and_is_added_with_its_weight(text: str, tmp_path: Any) -> None:
    anchored = make(tmp_path, anchor_text=text, anchor_weight=0.5)
    plain = make(tmp_path)
    found, expected = losses(anchored), losses(plain)
    ids = anchored.remedies.anchor.windows[windows_of(0, 10, anchored.args.seed)]
    assert ids.shape == (WINDOWS, WINDOW)
    words = tiny_tokenizer()(Path(text).read_text(), add_special_tokens=False)["input_ids"]
    assert {tuple(row) for row in ids.tolist()} < {tuple(words[at : at + WINDOW]) for at in range(0, 1280, WINDOW)}
    log_probs = tiny_model()(ids).logits.detach().log_softmax(dim=-1)[:, :-1].gather(2, ids[:, 1:, None])
    assert logged(anchored, "anchor/nll")[0] == pytest.approx(float(-log_probs.mean()), rel=1e-5)
    assert found[0] == pytest.approx(expected[0] + 0.5 * float(-log_probs.mean()), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["nll", "kl"])
def test_every_method_is_anchored_packed_as_padded(method: str, kind: str, text: str, tmp_path: Any) -> None:
    flags = {"anchor_text": text, "anchor_loss": kind, "anchor_weight": 2.0}
    packed, padded = make(tmp_path, method, **flags), make(tmp_path, method, packing=False, **flags)
    assert losses(packed) == pytest.approx(losses(padded), rel=2e-4)
    found = logged(packed, f"anchor/{kind}")
    assert found == pytest.approx(logged(padded, f"anchor/{kind}"), rel=2e-4, abs=1e-6)
    if kind == "kl":
        assert abs(found[0]) < 1e-5  # the start is the reference
        assert min(found[1:]) > 1e-5


def test_the_divergence_pulls_the_policy_back(text: str, tmp_path: Any) -> None:
    weak, strong = (
        make(tmp_path, anchor_text=text, anchor_loss="kl", anchor_weight=weight, max_steps=12)
        for weight in (1e-6, 100.0)
    )
    for trainer in (weak, strong):
        trainer.train()
    assert logged(strong, "anchor/kl")[-1] < 0.5 * logged(weak, "anchor/kl")[-1]


def test_accumulated_batches_read_different_windows_and_count_as_one(text: str, tmp_path: Any) -> None:
    flags: dict[str, Any] = {"anchor_text": text, "max_steps": 2, "per_device_train_batch_size": 2}
    trainer = make(tmp_path, gradient_accumulation_steps=2, **flags)
    read: list[list[int]] = []
    windows = trainer.remedies.anchor.windows

    class Watched:
        def __getitem__(self, places: list[int]) -> Any:
            read.append(places)
            return windows[places]

        def __len__(self) -> int:
            return len(windows)

    trainer.remedies.anchor.windows = Watched()
    trainer.train()
    assert read == [windows_of(number, 10, trainer.args.seed) for number in range(4)]


@pytest.mark.parametrize("kind", ["nll", "kl"])
def test_a_resumed_run_reads_on(kind: str, text: str, tmp_path: Any) -> None:
    flags = {"anchor_text": text, "anchor_loss": kind, "save_strategy": "steps", "save_steps": 1}
    whole = make(tmp_path, "ropo", **flags)
    whole.train()
    resumed = make(tmp_path, "ropo", **flags)
    resumed.train(str(tmp_path / "checkpoint-2"))
    assert same(trained(whole.model), trained(resumed.model))
    assert logged(whole, f"anchor/{kind}") == logged(resumed, f"anchor/{kind}")


def test_the_divergence_is_from_the_adapter_that_training_goes_on_from(text: str, tmp_path: Any) -> None:
    first = make(tmp_path / "first")
    first.train()
    first.save_model(str(tmp_path / "adapter"))
    model = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter", is_trainable=True)
    trainer = make(tmp_path / "second", model=model, anchor_text=text, anchor_loss="kl", max_steps=2)
    trainer.train()
    assert abs(logged(trainer, "anchor/kl")[0]) < 1e-5


def test_evaluation_is_of_the_pairs_alone(text: str, tmp_path: Any) -> None:
    held_out = make(tmp_path).train_dataset.remove_columns(
        ["prompt_ids", "chosen_ids", "rejected_ids", "record_number"]
    )
    trainer = make(tmp_path, held_out=held_out, anchor_text=text)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("words", ["", "w1"])
def test_a_text_of_one_token_is_refused_in_one_line(words: str, tmp_path: Any) -> None:
    file = tmp_path / "short.txt"
    file.write_text(words)
    said = f"short.txt: needs at least two tokens of plain text, got {len(words.split())}; give a longer file"
    with pytest.raises(UserError, match=said) as caught:
        make(tmp_path, anchor_text=str(file))
    assert "\n" not in str(caught.value)


def test_a_short_text_is_one_window(tmp_path: Any) -> None:
    file = tmp_path / "short.txt"
    file.write_text("w1 w2 w3")
    trainer = make(tmp_path, anchor_text=str(file), max_steps=2)
    assert trainer.remedies.anchor.windows.shape == (1, 3)
    assert len(losses(trainer)) == 2


def test_bad_input(text: str, tmp_path: Any) -> None:
    for flags, said in (
        ({"anchor_text": str(tmp_path / "none.txt")}, "anchor_text .*none.txt: no such file"),
        ({"anchor_text": text, "anchor_weight": 0.0}, "anchor_weight: must be above 0 and finite, got 0"),
        ({"anchor_text": text, "anchor_weight": math.inf}, "anchor_weight: must be a finite number, got inf"),
        ({"anchor_text": text, "anchor_loss": "mse"}, "anchor_loss: there is no 'mse'; choose from nll, kl"),
        ({"anchor_weight": 2.0}, "anchor_weight, anchor_loss: there is no anchor text"),
        ({"anchor_loss": "kl"}, "anchor_weight, anchor_loss: there is no anchor text"),
    ):
        with pytest.raises(UserError, match=said):
            make(tmp_path, **flags)
    flags = {"anchor_text": text, "anchor_loss": "kl", "precompute_ref_log_probs": True}
    with pytest.raises(UserError, match="anchor_loss: kl needs the reference in training"):
        make(tmp_path, "full", **flags)
