# `make demo` and `make test` set up all that they need in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Tests run in one process more than there are cores, for some wait, up to four, with one thread each.
PARALLEL = --numprocesses $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() + 1, 4))') --dist worksteal

# Runs the GPU commands; it needs PyTorch with CUDA, numpy, triton and pytest, nothing else.
GPU_PYTHON ?= python3

.PHONY: demo test site lint shapes oldest newest fuzz faults slow interpreter-test gpu-test gpu-bench clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

test: $(INSTALLED)
	$(MAKE) --jobs 2 lint interpreter-test shapes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" $(PARALLEL)

lint: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

# The documentation as a site in site/, with search, for any server of files.
site: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What the annotations say of tensors, checked in a part of the tests (tests/shapes.py).
SHAPES := $(addprefix tests/, layers/test_attention.py ops/test_sequences.py ops/test_convolution.py \
	models/test_heads.py models/test_encoder_decoder.py)

shapes: $(INSTALLED)
	REFORMER_CHECK_SHAPES=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHAPES) -m "not slow" \
		-k "not compil and not numba and not strictly_causal"

# The oldest versions that pyproject.toml allows, in an environment of their own.
OLDEST := $(VENV)-oldest

oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(PYTHON) tests/oldest.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt --editable '.[dev]'
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -m "not slow" $(PARALLEL)

# The newest versions there are, without constraints.
NEWEST := $(VENV)-newest

newest:
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --editable '.[dev]'
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -m "not slow" $(PARALLEL)

# Many more examples of every property of tests/hostile than `make test` tries.
fuzz: $(INSTALLED)
	REFORMER_FUZZ=fuzz OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/hostile $(PARALLEL)

# Kills, damage, full disks and the like, and what becomes of a run; `make test` has a few of each.
faults: $(INSTALLED)
	$(BIN)/python benchmarks/faults.py

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

interpreter-test: $(INSTALLED)
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/gpu -m "not slow and not gpu" $(PARALLEL)

gpu-test:  # compiling takes most of the time, so in four processes
	for part in 0 1 2 3; do \
		PYTHONPATH=src $(GPU_PYTHON) -m pytest tests/gpu -q -o filterwarnings=default --part $$part/4 & pids="$$pids $$!"; \
	done; for pid in $$pids; do wait $$pid || failed=1; done; exit $${failed-0}

gpu-bench:
	PYTHONPATH=src $(GPU_PYTHON) benchmarks/gpu_attention.py
	PYTHONPATH=src $(GPU_PYTHON) benchmarks/gpu_step.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) runs site
