# make demo    the whole path on a laptop: demo covers, statistics, training, resume, new covers, score
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
DATA := --data_root demo --resolution 64x96 --test_fraction 0.5
RUN := --output_dir $(DEMO)/runs --run_id first
SCORE := --calc_fid True --fid_features efficientnet --fid_stats_path $(DEMO)/fid_stats.npz --num_imgs 150

demo: install
	echo "== 1 of 6: the data"
	$(BIN)/python -m dataset $(DATA)
	echo "== 2 of 6: statistics of real covers"
	$(BIN)/python -m precalc_fid_stats $(DATA) --fid_features efficientnet --fid_stats_path $(DEMO)/fid_stats.npz
	echo "== 3 of 6: training UNet and text encoder"
	test -e $(DEMO)/runs/first/config.json || $(BIN)/python -m training $(DATA) --pretrained_model tiny \
	  --output_dir $(DEMO)/runs --run_name first --train_unet True --train_text_encoder True \
	  --batch_size 8 --lr 2e-3 --lr_text_encoder 5e-4 --max_steps 150 --save_every 50 --validate_every 50 --sample_every 150
	echo "== 4 of 6: resuming that run"
	$(BIN)/python -m training $(RUN) --max_steps 300
	echo "== 5 of 6: covers by v0 (before training) and by the best version, from the same latents"
	$(BIN)/python -m sd_inference $(RUN) --save_dir $(DEMO)/covers --version v0
	$(BIN)/python -m sd_inference $(RUN) --save_dir $(DEMO)/covers --version best
	echo "== 6 of 6: their scores"
	$(BIN)/python -m sd_inference $(RUN) --save_dir $(DEMO)/covers --version v0 $(SCORE)
	$(BIN)/python -m sd_inference $(RUN) --save_dir $(DEMO)/covers --version best $(SCORE)
	echo "== done. The model 'tiny' has random weights and a random autoencoder: its loss falls, its pictures stay noise."
	echo "look at:"; ls $(DEMO)/covers/*.png $(DEMO)/runs/first/samples/*.png

# --- make test -------------------------------------------------------------------------------------------------------

test: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

clean:
	rm -rf .venv $(DEMO)
