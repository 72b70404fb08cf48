# `make train` and `make test` do all the set-up they need on a machine with Python 3.11-3.13, git and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs

.PHONY: install train test docs docs-test mistakes faults chaos soak test-slow ray-test lint audit clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"metarl needs Python 3.11 to 3.13, but $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt torch
# compat: the checkout is a line of sys.path. Otherwise a folder that holds a clone, metarl/, hides the installed metarl.
	$(RUN) -m pip install --quiet --constraint constraints.txt --config-settings editable_mode=compat --editable ".[dev]"
	touch $(INSTALLED)

train: $(INSTALLED) ## meta-train HalfCheetah-dir at CPU size, evaluate on held-out tasks, say where the results are
	$(RUN) train.py maml_trpo_half_cheetah_dir_small

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Files of tests run side by side, each process with one torch thread; those that measure time run alone, behind them.
# Many tests start programs: with PYTHONDONTWRITEBYTECODE each of these would compile all of metarl again.
test docs-test: export PYTHONDONTWRITEBYTECODE =
test: lint ## everything but the tests marked slow or pages; under 9 minutes on 2 cores
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m "not slow and not alone and not pages" --numprocesses auto --dist loadfile
	$(RUN) -m pytest -m "alone and not slow" $$(grep -rl --include='test_*.py' 'mark.alone' tests)

docs: $(INSTALLED_DOCS) ## the documentation as a site in build/site; a warning is an error, under a minute
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build
	@echo "open build/site/index.html; to search, too: $(RUN) -m http.server --directory build/site, and http://localhost:8000"

$(INSTALLED_DOCS): $(INSTALLED)
	$(RUN) -m pip install --quiet --constraint constraints.txt --config-settings editable_mode=compat --editable ".[docs]"
	touch $(INSTALLED_DOCS)

# Chromium on the path is what browser tests need; with REQUIRE_BROWSER=1 they fail without one, else they are skipped.
docs-test: $(INSTALLED_DOCS) ## pages in a browser, the site, films, commands of the docs; under 7 minutes on 2 cores
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m pages --timeout 900 --numprocesses auto --dist loadfile

mistakes: $(INSTALLED) ## what people are told of the mistakes that they make: one table
	$(RUN) -m pytest -m mistakes -q

ray-test: $(INSTALLED) ## installs Ray, and tests workers that are its actors
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[ray]" --config-settings editable_mode=compat
	$(RUN) -m pytest tests/sampling/test_ray.py tests/run/test_ray_runs.py --timeout 3600
	$(RUN) -m pytest tests/faults -k r30 -q --timeout 600

faults: $(INSTALLED) ## the reliability scorecard, R1 to R30: one table; under 10 minutes on 2 cores
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/faults -q --timeout 600 --numprocesses 2 --dist load

chaos: $(INSTALLED) ## a run under fire: digest and throughput; CHAOS=0.1 is a tenth of it
	$(RUN) tests/chaos.py $(or $(CHAOS),1)

soak: $(INSTALLED) ## long runs: memory and descriptors must not grow; SOAK=0.02 is a fiftieth; goes on where it was
	$(RUN) tests/soak.py $(or $(SOAK),1)

test-slow: $(INSTALLED) ## the rest
	$(RUN) -m pytest -m slow --timeout 3600

audit: $(INSTALLED) ## bandit, and pip-audit where advisories can be reached (OFFLINE=--offline: no error where not)
	$(RUN) -m pip install --quiet --constraint constraints.txt bandit pip-audit
	$(RUN) tests/audit.py $(OFFLINE)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
