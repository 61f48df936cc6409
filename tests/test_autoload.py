"""Programs that do not import ropo read its adapters all the same: PyTorch runs our entry point.

Each runs in a process of its own, beside a made-up installation that says what pyproject.toml says: the one of the
environment may be older.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from ropo import RopoConfig
from tests.tiny.adapted import tiny_llama
from tests.tiny.tokenizer import tiny_tokenizer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the metadata of an installed ropo, its entry points among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    folder = tmp_path_factory.mktemp("installed")
    info = folder / f"ropo-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ropo\nVersion: {project['version']}\n")
    groups = (
        f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in entries.items()) + "\n"
        for group, entries in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups))
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on a tiny model with a tokenizer, and beside it the base and the merged model."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer()
    base = tiny_llama()
    base.resize_token_embeddings(len(tokenizer))
    base.config.eos_token_id = base.generation_config.eos_token_id = tokenizer.eos_token_id
    base.save_pretrained(folder / "base")
    torch.manual_seed(1)
    model = get_peft_model(base, RopoConfig(init_weights=False, task_type="CAUSAL_LM"))
    model.peft_config["default"].base_model_name_or_path = str(folder / "base")
    model.save_pretrained(folder / "adapter")
    model.merge_and_unload().save_pretrained(folder / "merged")
    for name in ("base", "adapter", "merged"):
        tokenizer.save_pretrained(folder / name)
    return folder / "adapter"


def run(installation: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(installation), str(ROOT / "src")])
    variables = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error:RoPO", **environment}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=variables, check=False)


def python(installation: Path, code: str, *arguments: object, **environment: str) -> str:
    done = run(installation, "-c", code, *map(str, arguments), **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


LOADERS = {
    "PyTorch first": "import torch; from peft import PeftModel; "
    "from transformers import AutoModelForCausalLM as A; "
    "model = PeftModel.from_pretrained(A.from_pretrained(base), adapter)",
    "PEFT first": "from peft import AutoPeftModelForCausalLM as A; model = A.from_pretrained(adapter)",
    "a part of PEFT first": "from peft.auto import AutoPeftModelForCausalLM as A; model = A.from_pretrained(adapter)",
    "transformers": "from transformers import AutoModelForCausalLM as A; model = A.from_pretrained(adapter)",
    "load_adapter": "from transformers import AutoModelForCausalLM as A; model = A.from_pretrained(base); "
    "model.load_adapter(adapter)",
}
SEEN = "; print(sorted({type(m).__module__ for m in model.modules() if type(m).__name__ == 'RopoLinear'}))"


@pytest.mark.parametrize("code", LOADERS.values(), ids=LOADERS)
def test_adapters_load_without_a_line_about_ropo(installation, adapter, code) -> None:
    code = f"import sys; base, adapter = sys.argv[1:]; {code}{SEEN}"
    assert python(installation, code, adapter.parent / "base", adapter) == "['ropo.adapter.layer']\n"


@pytest.mark.parametrize("first", ["import ropo, torch", "import torch, ropo", "import peft, ropo"])
def test_import_ropo_registers_also_where_autoload_is_off(installation, first) -> None:
    code = f"{first}; from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as table; print('ROPO' in table)"
    assert python(installation, code, ROPO_NO_AUTOLOAD="1") == "True\n"


def test_register_registers_at_once(installation) -> None:
    code = "import ropo, sys; ropo.register(); print('ROPO' in sys.modules['peft.mapping'].PEFT_TYPE_TO_CONFIG_MAPPING)"
    assert python(installation, code, ROPO_NO_AUTOLOAD="1") == "True\n"


@pytest.mark.parametrize("variable", ["ROPO_NO_AUTOLOAD", "TORCH_DEVICE_BACKEND_AUTOLOAD"])
def test_it_can_be_switched_off(installation, adapter, variable) -> None:
    off = {variable: "1" if variable.startswith("ROPO") else "0"}
    done = run(installation, "-c", f"import torch, peft; peft.PeftConfig.from_pretrained({str(adapter)!r})", **off)
    assert "KeyError: 'ROPO'" in done.stderr


def test_looking_for_peft_loads_nothing(installation) -> None:
    code = (
        "import torch, sys, importlib.util as u; spec = u.find_spec('peft'); "
        "print(spec.name, [name for name in ('peft', 'ropo', 'transformers') if name in sys.modules])"
    )
    assert python(installation, code) == "peft []\n"


def test_an_adapter_that_cannot_be_registered_does_not_break_peft(installation) -> None:
    code = "import sys; sys.modules['ropo.adapter.model'] = None; import torch, peft; print(peft.LoraConfig.__name__)"
    done = run(installation, "-c", code, PYTHONWARNINGS="default")
    assert done.stdout == "LoraConfig\n"
    assert "RoPO's adapter could not be registered with PEFT: ModuleNotFoundError" in done.stderr


def test_import_torch_hardly_waits_for_it(installation) -> None:
    """Less than a millisecond; the fastest of several processes, since a busy machine slows any of them."""
    code = (
        "from importlib.metadata import entry_points; from time import perf_counter as now; "
        "[point] = [each for each in entry_points(group='torch.backends') if each.name == 'ropo']; "
        "import re, typing; start = now(); point.load()(); print(now() - start)"
    )
    fastest = min(float(python(installation, code)) for _ in range(5))
    assert 0 < fastest < 1e-3


TASK = """\
task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: brier_score, aggregation: brier_score, higher_is_better: false}}]
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lm_eval") is None, reason="no lm_eval here: pip install 'ropo[evaluation]'")
def test_lm_evals_own_command_line_reads_an_adapter(installation, adapter, tmp_path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"question": "the cat", "choices": [" sat", " the dog"], "answer": number % 2} for number in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tiny.yaml").write_text(TASK.format(data=data))
    base, merged = adapter.parent / "base", adapter.parent / "merged"

    def score(name: str, model: str) -> float:
        command = ["--model", "hf", "--model_args", f"{model},dtype=float32", "--tasks", "tiny", "--device", "cpu"]
        command += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / name), "--batch_size", "4"]
        settings = {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONWARNINGS": "default"}
        done = run(installation, "-m", "lm_eval", *command, **settings)
        assert done.returncode == 0, done.stderr[-3000:]
        [file] = (tmp_path / name).rglob("results_*.json")
        return json.loads(file.read_text())["results"]["tiny"]["brier_score,none"]

    adapted, plain = score("adapted", f"pretrained={base},peft={adapter}"), score("merged", f"pretrained={merged}")
    assert math.isclose(adapted, plain, rel_tol=1e-4)


@pytest.mark.parametrize("first", ["ropo.lm.strength", "ropo.lm.held_out", "ropo.adapter.config"])
def test_whatever_of_ours_is_imported_first_the_adapter_is_registered(first: str) -> None:
    code = f"import {first}; from peft import PEFT_TYPE_TO_CONFIG_MAPPING as known; print('ROPO' in known)"
    flags = [sys.executable, "-W", "error:RoPO's adapter:UserWarning", "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    found = subprocess.run(flags, capture_output=True, text=True, env=environment, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "True\n", "")
