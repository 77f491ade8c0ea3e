# make            builds ft.pyz, the one file that runs anywhere
# make test       the whole suite, as python3 tests/run.py runs it; with coverage from Python 3.12 on
# make check      linters, types and names
# make bench      what users wait for, beside curl
# make long       500 generations with faults, 10,000 odd answers, 100 kills, 100 chaotic servers
# make matrix     the suite once with each Python there is; PYTHONS="…" chooses them
# make dist       what a release serves, in dist/
# make picture    the picture in the README, from a real session
# make clean
PYTHON = python3
PYTHONS = $(shell $(PYTHON) tests/tools/build.py pythons)
BIN = .venv/bin

ft.pyz: ft.py tests/tools/build.py
	$(PYTHON) tests/tools/build.py pyz $@

test:
	$(PYTHON) tests/run.py

venv:
	$(PYTHON) tests/run.py --setup

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy ft.py tests/sandbox.py tests/support/faults.py tests/run.py tests/tools/build.py
	$(BIN)/python tests/tools/check_names.py
	shellcheck install.sh .ci/run

bench: venv
	$(BIN)/python tests/tools/bench.py

long: venv
	FT_SOAK=500 FT_FUZZ=10000 FT_KILLS=100 $(BIN)/python -m pytest -n 3 -o faulthandler_timeout=0 --hypothesis-show-statistics \
	    tests/test_soak.py tests/test_fuzz.py tests/test_kill.py tests/test_connections.py

matrix: venv
	set -e; for python in $(PYTHONS); do \
	    echo "== $$python"; FT_PYTHON=$$python $(BIN)/python -m pytest -q -n auto; \
	done

dist: venv
	$(BIN)/python tests/tools/build.py dist $@

picture: venv
	$(BIN)/python tests/tools/screenshot.py

clean:
	rm -rf .venv build dist ft.pyz .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf __pycache__ tests/__pycache__ tests/*/__pycache__ tests/*/*/__pycache__

.PHONY: test venv check bench long matrix dist picture clean
