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

.PHONY: setup run test lint bench data proto lock clean

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
	rm -rf $(VENV) runs .asynclave .mypy_cache .ruff_cache .pytest_cache *.egg-info
