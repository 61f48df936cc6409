"""A model that is to be cut over processes is read once, and no process but the first ever holds it whole."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from accelerate import PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from ropo.core.errors import UserError
from ropo.lm.loading import load_model
from ropo.lm.spreading import is_spread, read_once, spread, weights_of
from ropo.training.distributed.processes import by_the_first, rank
from tests.training.together import run_together

MEMORY = Path("/proc/self/clear_refs")
NUMBERS = 24e6  # 96 MB in float32


def save_model(folder: Path) -> Path:
    torch.manual_seed(0)
    shape = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_hidden_layers": 7}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1000, **shape))
    assert 0.8 * NUMBERS < model.num_parameters() < 1.2 * NUMBERS
    model.generation_config = GenerationConfig(eos_token_id=[7, 9])
    model.bfloat16().save_pretrained(folder)  # read in float32, a copy is made: files of the same type are mapped
    return folder


def peak(action) -> tuple[object, int]:
    """Return what an action gives and the most bytes that it took on top of what was there."""
    MEMORY.write_text("5")  # from here on the peak is counted anew
    before = psutil.Process().memory_info().rss
    result = action()
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return result, int(line.split()[1]) * 1024 - before


def read_and_cut(folder: Path) -> dict:
    PartialState(cpu=True)
    source = str(folder)
    model, to_read = peak(lambda: read_once(source, lambda: load_model(source, torch.float32), by_the_first, False))

    def cut() -> None:
        before = weights_of(model)
        mesh = init_device_mesh("cpu", (2,))
        for layer in (*model.model.layers, model):
            fully_shard(layer, mesh=mesh)
        spread(model, before)

    _, to_cut = peak(cut)
    names = dict(model.named_parameters())
    same = []
    for name, expected in load_model(source, torch.float32).named_parameters():
        same.append(torch.equal(names[name].full_tensor(), expected))
    buffers = [each.double().sum().item() for _, each in model.named_buffers()]
    kept = (is_spread(model), model.training, model.generation_config.eos_token_id, model.name_or_path)
    return {"same": all(same), "number": len(same), "peaks": (to_read, to_cut), "buffers": buffers, "kept": kept}


@pytest.mark.skipif(not MEMORY.exists(), reason="counts memory as Linux does")
def test_the_others_never_hold_the_whole_model(tmp_path):
    folder = save_model(tmp_path / "model")
    whole = 4 * NUMBERS
    first, second = run_together(read_and_cut, tmp_path / "log", folder)
    for found in (first, second):
        assert found["same"]
        assert found["number"] == 66
        assert found["kept"] == (True, False, [7, 9], str(folder))
    assert first["buffers"] == second["buffers"] != []
    assert first["peaks"][0] > 0.9 * whole
    assert second["peaks"][0] < 0.3 * whole  # of modules that are imported, mostly
    assert second["peaks"][1] < 0.9 * whole  # its half; tensors are small beside it, so are those on their way


def fail_to_read(folder: str) -> str:
    PartialState(cpu=True)
    with pytest.raises(UserError) as error:
        read_once(folder, lambda: load_model(folder), by_the_first, False)
    return f"{rank()} {error.value}"


def test_all_processes_hear_why_the_first_cannot_read(tmp_path):
    (tmp_path / "empty").mkdir()
    found = run_together(fail_to_read, tmp_path / "log", str(tmp_path / "empty"))
    reason = f"model {tmp_path}/empty: the folder has no config.json; give the folder of a transformers checkpoint"
    assert found == [f"0 {reason}", f"1 {reason}"]
