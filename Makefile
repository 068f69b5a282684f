# Two commands: `make app` and `make test`. The rest is in `make help`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: app test lab notebooks bench bench-app docs lint format clean distclean help

VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=

# The first interpreter that is new enough and can make a virtual environment; `make PYTHON=/path/to/python` overrides.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
  $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

app: $(VENV)/.installed-app ## install if needed, then open the comparison app on http://127.0.0.1:7860
	@exec $(VENV)/bin/workbench app $(ARGS)

test: $(VENV)/.installed-test ## install if needed, then run the whole suite: doctests, tests, notebooks (ARGS="-k paths")
	@OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest $(ARGS) # waiting threads sleep: a spinning one holds the core that another process needs

lab: $(VENV)/.installed-lab ## open the notebooks in JupyterLab
	@exec $(VENV)/bin/jupyter lab notebooks/ $(ARGS)

notebooks: $(VENV)/.installed-test ## run the notebooks and store their new outputs
	@$(VENV)/bin/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

bench: $(VENV)/.installed-app ## print what the executor costs against diffusers' schedulers
	@$(PY) benchmarks/overhead.py $(ARGS)

bench-app: $(VENV)/.installed-test ## print how fast the app answers, what it weighs, and whether its memory stays flat (needs Chromium)
	@$(PY) benchmarks/app.py $(ARGS)

docs: $(VENV)/.installed-test ## build the documentation into docs/_build; a warning is an error
	@$(PY) -m sphinx -W --keep-going -q docs docs/_build
	@$(PY) docs/check.py docs/_build
	@echo "docs/_build/index.html"

lint: $(VENV)/.installed-test ## check style and format with ruff
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: $(VENV)/.installed-test ## mend what ruff can mend
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean: ## remove caches and builds (keeps .venv and runs/)
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name .venv -prune -o -name .git -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -exec rm -rf {} +

distclean: clean ## remove .venv too
	@rm -rf $(VENV)

help: ## show this list
	@echo "The workbench compares a diffusion teacher with its few-step students."
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo 'Options go in ARGS, for example: make app ARGS="--port 8000". pip reads its usual settings: where torch would come with'
	@echo "CUDA that this machine has no use for, point PIP_INDEX_URL or PIP_EXTRA_INDEX_URL at an index with CPU builds first."

# A stamp inside .venv says that this very pyproject.toml and constraints.txt are installed, so a second `make app` installs nothing.
$(VENV)/.installed-app: pyproject.toml constraints.txt | $(PY)
	$(call install,.,the workbench)
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(PY)
	$(call install,.[test],the workbench and its test tools)
	@touch $@ $(VENV)/.installed-app

$(VENV)/.installed-lab: pyproject.toml constraints.txt | $(PY)
	$(call install,.[lab],the workbench and JupyterLab)
	@touch $@ $(VENV)/.installed-app

$(PY):
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	  echo "The workbench needs Python 3.11 or newer with its venv module, and found none: install it (Debian and Ubuntu:" \
	    "apt-get install python3 python3-venv), or name one with 'make PYTHON=/path/to/python3.12'." >&2; exit 1; fi; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "PYTHON=$$python is not Python 3.11 or newer: leave PYTHON out, or name another." >&2; exit 1; }; \
	echo "Creating $(VENV) with $$("$$python" --version) ..."; \
	"$$python" -m venv $(VENV)

# pip's own log is hundreds of lines: keep those that say why it takes a while (a large download, the unpacking) and all errors.
define install
@set -o pipefail; start=$$SECONDS; \
echo "Installing $(2) into $(VENV) (the first time takes a few minutes and about 2 GB, most of it torch) ..."; \
$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null; \
PYTHONUNBUFFERED=1 $(PY) -m pip install --no-input --disable-pip-version-check --progress-bar off -c constraints.txt -e '$(1)' \
  | awk '/Downloading .*\(([0-9][0-9][0-9]+(\.[0-9]+)? MB|[0-9.]+ GB)\)/ { n = split($$2, part, "/"); print "  fetching " part[n] " " $$3 " " $$4 } \
         /Installing collected packages/ { print "  unpacking " NF - 3 " packages" } { fflush() }' || { \
  echo "The installation stopped; pip's reason stands above. Run the same command again to go on from there." >&2; exit 1; }; \
echo "Installed in $$((SECONDS - start)) s."
endef
