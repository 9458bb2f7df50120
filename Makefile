# Each target does the whole set-up itself and is quick when it is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: app serve quick test all setup models interpreter clean

app: models
	@$(BIN)/python -m streamlit run app/main.py

# The backend with all models that ship, on the loopback.
serve: models
	@$(BIN)/saa fetch e5
	@$(BIN)/saa serve

# Lint, types, and every test that needs neither a model nor a browser.
quick: setup
	@scripts/check quick

test: models interpreter
	@scripts/check test

# Long walks, wide fuzz, everything times everything.
all: models interpreter
	@scripts/check all

setup: $(VENV)/.installed

models: setup
	@$(BIN)/saa fetch smollm2 minilm

# Triton's interpreter, for the tests of the GPU's kernels; nothing is done where PyTorch brought Triton.
interpreter: setup
	@$(BIN)/python scripts/setup.py --interpreter

$(VENV)/.installed: requirements.txt pyproject.toml scripts/setup.py
	@$(PYTHON) scripts/setup.py
	@touch $@

# Models, texts and recorded traces lie elsewhere (saa doctor says where) and stay.
clean:
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find app assets benchmarks saa_core scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
