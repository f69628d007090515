# Everything a fresh clone needs: `make demo`, `make test`, `make check`. Nothing but Python 3.11+ has to be there.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Without a GPU an open torch range would install gigabytes of CUDA libraries; this release has a CPU build.
TORCH  ?= torch==2.13.0

.PHONY: install demo test check format benchmark bench-compare screenshots docs sbom clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[networks,train,batch,report,dicom,slicer,web,bench,docs,dev]'
	touch $@

demo: install
	$(BIN)/perfusion-cbv demo --output demo-output

# One thread each: two processes that both start threads for two cores wait for each other.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: install
	$(BIN)/python benchmarks/commands.py

# Ours beside osipi, osipy, dcmri and plain numpy: rewrites docs/comparison.md, .csv and .png; 10 minutes when idle.
bench-compare: install
	$(BIN)/python benchmarks/compare.py

screenshots: install
	QT_QPA_PLATFORM=offscreen $(BIN)/python Testing/screenshots.py
	$(BIN)/python Testing/screenshots_web.py

# The guide as web pages in site/; open site/index.html.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# What runs when this program runs: packages with versions and licences, weights with hashes.
sbom: install
	$(BIN)/python Testing/make_sbom.py sbom.cdx.json

clean:
	rm -rf $(VENV) demo-output site sbom.cdx.json build *.egg-info PerfusionCBV/*.egg-info
