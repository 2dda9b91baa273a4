# setup: the environment, once   demo: nothing → PPO → report   test: all but the slow   fast: floor 0 only
# slow: the rest of the tests   docs: the pages as a site   readme: every command of README and docs
SHELL := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.palign-installed
WORKERS ?= 2
ARGS ?=

TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 TRL_EXPERIMENTAL_SILENCE=1
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest
FLOOR_0 := tests/functional

.PHONY: setup demo test fast slow docs readme style format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("palign needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; say PYTHON=python3.11 make ...")'
	@echo "make setup, 1 of 2: a virtual environment in $(VENV)/"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "make setup, 2 of 2: palign and what it needs, in the versions of constraints.txt: torch, transformers, trl and"
	@echo "  some 100 more. One to five minutes, most of it the download. A line for each package as it comes:"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e ".[deepspeed,xlsx,dev,report,docs]" \
		| awk '/^Collecting/ { printf "  %s\n", $$2; fflush() } /^Installing collected/ { print "  installing them all"; fflush() }'
	@touch $@
	@echo "done. Next: make demo, or source $(BIN)/activate and palign --help"

demo: setup
	@echo "make demo: a language model, a PAL reward, PPO without and with who is asking, a report; 2 to 3 minutes"
	$(BIN)/accelerate launch --config_file accelerate_configs/single.yaml recipes/ppo_pal.py $(ARGS)

test: setup
	$(PYTEST) -m "not slow" -n $(WORKERS) --dist loadfile $(ARGS)

fast: setup
	$(PYTEST) -m "not slow" -q -n $(WORKERS) --dist loadfile $(FLOOR_0) $(ARGS)

slow: setup
	$(PYTEST) -m slow $(ARGS)

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

readme: setup
	$(TEST_ENV) $(BIN)/python scripts/check_readme.py $(ARGS)

style: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache
