# make demo    the whole path on a laptop: demo covers, statistics, three ways of fine-tuning mini, covers, scores
# make test    lint and tests
# Both make the environment first (make install). Nothing needs a GPU.

PYTHON ?= python3
BIN := .venv/bin
.PHONY: install demo test clean
.SILENT:

install: .venv/ready

.venv/ready: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	echo "making the environment .venv (some minutes, several GB: torch comes with CUDA)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@

# --- make demo -------------------------------------------------------------------------------------------------------

DEMO := demo

demo: install
	$(BIN)/python -m mini_sd.compare --out $(DEMO) --seeds 0 --max_steps 120 --num_imgs 120
	echo "(a short run and few covers, to be quick; the full comparison: python -m mini_sd.compare --out DIR."
	echo " make demo again goes on from what is there; rm -r $(DEMO) starts afresh)"

# --- make test -------------------------------------------------------------------------------------------------------

test: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

clean:
	rm -rf .venv $(DEMO)
