"""What a user sees while training."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from ropo.training.callbacks.metrics_file import MetricsFile
from ropo.training.callbacks.progress import Progress, monitor_line, progress_line

LOGS = {
    "loss": 0.65432,
    "rewards/accuracies": 0.75,
    "rewards/margins": 0.1234,
    "logps/chosen": -200.04,
    "logps/rejected": -180.5,
    "unique_tokens_per_second": 1234.6,
}


@pytest.fixture
def arguments(tmp_path):
    return TrainingArguments(output_dir=str(tmp_path), learning_rate=0.5, use_cpu=True)


def test_the_line_has_everything_that_tells_a_run():
    assert progress_line(LOGS, step=5, steps=120, seconds_left=3725.4) == (
        "step   5/120  loss 0.6543  accuracy 0.75  margin +0.123  chosen -200.0  rejected -180.5  1235 tokens/s  "
        "1:02:05 left"
    )


def test_other_losses_have_fewer_columns():
    assert progress_line({"loss": 1.0}, step=1, steps=2, seconds_left=1) == "step 1/2  loss 1.0000  0:00:01 left"


def test_the_monitors_line_has_both_log_probs_and_what_was_measured_only():
    logs = {
        "hacking/chosen_change_per_token": -0.0123,
        "hacking/rejected_change_per_token": -0.5,
        "hacking/length_ratio": 1.5,
        "hacking/repetition_rise": 0.25,
        "hacking/energy_change": 1e-9,
        "hacking/largest_cosine_change": 2e-7,
    }
    line = (
        "monitor   step 7: chosen -0.012, rejected -0.500 nats/token, length x1.50, repetition +0.25, energy +1.0e-09, "
        "largest cosine change 2.0e-07"
    )
    assert monitor_line(logs, step=7) == line
    assert monitor_line({**logs, "hacking/text_loss_rise": 0.01}, step=7) == line + ", text loss +0.010"
    logs["hacking/kl_per_token"] = 0.0512
    assert monitor_line(logs, step=7) == line + ", KL 0.0512 nats/token"
    logs |= {"hacking/kl_per_token_low": 0.04, "hacking/kl_per_token_high": 0.0625}
    assert monitor_line(logs, step=7) == line + ", KL 0.0512 (0.04 to 0.0625) nats/token"
    logs |= {"hacking/kl_per_token": 2.34e-5, "hacking/kl_per_token_low": 0.0, "hacking/kl_per_token_high": 0.000312}
    assert monitor_line(logs, step=7) == line + ", KL 2.34e-05 (0 to 0.000312) nats/token"


def run(console, arguments, logs):
    state, control = TrainerState(max_steps=2), TrainerControl()
    with Progress(console) as progress:
        progress.on_train_begin(arguments, state, control)
        state.global_step = 1
        progress.on_step_end(arguments, state, control)
        progress.on_log(arguments, state, control, logs)
        return progress


def test_a_file_gets_plain_lines_only(arguments):
    output = io.StringIO()
    run(Console(file=output, soft_wrap=True), arguments, LOGS)
    lines = output.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("step 1/2  loss 0.6543")
    assert lines[0].endswith("0:00:00 left")
    assert "\x1b" not in lines[0]


def test_a_terminal_gets_a_bar_which_is_taken_away(arguments):
    output = io.StringIO()
    progress = run(Console(file=output, force_terminal=True, width=200), arguments, LOGS)
    assert "training" in output.getvalue()
    assert "step 1/2" in output.getvalue()
    assert not progress.bar.live.is_started
    assert output.getvalue().rindex("\x1b[?25h") > output.getvalue().rindex("\x1b[?25l")  # the cursor is back


def test_evaluation_logs_are_no_step(arguments):
    output = io.StringIO()
    run(Console(file=output), arguments, {"eval_loss": 1.0})
    assert output.getvalue() == ""


def test_the_journal_keeps_every_log(arguments, tmp_path):
    journal = MetricsFile(tmp_path)
    for step in (1, 2):
        journal.on_log(arguments, TrainerState(global_step=step), TrainerControl(), {"loss": 1.0 / step})
    journal.on_log(arguments, TrainerState(global_step=2, is_world_process_zero=False), TrainerControl(), LOGS)
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(entry["step"], entry["loss"]) for entry in entries] == [(1, 1.0), (2, 0.5)]
    assert all(entry["seconds"] >= 0 for entry in entries)


def test_passes_over_held_out_pairs_say_how_far_they_are(arguments, monkeypatch):
    monkeypatch.setattr("ropo.core.progress._PAUSE", 0.0)
    console = Console(file=io.StringIO(), width=200)
    progress, state, control = Progress(console), TrainerState(), TrainerControl()
    for end in (progress.on_predict, progress.on_evaluate):
        for _ in range(3):
            progress.on_prediction_step(arguments, state, control, eval_dataloader=[None] * 3)
        end(arguments, state, control, metrics={})
    said = [line.partition(", about")[0] for line in console.file.getvalue().splitlines()]
    assert said == ["held-out  batches of pairs: 1/3", "held-out  batches of pairs: 2/3"] * 2
