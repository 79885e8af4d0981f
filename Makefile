# Everything runs in a virtual environment of its own, made on first use from nothing but Python and a package index.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
SEED ?= $(shell date +%s)

unexport PYTHONDONTWRITEBYTECODE  # hundreds of processes are started here: what they run is compiled once

.PHONY: demo test nightly faults check docs contracts coverage lowest pythons package bench peers clean

demo: $(VENV)/ready  ## an agent with tools, in the terminal
	@$(RUN) -m kimi_agent demo

test: $(VENV)/dev-ready  ## the whole suite, on all cores
	$(RUN) -m pytest -q --numprocesses auto --dist worksteal

nightly: $(VENV)/dev-ready  ## answers and files damaged in 100,000 ways, storms of calls, sessions killed 5,000 times
	KIMI_AGENT_FUZZ=100000 KIMI_AGENT_KILLS=2500 KIMI_AGENT_STORES=2000 $(RUN) -m pytest -q \
		--timeout 900 tests/test_sse_fuzz.py tests/test_interleavings.py tests/test_tool_storm.py tests/test_raw_parsers.py \
		tests/test_session_file.py tests/test_killed_sessions.py tests/test_sqlite_store.py tests/test_schema.py \
		tests/test_records.py tests/test_wire.py tests/test_placeholders.py tests/test_sections.py tests/test_markdown_handlers.py

faults: $(VENV)/dev-ready  ## 10,000 rounds on a network where everything goes wrong, and what became of them
	$(RUN) tests/faults/campaign.py --rounds 10000 --seed 1

check: $(VENV)/dev-ready docs  ## format, lint, types, and that the site can be built
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m pyright --pythonpath $(RUN)
	$(RUN) tests/typing/check.py

docs: $(VENV)/docs-ready  ## the site, in site/
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

bench: $(VENV)/dev-ready  ## the figures, as ratios within one run
	$(RUN) tests/bench/cache.py
	$(RUN) tests/bench/imports.py
	$(RUN) tests/bench/load.py
	$(RUN) tests/bench/markdown.py
	$(RUN) tests/bench/prompt.py
	$(RUN) tests/bench/sessions.py
	$(RUN) tests/bench/stream.py
	$(RUN) tests/bench/tokens.py
	$(RUN) tests/bench/tools.py

contracts: $(VENV)/dev-ready  ## the suite in another order each time; SEED=N repeats one
	$(RUN) -m pytest -q --random-order --random-order-seed $(SEED) --numprocesses auto --dist worksteal

coverage: $(VENV)/dev-ready  ## the suite, and which branches of the package it does not take: at most 5 in 100
	$(RUN) -m coverage erase
	$(RUN) -m coverage run -m pytest -q --numprocesses auto --dist worksteal --timeout 180
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

lowest: $(VENV)/dev-ready  ## the suite, with the lowest versions of everything that pyproject.toml allows
	$(PYTHON) -m venv $(VENV)-lowest
	$(RUN) -m uv pip install --quiet --python $(VENV)-lowest --resolution lowest-direct --editable '.[dev]'
	$(VENV)-lowest/bin/python -m pytest -q --numprocesses auto --dist worksteal

pythons:  ## the suite, with every Python that is here
	@for python in python3.11 python3.12 python3.13; do \
		if command -v $$python >/dev/null && $$python --version; then \
			$(MAKE) test PYTHON=$$python VENV=$(VENV)-$$python || exit 1; \
		else echo "no $$python here"; fi; \
	done

package: $(VENV)/dev-ready  ## what is shipped, in dist/, installed and run where nothing else is
	$(RUN) tests/release/check.py

peers:  ## the same work done by others, each in an environment of its own; kosong needs Python 3.12
	$(PYTHON) tests/bench/peers.py --folder $(VENV)-peers

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[cli]'
	@touch $@

$(VENV)/dev-ready: pyproject.toml $(VENV)/ready
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/docs-ready: pyproject.toml $(VENV)/ready
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-* site dist
