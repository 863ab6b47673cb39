# Every target sets up what it needs; nothing but Python >= 3.10 is assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

PYTHON_VERSION = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
COMPAT = .compat/torch-$(TORCH)-python-$(PYTHON_VERSION)

.PHONY: demo test slow compat check format names golden pages docs serve bench clean

demo: $(STAMP)  ## compare three optimizers on real handwritten digits and write the report
	$(BIN)/fallline compare digits --optimizers momentum,adam,adamw

test: $(STAMP)  ## the fast suite
	$(BIN)/python -m pytest -q -n auto --dist worksteal

slow: $(STAMP) $(VENV)/.ray $(VENV)/.docs $(VENV)/.clients  ## what takes longer
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m slow

# Without constraints.txt, which pins torch. The usual wheels for Linux bring gigabytes of CUDA packages; for a CPU build,
# set PIP_EXTRA_INDEX_URL to the address of PyTorch's index of CPU wheels, and add +cpu to the version.
compat:  ## the fast suite on another release: make compat TORCH=2.14.1 [PYTHON=python3.12]
	@test -n '$(TORCH)' || { echo 'compat: TORCH must be a release of torch; run make compat TORCH=2.14.1' >&2; exit 2; }
	test -x $(COMPAT)/bin/python || $(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check 'torch==$(TORCH)' -e '.[lab,dev]'
	$(COMPAT)/bin/python -m pytest -q -n auto --dist worksteal

check: $(STAMP)  ## lint, format, types, and that generated files are not stale
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks --disable-error-code=arg-type --disable-error-code=assignment --disable-error-code=import-not-found \
		--disable-error-code=misc --disable-error-code=no-any-return  # that they call what exists
	$(BIN)/python tools/names.py --check
	$(BIN)/python tests/oracles/make.py --check
	$(BIN)/python tools/docs.py --check
	$(BIN)/python tools/lint_table.py --check
	$(BIN)/python tools/conventions.py --check
	$(BIN)/python tools/pages.py --check

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

names: $(STAMP)  ## write src/fallline/__init__.py from what the packages export
	$(BIN)/python tools/names.py

golden: $(STAMP)  ## run the oracles and write their trajectories
	$(BIN)/python tests/oracles/make.py

pages: $(STAMP)  ## write docs/optimizers, docs/lint.md, docs/schedules.md, the output of code in other pages, and pictures
	$(BIN)/python tools/docs.py
	$(BIN)/python tools/lint_table.py
	$(BIN)/python tools/conventions.py
	$(BIN)/python tools/pages.py

docs: $(VENV)/.docs  ## build the site into site/; a warning, such as a broken link, is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

serve: $(VENV)/.docs  ## show the site on http://127.0.0.1:8000 and rebuild it when a file changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: $(STAMP)  ## step times against torch, and what the lab costs; wants a quiet machine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .peers -r benchmarks/peers.txt
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/lab.py
	$(BIN)/python benchmarks/products.py
	$(BIN)/python benchmarks/denormals.py
	$(BIN)/python benchmarks/few_bytes.py --write
	$(BIN)/python tools/docs.py

# constraints.txt pins torch: a looser range may fetch gigabytes of CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "fallline needs Python >= 3.10")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lab,dev]'
	touch $@

# Only the slow tests start a cluster; Ray's wheel is large, and there is none for the newest Pythons at first.
$(VENV)/.ray: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]' \
		&& touch $@ || echo "no Ray for this Python: tests on a cluster will skip"

# Only the slow tests need these. timm and fastai come without torchvision, which what is tested does not import.
$(VENV)/.clients: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[clients]' \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps timm fastai \
		&& touch $@ || echo "not every library of tests/clients and tests/integrations could be installed: some tests will skip"

# Only the site needs these.
$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .compat .peers dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis
