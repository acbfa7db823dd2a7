# Everything here needs a Python of 3.11 or newer and make; .venv is made by itself and holds the rest.

.DEFAULT_GOAL := help
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
INTEGRATIONS := .venv-integrations
UV := uv==0.13.9

# What an activated environment or a personal set-up exports must not reach into .venv.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# $(PYTHON), if set, is the only candidate. A pyenv shim may exist and yet not run, hence the call.
CANDIDATES := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)

# Makes .venv where there is none that works.
define venv
if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	python=; \
	for candidate in $(CANDIDATES); do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "error: Python 3.11 or newer is needed, and none of these is: $(CANDIDATES)" >&2; \
		exit 1; \
	fi; \
	echo "Creating $(VENV) with $$python"; \
	$$python -m venv --clear $(VENV); \
fi
endef

# Installs lock file $(1), then the project. The build backend, too, comes at its locked version:
# older pips read that from the one variable, newer ones from the other.
define install
@set -e; $(venv); \
echo "Installing $(1) into $(VENV)"; \
$(BIN)/python -m pip install --quiet --requirement $(1); \
PIP_CONSTRAINT=requirements-dev.lock PIP_BUILD_CONSTRAINT=requirements-dev.lock \
	$(BIN)/python -m pip install --quiet --no-deps --editable .
@touch $@
endef

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

$(VENV)/.installed-run: requirements.lock requirements-dev.lock pyproject.toml
	$(call install,requirements.lock)

$(VENV)/.installed-dev: requirements-dev.lock pyproject.toml
	$(call install,requirements-dev.lock)

# exec: Ctrl-C and SIGTERM reach the service itself, and its exit status is that of make.
.PHONY: run
run: $(VENV)/.installed-run ## start the service; options by ARGS="--port 9000"
	@exec $(BIN)/limiter serve $(ARGS)

.PHONY: test
test: $(VENV)/.installed-dev ## run the tests; options by PYTEST_ARGS="-k retry"
	@exec $(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/.installed-dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What the limiter is measured beside has requirements of its own, which must not meet ours.
$(PEERS)/.installed: bench/peers/requirements.lock $(VENV)/.installed-dev
	@echo "Installing bench/peers/requirements.lock into $(PEERS)"
	@$(BIN)/python -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --requirement bench/peers/requirements.lock
	@touch $@

.PHONY: bench
bench: $(VENV)/.installed-dev $(PEERS)/.installed ## run the benchmarks; options by ARGS="http --rounds 5"
	@exec $(BIN)/python -m bench $(ARGS)

# The packages that the client's integrations connect to are many, and some want older versions of
# ours. The whole project is installed among them, as it is beside LiteLLM's proxy.
$(INTEGRATIONS)/.installed: tests/integrations/requirements.lock pyproject.toml $(VENV)/.installed-dev
	@echo "Installing tests/integrations/requirements.lock into $(INTEGRATIONS)"
	@$(BIN)/python -m venv --clear $(INTEGRATIONS)
	@$(INTEGRATIONS)/bin/python -m pip install --quiet --requirement tests/integrations/requirements.lock
	@PIP_CONSTRAINT=requirements-dev.lock PIP_BUILD_CONSTRAINT=requirements-dev.lock \
		$(INTEGRATIONS)/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

.PHONY: integrations
integrations: $(INTEGRATIONS)/.installed ## install what the tests of the integrations need (0.9 GB)

# uv resolves for every supported Python and system at once. What is pinned stays where it is,
# unless LOCK_ARGS="--upgrade" asks for the newest.
.PHONY: lock
lock: ## renew the lock files after a change to pyproject.toml; LOCK_ARGS="--upgrade"
	@set -e; $(venv); \
	$(BIN)/python -m pip install --quiet $(UV); \
	export UV_CUSTOM_COMPILE_COMMAND='make lock'; \
	compile="$(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 $(LOCK_ARGS) pyproject.toml"; \
	$$compile --output-file requirements.lock; \
	$$compile --constraint requirements.lock --group dev --extra otel --output-file requirements-dev.lock; \
	$(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 $(LOCK_ARGS) \
		bench/peers/requirements.txt --output-file bench/peers/requirements.lock; \
	$(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 $(LOCK_ARGS) \
		pyproject.toml --all-extras tests/integrations/requirements.txt \
		--output-file tests/integrations/requirements.lock

.PHONY: clean
clean: ## remove .venv, caches and build results; data stays
	rm -rf $(VENV) $(PEERS) $(INTEGRATIONS) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
