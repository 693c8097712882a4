# make demo    the whole path on a laptop: demo covers, statistics, four ways of fine-tuning mini, covers, scores
# make doctor  what this machine has for training: GPU, driver, libraries, memory, disk
# make test    lint and the tests, on all cores
# make test-all  those of whole benches, too
# make quick   the tests that start no script and open no browser, in a minute and a half
# Each makes the environment first (make install). Nothing needs a GPU.

PYTHON ?= python3
BIN := .venv/bin
.PHONY: install doctor demo test test-all quick lint style types clean
.SILENT:

install: .venv/ready

.venv/ready: requirements.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	echo "making the environment .venv (some minutes, several GB: torch comes with CUDA)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --requirement requirements.txt --requirement requirements-dev.txt
	touch $@

doctor: install
	$(BIN)/python -m doctor

# --- make demo -------------------------------------------------------------------------------------------------------

DEMO := demo
UPDATES := 40
LETTERING := 240
COVERS := 30

demo: install
	$(BIN)/python -m experiments.transfer --out $(DEMO) --regimes "text encoder" UNet both "UNet, lettering" --seeds 0 \
	  --max_steps $(UPDATES) --lettering_steps $(LETTERING) --num_imgs $(COVERS) --num_examples 480 --validation_rows 64
	$(BIN)/python -m report --output_dir $(DEMO)/runs --run_id text-encoder-0,UNet-0,both-0,UNet-lettering-0 --version v0,latest \
	  --num_samples 10 --report_path $(DEMO)/report.html
	echo "== done: short runs and few covers, to be quick; the full comparison is python -m experiments.transfer --out DIR"
	echo "   (make demo again goes on from what is there; rm -r $(DEMO) starts afresh)"
	echo "look at:"; ls $(DEMO)/report.html $(DEMO)/covers.png $(DEMO)/table.md

# --- make test, make test-all, make quick ----------------------------------------------------------------------------

lint: style types

style: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

# one process more than cores: some tests wait
test: TESTS := -n $$(($$(nproc) + 1)) -m "not nightly"
test-all: TESTS := -n $$(($$(nproc) + 1))
quick: TESTS := -n logical -m "not script and not slow and not browser and not gpu and not nightly"

# mypy has one thread: it runs beside the tests, and what it says comes after theirs
test test-all quick: style
	said=$$(mktemp); $(BIN)/mypy >$$said & mypy=$$!; \
	$(BIN)/python -m pytest --dist worksteal $(TESTS); tests=$$?; \
	wait $$mypy; types=$$?; cat $$said; rm $$said; exit $$((tests | types))

clean:
	rm -rf .venv $(DEMO)
