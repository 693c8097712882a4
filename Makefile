# make demo    the whole path on a laptop: demo covers, statistics, training, resume, new covers, scores, page
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
LEARN := --pretrained_model tiny --train_unet True --train_text_encoder True --lr 3e-3 --lr_text_encoder 1e-3 \
  --lr_scheduler cosine --batch_size 16 --max_steps 600 --save_every 100 --validate_every 100 --sample_every 200 \
  --guidance_scale 3 --num_samples 6
RUN := --output_dir $(DEMO)/runs --run_id first
SCORE := --calc_fid True --fid_features efficientnet --fid_stats_path $(DEMO)/fid_stats.npz --num_imgs 150

demo: install
	echo "== 1 of 7: the data"
	$(BIN)/python -m dataset $(DATA)
	echo "== 2 of 7: statistics of real covers"
	$(BIN)/python -m precalc_fid_stats $(DATA) --fid_features efficientnet --fid_stats_path $(DEMO)/fid_stats.npz
	echo "== 3 of 7: training UNet and text encoder, stopped by SIGTERM after the second version"
	test -e $(DEMO)/runs/first/config.json || { \
	  $(BIN)/python -m training $(DATA) $(LEARN) --output_dir $(DEMO)/runs --run_name first & \
	  trap "kill $$!" INT TERM; \
	  while kill -0 $$! 2>/dev/null && ! test -e $(DEMO)/runs/first/versions/v2; do sleep 0.2; done; \
	  kill -TERM $$!; wait $$!; test $$? -eq 143; }
	echo "== 4 of 7: resuming that run"
	$(BIN)/python -m training $(RUN)
	echo "== 5 of 7: covers by v0 (before training) and by the best version, from the same latents"
	$(BIN)/python -m sd_inference $(RUN) --save_dir $(DEMO)/covers --version v0
	$(BIN)/python -m sd_inference $(RUN) --save_dir $(DEMO)/covers --version best
	echo "== 6 of 7: their scores"
	$(BIN)/python -m sd_inference $(RUN) --save_dir $(DEMO)/covers --version v0 $(SCORE)
	$(BIN)/python -m sd_inference $(RUN) --save_dir $(DEMO)/covers --version best $(SCORE)
	echo "== 7 of 7: the page"
	$(BIN)/python -m report $(RUN) --save_dir $(DEMO)/covers --version v0,best --report_path $(DEMO)/report.html
	echo "== done. 'tiny' is a toy: its autoencoder sees only the mean colour of each 8x8 pixels, its other weights began at random."
	echo "   (make demo again goes on from what is there; rm -r $(DEMO) starts afresh)"
	echo "look at:"; ls $(DEMO)/report.html $(DEMO)/covers/*.png $(DEMO)/runs/first/samples/*.png

# --- make test -------------------------------------------------------------------------------------------------------

test: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

clean:
	rm -rf .venv $(DEMO)
