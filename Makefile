# maskmill: `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: help demo train-demo test processes faults fuzz mutants flips flink-test spark-test dask-test prism-test clusters-test
.PHONY: figure7-quick figure7 docker-check schema lock audit pin-images docs lint types format bench price clean
help:
	@echo "make demo        install the base package and build a mask dataset from real photographs (minutes)"
	@echo "make train-demo  install the trainer and train briefly on the demo's shards"
	@echo "make test        install everything and run the tests"
	@echo "make flink-test  build on a Flink cluster on this machine, kill pools and a machine, compare bytes (Java 17, Maven; 400 MB)"
	@echo "make spark-test  the same on Spark, an executor killed (Java 17, Maven; fetches 400 MB); make dask-test: on Dask"
	@echo "make prism-test  the same on Prism, Beam's runner in Go (Go; fetches and compiles it)"
	@echo "make clusters-test  all of these in one table (PIECE=3: in pieces of three minutes, called again until it is done)"
	@echo "make docker-check  the steps of the images' Dockerfiles in fresh environments, without a container engine (GBs)"
	@echo "make processes   every command as a process, REPEATS=50 times: exit codes, and nothing left behind; and on an enemy's folders"
	@echo "make faults      a failure, a kill or a loss of power at every operation of builds, reports, exports, runs, on disks and buckets (a day; TRIALS=400: some)"
	@echo "make fuzz        SECONDS=60 of fuzzing whatever reads what strangers made; guided by coverage"
	@echo "make mutants     COUNT=100000 damaged pictures: what the builder takes, the trainer and TensorFlow decode to the same pixels"
	@echo "make flips       FLIPS=120 flipped bits in every file of a dataset: validate finds all"
	@echo "make lock        pins anew what CI installs, and with hashes what the images do (UPGRADE=1: newest versions)"
	@echo "make audit       known holes in what is pinned (asks public databases; exit 4 where none answers)"
	@echo "make pin-images  digests of the base images, for docker build (asks the registries, by docker)"
	@echo "make lint        formatting, linting and types (make types: types alone; make format: mends what it can)"
	@echo "make docs        the pages of docs/, the reference and the notebook as a site, build/site; warnings are errors"
	@echo "make price       what builds cost on a cluster, by simulation"
	@echo "make figure7-quick  whether better masks teach more: three arms, two seeds (about a quarter of an hour, estimated; MASKMILL_TEST_DATA)"
	@echo "make figure7     the whole experiment (hours of one core; stops after MINUTES=..., goes on when asked again)"
	@echo "make bench       the benchmarks that need no data of yours"

$(VENV)/made:
	@$(PYTHON) -c "import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit(f'maskmill needs Python 3.11 to 3.13, $(PYTHON) is {v[0]}.{v[1]}; try: make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/base: $(VENV)/made setup.py constraints.txt
	@echo "installing maskmill (about 200 MB of wheels) ..."
	@$(PIP) -e .
	@touch $@

$(VENV)/train: $(VENV)/base
	@echo "installing the trainer: JAX, Flax (about 200 MB of wheels) ..."
	@$(PIP) -e '.[train]'
	@touch $@

$(VENV)/dev: $(VENV)/base
	@echo "installing everything that tests and linters need (about 1 GB of wheels) ..."
	@$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/docs: $(VENV)/base
	@echo "installing what makes the site (about 80 MB of wheels) ..."
	@$(PIP) -e '.[docs]'
	@touch $@

demo: $(VENV)/base
	$(BIN)/python -m maskmill.pipelines.commands.demo --out demo-out

demo-out/dataset/manifest.json:
	$(MAKE) demo

train-demo: $(VENV)/train demo-out/dataset/manifest.json
	$(BIN)/detcon train --preset smoke_cpu --data demo-out/dataset --workdir demo-out/run \
	  --set batch_size=8 --set epochs=150 --set optim.warmup_epochs=10 --set log.log_every=2
	@echo "its log is demo-out/run/log.jsonl; curves: $(BIN)/python -m pip install tensorboard && $(BIN)/tensorboard --logdir demo-out/run/tensorboard"

test: $(VENV)/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -q $(PYTEST_ARGS)

# With PIECE=MINUTES they stop after the scenario under way, keep what is done below KEEP, and go on when called again (exit 3: not done).
KEEP ?= $(VENV)/drill
PIECE ?=
IN_PIECES = $(if $(PIECE),--keep $(KEEP) --minutes $(PIECE))
flink-test spark-test dask-test prism-test: %-test: $(VENV)/dev
	$(BIN)/python tests/support/drill.py $* $(IN_PIECES)

clusters-test: $(VENV)/dev
	$(BIN)/python tests/support/drill.py flink spark dask portable prism $(IN_PIECES)

REPEATS ?= 50
processes: $(VENV)/dev
	MASKMILL_REPEATS=$(REPEATS) $(BIN)/python -m pytest -q tests/pipelines/test_processes.py tests/pipelines/test_enemy.py $(PYTEST_ARGS)

TRIALS ?= 0
SEED ?= 0
faults: $(VENV)/dev
	$(BIN)/python -P tests/faults/trials.py --sample $(TRIALS) --seed $(SEED)

SECONDS ?= 60
CORPUS ?= $(VENV)/corpus
fuzz: $(VENV)/dev
	@$(PIP) -e '.[fuzz]' || echo "atheris cannot be installed here; going by chance"
	$(BIN)/python -P tests/fuzz/run.py --seconds $(SECONDS) --corpus $(CORPUS)

COUNT ?= 100000
mutants: $(VENV)/dev
	$(BIN)/python tests/support/decoders.py --count $(COUNT) --seed $(SEED)

FLIPS ?= 120
flips: $(VENV)/dev
	MASKMILL_FLIPS=$(FLIPS) $(BIN)/python -m pytest -q tests/pipelines/test_validate.py -k flipped $(PYTEST_ARGS)

docker-check: $(VENV)/made
	$(PYTHON) docker/check.py worker trainer

# Pins that stand stay, unless UPGRADE is set. No address of an index is written down.
UV = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
  --no-emit-find-links $(if $(UPGRADE),--upgrade)
lock: $(VENV)/made
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet 'uv>=0.9'
	$(UV) setup.py --all-extras -o constraints.txt
	echo setuptools | $(UV) --generate-hashes -c constraints.txt setup.py - --extra gcp -o docker/worker.lock
	printf 'setuptools\ngoogle-cloud-storage\n' | \
	  $(UV) --generate-hashes -c constraints.txt setup.py - --extra train -o docker/trainer.lock

audit: $(VENV)/made
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet 'pip-audit>=2.9'
	$(BIN)/python docker/audit.py

# Needs docker and the way to the registries; see docker/pin.py.
pin-images:
	$(PYTHON) docker/pin.py

# Every warning is an error: a link that leads nowhere, a name without a docstring, a cell of the notebook that fails.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict  # not --quiet, which hides warnings from --strict, too
	@echo "the site is build/site/index.html"

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) types

# mypy finds packages by folder, so it is shown the house as it is imported: maskmill/ with the rooms inside.
types: $(VENV)/dev
	@rm -rf $(VENV)/house && mkdir -p $(VENV)/house/maskmill
	@ln -s $(CURDIR)/maskmill/* $(CURDIR)/schemas $(CURDIR)/masks $(CURDIR)/pipelines $(CURDIR)/training $(VENV)/house/maskmill/
	cd $(VENV) && MYPYPATH=house bin/mypy --config-file ../pyproject.toml -p maskmill

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# report.json's schema, from the types of pipelines/report/model.py; a test says when it is not current.
schema: $(VENV)/base
	$(BIN)/python -m maskmill.pipelines.report.json_schema schemas/report.schema.json

# Whether better masks teach more: docs/figure7.md. Finished runs stay in FIGURE7; the same command goes on from there.
FIGURE7 ?= $(VENV)/figure7
MINUTES ?= inf
figure7-quick: $(VENV)/dev
	$(BIN)/python -m experiments.figure7.run --quick --state $(FIGURE7)-quick --budget-minutes $(MINUTES)

figure7: $(VENV)/dev
	$(BIN)/python -m experiments.figure7.run --state $(FIGURE7) --budget-minutes $(MINUTES)
	$(BIN)/python -m experiments.figure7.collect --state $(FIGURE7)
	$(BIN)/python -m experiments.figure7.figures
	$(BIN)/python -m experiments.figure7.page

bench: $(VENV)/dev
	$(BIN)/python -m benchmarks.build

price: $(VENV)/base
	$(BIN)/python -m benchmarks.price

clean:
	rm -rf $(VENV) demo-out build *.egg-info
