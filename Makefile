# Each target does the whole set-up itself and is quick when it is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: app test setup models clean

app: models
	$(BIN)/streamlit run app/main.py

test: models
	scripts/check

setup: $(VENV)/.installed

models: setup
	@$(BIN)/saa fetch smollm2 minilm

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
