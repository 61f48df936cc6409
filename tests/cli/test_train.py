"""`ropo train`, in this process, on a tiny model."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from peft import TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file

from ropo.cli.main import main
from ropo.core.record import read_record
from ropo.lm.loading import load_model, load_policy, load_tokenizer
from ropo.methods import METHODS
from tests.cli.conftest import LN2, MANY, PAIRS, logged, train, write_pairs

RECKLESS = ("--method", "full", "--learning_rate", 0.3, "--lr_scheduler_type", "constant", "--max_steps", 6)
SMALL = {"oft": ("--oft_block_size", 8), "full": ("--learning_rate", "1e-3")}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_from_the_same_command(model, pairs, tmp_path, capsys, method):
    output = tmp_path / "out"
    flags = ("--eval_data", pairs, "--lr_scheduler_type", "constant", *SMALL.get(method, ()))
    assert train(model, pairs, output, "--method", method, "--max_steps", 3, *flags) == 0

    record = read_record(output)
    assert (record.status, record.config["method"], record.seed) == ("finished", method, 42)
    assert record.ended > record.started
    assert record.data["train"].counts == {"pairs": 4, "duplicates": 0, "ties": 0, "wrapped": 4}
    assert {"torch", "trl", "peft", "transformers", "ropo"} <= set(record.versions)
    trained = record.metrics["trainable_parameters"]
    assert record.metrics["trainable_share"] == pytest.approx(trained / load_model(model).num_parameters())
    if method == "full":
        assert record.metrics["trainable_share"] == 1
    else:
        saved = load_file(output / "adapter_model.safetensors")
        assert trained == sum(each.numel() for each in saved.values())
    held_out = record.metrics["held_out"]
    low, high = held_out["margin_interval"]
    assert low <= held_out["margin"] <= high
    assert len(held_out["margins"]) == held_out["pairs"] == 4

    steps = [entry for entry in logged(output) if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    assert steps[0]["loss"] == pytest.approx(LN2, abs=1e-5)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert held_out["loss"] < LN2

    trained = load_policy(str(output))
    probe = torch.arange(12)[None]
    assert not torch.equal(trained(probe).logits, load_model(model)(probe).logits)
    assert (output / "adapter_model.safetensors").exists() == (method != "full")
    assert method == "full" or "import ropo" in (output / "README.md").read_text()
    assert not (output / "training_args.bin").exists()
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in output.iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pairs.jsonl"]

    printed = capsys.readouterr()
    assert printed.err == ""
    for part in ("step 3/3", "accuracy", "margin", "chosen", "rejected", "tokens/s", "left", "held out", "saved"):
        assert part in printed.out


def test_the_same_seed_gives_the_same_adapter(model, pairs, tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert train(model, pairs, tmp_path / name, "--seed", seed, "--per_device_train_batch_size", 1) == 0
        weights.append(load_file(tmp_path / name / "adapter_model.safetensors"))
    first, same, other = weights
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_training_goes_on_from_an_adapter_with_that_as_reference(model, pairs, tmp_path):
    assert train(model, pairs, tmp_path / "first", "--learning_rate", 0.01) == 0
    assert train(tmp_path / "first", pairs, tmp_path / "second", "--learning_rate", 0.01) == 0
    assert logged(tmp_path / "second")[0]["loss"] == pytest.approx(LN2, abs=1e-5)
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("first", "second"))
    assert set(first) == set(second)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "second" / "ref").exists()
    assert read_record(tmp_path / "second").config["adapter"]["base_model_name_or_path"] == model


def test_the_adapter_options_reach_the_adapter(model, pairs, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("reflections: 4\ngivens: forward\nmagnitude: true\ntarget_modules: [o_proj]\n")
    assert train(model, pairs, tmp_path / "out", "--config", recipe, "--layers_to_transform", 1) == 0
    adapter = read_record(tmp_path / "out").config["adapter"]
    assert (adapter["reflections"], adapter["givens"], adapter["magnitude"]) == (4, "forward", True)
    assert (adapter["target_modules"], adapter["layers_to_transform"]) == (["o_proj"], [1])


def test_pairs_that_no_step_takes_are_not_counted(model, pairs, tmp_path, capsys):
    flags = ("--max_steps", 1, "--per_device_train_batch_size", 3, "--gradient_accumulation_steps", 1)
    assert train(model, pairs, tmp_path / "out", *flags) == 0
    assert "3 of them are trained on: --max_steps 1 takes no more" in capsys.readouterr().out
    assert read_record(tmp_path / "out").metrics["pairs"] == 3
    assert f"on 3 pairs of `{pairs}`" in (tmp_path / "out" / "README.md").read_text()


def test_the_pre_pass_says_how_far_it_is(model, pairs, tmp_path, capsys, monkeypatch):
    """It takes as long as a third of a run, and the libraries' notices are off."""
    monkeypatch.setattr("ropo.core.progress._PAUSE", 0.0)  # else a line every half a minute
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")  # nothing computed before
    flags = ["--precompute_ref_log_probs", "--max_steps", "1", "--per_device_train_batch_size", "1"]
    assert train(model, pairs, tmp_path / "shown", *flags) == 0
    assert "reference log-probs, train: " in capsys.readouterr().err
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "another")
    assert train(model, pairs, tmp_path / "silent", *flags, "--disable_tqdm", "true") == 0
    assert "reference log-probs" not in capsys.readouterr().err


def test_text_prompts_go_through_the_chat_template_unless_told(model, pairs, tmp_path, capsys):
    assert train(model, pairs, tmp_path / "chat") == 0
    assert "text prompts go through the chat template" in capsys.readouterr().out
    assert train(model, pairs, tmp_path / "plain", "--plain_prompts") == 0
    assert "chat template" not in capsys.readouterr().out
    log_probs = [logged(tmp_path / name)[0]["logps/chosen"] for name in ("chat", "plain")]
    assert abs(log_probs[0] - log_probs[1]) > 0.1
    wrapped = [read_record(tmp_path / name).data["train"].counts["wrapped"] for name in ("chat", "plain")]
    assert wrapped == [4, 0]


def test_the_monitor_watches_and_warns(model, pairs, tmp_path, capsys):
    """A rate far too high: the warnings are printed once each, logged, and recorded; the log has both log-probs."""
    text = tmp_path / "plain.txt"
    text.write_text("the cat sat on the mat " * 20)
    output, held_out = tmp_path / "out", write_pairs(tmp_path / "held_out.jsonl", MANY[:16])
    watch = ("--eval_data", held_out, "--monitor_steps", 3, "--monitor_text", text)
    assert train(model, pairs, output, *RECKLESS, *watch) == 0
    measured = [entry for entry in logged(output) if "hacking/margin" in entry]
    assert [entry["step"] for entry in measured] == [3, 6]
    assert all("hacking/text_loss_rise" in entry for entry in measured)
    warnings, last = (read_record(output).metrics[name] for name in ("warnings", "monitor"))
    assert warnings
    assert last["step"] == 6
    for name in ("kl_per_token", "kl_per_token_low", "kl_per_token_high", "margin"):
        assert last[name] == measured[-1][f"hacking/{name}"]
    printed = capsys.readouterr().out
    assert printed.count("monitor   step") == 2
    for name, warning in warnings.items():
        assert printed.count(f"warning   step {warning['step']}: {name}: ") == 1


def test_a_warning_ends_training_where_asked(model, pairs, tmp_path, capsys):
    output, held_out = tmp_path / "out", write_pairs(tmp_path / "held_out.jsonl", MANY[:16])
    watch = ("--eval_data", held_out, "--monitor_steps", 2, "--stop_on_warning")
    assert train(model, pairs, output, *RECKLESS, *watch) == 0
    assert read_record(output).metrics["steps"] == 2
    printed = capsys.readouterr().out
    assert printed.count("warning   step 2: training ends here, at its first warning (stop_on_warning)\n") == 1
    assert "ropo diagnose" in printed
    assert "ropo merge" not in printed


def test_a_budget_of_kl_ends_training(model, pairs, tmp_path, capsys):
    output, held_out = tmp_path / "out", write_pairs(tmp_path / "held_out.jsonl", MANY[:16])
    watch = ("--eval_data", held_out, "--monitor_steps", 2, "--stop_at_kl", 0.01)
    assert train(model, pairs, output, *RECKLESS, *watch) == 0
    metrics = read_record(output).metrics
    assert metrics["steps"] == 2
    assert metrics["kl_budget"]["passed_kl_per_token"] > 0.01
    assert metrics["kl_budget"]["kept_step"] == 0
    assert metrics["held_out"]["margin"] == 0.0
    printed = capsys.readouterr().out
    assert "warning   step 2: KL(policy || reference) is " in printed


@pytest.mark.parametrize("flags", [(), ("--monitor_steps", 0)], ids=["no held-out pairs", "switched off"])
def test_without_the_monitor_nothing_is_measured(model, pairs, tmp_path, flags, capsys):
    held_out = ("--eval_data", pairs) if flags else ()
    assert train(model, pairs, tmp_path / "out", *held_out, *flags) == 0
    assert logged(tmp_path / "out")
    assert not any(name.startswith("hacking/") for entry in logged(tmp_path / "out") for name in entry)
    assert "warnings" not in read_record(tmp_path / "out").metrics
    why = "--monitor_steps is 0" if flags else "there are no held-out pairs (--eval_data)"
    assert capsys.readouterr().out.count(f"monitor   off: {why}, so nothing warns of ") == 1


def test_held_out_prompts_that_are_trained_on_are_told(model, pairs, tmp_path, capsys):
    held_out = write_pairs(tmp_path / "held_out.jsonl", [PAIRS[0], {**PAIRS[1], "prompt": "no dog"}])
    assert train(model, pairs, tmp_path / "out", "--eval_data", held_out) == 0
    assert "1 of their prompts occur in the training pairs too" in capsys.readouterr().out


def test_an_interrupted_run_is_carried_on(model, pairs, tmp_path):
    flags = ("--per_device_train_batch_size", 1, "--max_steps", 4, "--save_strategy", "steps", "--save_steps", 2)
    assert train(model, pairs, tmp_path / "whole", *flags) == 0
    unfinished = tmp_path / "out.incomplete"
    unfinished.mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(unfinished / "checkpoint-2")
    assert train(model, pairs, tmp_path / "out", *flags) == 2
    assert train(model, pairs, tmp_path / "out", *flags, "--resume_from_checkpoint", unfinished / "checkpoint-2") == 0
    whole, resumed = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "out"))
    assert whole
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=1e-5, atol=1e-7)  # optimizer states go through disk


def test_a_killed_run_leaves_nothing_that_looks_finished(model, pairs, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "ropo", "train", "--model", model, "--data", pairs, "--output", output]
    command += ["--max_steps", "100000", "--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "1"]
    program = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 300  # a busy machine takes minutes to start one
        while not list(tmp_path.glob("out.incomplete/checkpoint-*")):
            assert program.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    assert not output.exists()
    assert json.loads((tmp_path / "out.incomplete" / "run.json").read_text())["status"] == "running"
    assert not (tmp_path / "out.incomplete" / "adapter_config.json").exists()


def poisoned(model, folder) -> str:
    """Copy a model, and make the embedding of "mat" NaN."""
    loaded, tokenizer = load_model(model), load_tokenizer(model)
    with torch.no_grad():
        loaded.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("mat")] = math.nan
    loaded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_loss_that_is_not_finite_stops_the_run(model, tmp_path, capsys, caplog):
    """Only the last record holds the word that the model cannot read; nothing but earlier checkpoints is left."""
    flags = ("--per_device_train_batch_size", 1, "--num_train_epochs", 1, "--max_steps", 4)
    flags += ("--train_sampling_strategy", "sequential", "--save_strategy", "steps", "--save_steps", 1)
    broken = poisoned(model, tmp_path / "broken")
    data = write_pairs(tmp_path / "data.jsonl", [*PAIRS[1:], PAIRS[0]])
    capsys.readouterr()
    assert train(broken, data, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ropo train: error: training diverged: the loss is nan at step 4, in {data}:4; ")
    assert f"the last good checkpoint is {tmp_path}/out.incomplete/checkpoint-3;" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert train(broken, data, tmp_path / "out", *flags, "--resume", "--skip_non_finite") == 0
    assert f"step 4 skipped: the loss is nan, in {data}:4" in caplog.messages
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(each.isfinite().all() for each in saved.values())
    assert all(math.isfinite(value) for entry in logged(tmp_path / "out") for value in entry.values())


def test_a_run_that_diverges_leaves_nothing(model, pairs, tmp_path, capsys):
    flags = ("--learning_rate", "1e30", "--max_grad_norm", "1e30", "--max_steps", 5)
    assert train(model, pairs, tmp_path / "out", "--method", "full", *flags) == 2
    assert "lower --learning_rate, now 1e+30" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.incomplete").exists()


def test_weights_that_are_not_finite_after_the_last_step_stop_the_run(model, pairs, tmp_path, capsys):
    """The only step's loss is still that of the untrained model."""
    flags = ("--method", "full", "--learning_rate", "1e39", "--max_steps", 1, "--warmup_steps", 0)
    assert train(model, pairs, tmp_path / "out", *flags) == 2
    assert "training diverged: " in (error := capsys.readouterr().err)
    assert "is not finite after step 1" in error
    assert not (tmp_path / "out").exists()


def test_dora_trains_and_comes_back(model, pairs, tmp_path):
    assert train(model, pairs, tmp_path / "out", "--method", "lora", "--use_dora", "--learning_rate", "1e-2") == 0
    assert read_record(tmp_path / "out").config["adapter"]["use_dora"] is True
    trained = load_policy(str(tmp_path / "out"))
    assert any("lora_magnitude_vector" in name for name, _ in trained.named_parameters())
    probe = torch.arange(12)[None]
    assert not torch.equal(trained(probe).logits, load_model(model)(probe).logits)


def test_the_base_model_and_data_stay_as_they_are(model, pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = pairs.read_bytes()
    assert main(["train", "--model", model, "--data", "pairs.jsonl", "--output", "out", "--max_steps", "1"]) == 0
    assert pairs.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pairs.jsonl"]


def test_the_monitor_goes_off_where_no_linear_layer_is_trained(model, pairs, tmp_path, capsys):
    adapter = get_peft_model(load_model(model), TrainableTokensConfig(token_indices=[5], task_type="CAUSAL_LM"))
    adapter.save_pretrained(tmp_path / "tokens")
    assert train(tmp_path / "tokens", pairs, tmp_path / "out", "--eval_data", pairs, "--stop_on_warning") == 0
    assert "monitor   off: it watches linear layers, and this adapter trains none" in capsys.readouterr().out
