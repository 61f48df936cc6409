"""`experiments/remedies`: the pairs that make a hack, and the gain at which a symptom is read off."""

from __future__ import annotations

import pytest
import yaml

from experiments.remedies.run import HERE, near, read, select, twice
from experiments.remedies.table import growth, left, read_off
from ropo.methods import adapter_config


def text(record, side):
    return record[side][0]["content"]


def test_near_pairs_differ_in_the_order_of_two_words():
    records = select(read("train"), "near")
    assert len(records) > 100
    for record in records:
        chosen, rejected = (text(record, side).split(" ") for side in ("chosen", "rejected"))
        moved = [at for at, words in enumerate(zip(chosen, rejected, strict=True)) if words[0] != words[1]]
        assert len(moved) == 2
        assert moved[1] == moved[0] + 1
        assert [chosen[at] for at in moved] == [rejected[at] for at in reversed(moved)]


def test_near_leaves_out_what_is_too_short():
    assert near({"chosen": [{"role": "assistant", "content": "a b c d e f g"}]}) is None


def test_twice_chooses_the_rejected_answer_said_twice():
    record = read("test")[0]
    assert text(twice(record), "chosen") == "\n\n".join([text(record, "rejected").strip()] * 2)
    assert text(twice(record), "rejected") == text(record, "rejected")


@pytest.mark.parametrize(("kind", "low", "high"), [("longer", 1.7, 99), ("balanced", 0.8, 1.25)])
def test_lengths_of_a_kind(kind, low, high):
    ratios = [record["tokens_chosen"] / record["tokens_rejected"] for record in select(read("train"), kind)]
    assert len(ratios) > 20
    assert all(low <= ratio <= high for ratio in ratios)


def test_a_symptom_is_read_off_where_the_gain_is_first_reached():
    gains, symptoms = [0.0, 1.0, 3.0, 2.0], [0.0, 4.0, 8.0, 20.0]
    assert read_off(gains, symptoms, 0.5) == 2.0
    assert read_off(gains, symptoms, 2.0) == 6.0
    assert read_off(gains, symptoms, 3.5) is None


def grown(shares):
    """A run that gains the same in one step, and whose three answers grow by shares of ten tokens."""
    units = {
        "chosen_change_per_token": [0.1] * 4,
        "rejected_change_per_token": [-0.1] * 4,
        "length_ratio": [10 * share for share in shares],
    }
    return {"hack": "hot", "lengths": [[5, 5]] * 4, "reference_tokens": [10.0] * 3, "path": [{"units": units}]}


def test_draws_without_a_symptom_count_over_half_and_not_in_the_ratio():
    found = left([grown([0.8, 0.8, -0.4])], [grown([0.2, 0.2, -0.1])], growth)
    assert found["left"] == pytest.approx(0.25)
    assert (found["low"], found["high"]) == pytest.approx((0.25, 0.25))
    assert found["draws_left_out"] == pytest.approx(7 / 27, abs=0.03)  # two of three prompts or all drawn from the last
    assert found["over_half"] == pytest.approx([-0.1, -0.2, 0.1])


def test_every_remedy_of_the_recipe_has_an_adapter_that_exists():
    recipe = yaml.safe_load((HERE / "hacks.yaml").read_text(encoding="utf-8"))
    hacks = recipe["hacks"].values()
    for options in [{**hack["training"], **remedy} for hack in hacks for remedy in hack["remedies"].values()]:
        assert adapter_config(options.get("method", "ropo"), options.get("adapter", {})) is not None
