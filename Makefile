PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export OMP_NUM_THREADS = 1
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION = 1
export RAY_USAGE_STATS_ENABLED = 0

DATA := $(or $(XDG_CACHE_HOME),.cache)/asynclave/fashion-mnist

PEERS := appfl blazefl pfl

.PHONY: setup run test lint bench peers bench-peers data proto lock clean

setup: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

run: $(STAMP)
	$(BIN)/asynclave run $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run $(ARGS)

# The simulators ours is compared with, 4 GB in all; Flower is in $(VENV) already. Every package is
# pinned, so nothing has to be resolved, nor refused: BlazeFL asks for a newer Python than it needs.
peers: $(PEERS:%=.peers/%/.installed)

.peers/%/.installed: benchmarks/peers/requirements/%.txt
	$(PYTHON) -m venv .peers/$*
	.peers/$*/bin/pip install --quiet --disable-pip-version-check --no-deps \
		--ignore-requires-python -r $<
	touch $@

bench-peers: $(STAMP)
	$(BIN)/python -m benchmarks.peers $(ARGS)

data:
	rm -rf "$(DATA).part"
	mkdir -p "$(DATA).part"
	cd "$(DATA).part" && apt-get download dataset-fashion-mnist || \
	  { echo "Fashion-MNIST comes from Debian's archive: refresh its index with 'apt-get update'"; exit 1; }
	dpkg -x "$(DATA).part"/dataset-fashion-mnist_*.deb "$(DATA).part"
	rm -rf "$(DATA)" "$(DATA).part"/*.deb
	mv "$(DATA).part" "$(DATA)"

proto: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. fl_protocol/proto/gateway.proto

# TORCH_CPU_WHEELS: folder or page with the CPU wheel of torch; without it the CUDA build is locked.
lock: $(STAMP)
	@test -n "$(TORCH_CPU_WHEELS)" || { echo "set TORCH_CPU_WHEELS"; exit 1; }
	echo "# Pinned with: make lock" > requirements.txt
	$(BIN)/uv pip compile pyproject.toml --extra dev --quiet --no-header --no-annotate \
		--python-version 3.11 --find-links "$(TORCH_CPU_WHEELS)" | sed 's/+cpu$$//' >> requirements.txt

clean:
	rm -rf $(VENV) .peers runs .asynclave .mypy_cache .ruff_cache .pytest_cache *.egg-info
