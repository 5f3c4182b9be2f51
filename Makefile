# make demo   phantom hearts -> generator -> synthetic pairs -> three segmenters -> demo/report.html
# make test   every test, on two cores
# make lock   pin the packages that are installed now

PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test lint lock

demo: .venv/installed
	$(BIN)/voxpair demo -o demo

test: .venv/installed lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -q

lint: .venv/installed
	$(BIN)/ruff check src tests examples benchmarks
	$(BIN)/ruff format --check src tests examples benchmarks

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lock: .venv/installed
	( echo "# Every package of the environment that tests and benchmarks run in, pinned; made by \`make lock\`."; \
	  $(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu//' | sort -f ) > requirements.txt
