# Everything a fresh clone needs: `make demo`, `make test`, `make check`. Nothing but Python 3.11+ has to be there.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Without a GPU an open torch range would install gigabytes of CUDA libraries; this release has a CPU build.
TORCH  ?= torch==2.13.0

.PHONY: install demo test check format benchmark screenshots clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[networks,train,report,dicom,slicer,web,dev]'
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
	$(BIN)/python Testing/benchmark.py

screenshots: install
	QT_QPA_PLATFORM=offscreen $(BIN)/python Testing/screenshots.py
	$(BIN)/python Testing/screenshots_web.py

clean:
	rm -rf $(VENV) demo-output build *.egg-info PerfusionCBV/*.egg-info
