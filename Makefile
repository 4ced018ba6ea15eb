# Everything from a fresh clone: `make demo`, `make test`. All downloads and outputs stay inside this folder.
# Settings, as in `make test ARGS="-k pool"`:
#   PYTHON3  the Python to make the environment with (3.10 or newer)     VENV   where the environment is
#   TORCH    what pip installs as torch, index options included          ARGS   more arguments for pytest
#   JOBS     processes for the tests                                     MAX_JOBS, CXX, PYRANET_FAST_CUDA …: see setup.py
PYTHON3 ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
JOBS ?= 2
ARGS ?=
# The torch releases that `make wheel-check` tries the wheel under, one after the other.
VERSIONS ?= 2.11.0 2.12.1 2.13.0

PYTHON := $(VENV)/bin/python
GPU_PYTHON ?= python3
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# Two -q: pip then prints errors only.
PIP := $(PYTHON) -m pip -qq
CPP_FILES = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
NATIVE_SOURCES := $(shell find csrc -type f)

.DEFAULT_GOAL := help
.PHONY: docs help env build emulator parity aarch64 demo weights test test-browser sanitize sanitize-address sanitize-threads fuzz faults endurance lint format bench bench-growth bench-report gpu gpu-model wheel wheel-check sdist release-check release-tag clean distclean
.DELETE_ON_ERROR:

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

# --- environment and build ---------------------------------------------------------------------------------------

$(VENV)/.python:
	@command -v $(PYTHON3) >/dev/null || { echo "make: no $(PYTHON3) on PATH; name a Python of 3.10 or newer: make PYTHON3=/path/to/python3" >&2; exit 1; }
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: $(PYTHON3) is $$($(PYTHON3) -V 2>&1); 3.10 or newer is needed: make PYTHON3=/path/to/python3" >&2; exit 1; }
	@test -x $(PYTHON) || { echo "environment: $(VENV) with $$($(PYTHON3) -V)"; $(PYTHON3) -m venv $(VENV); } || { echo "make: the environment could not be made; on Debian and Ubuntu the package python3-venv is needed" >&2; rm -rf $(VENV); exit 1; }
	@touch $@

# The package is installed editable and without its library first, which brings the dependencies; .built compiles.
$(VENV)/.installed: $(VENV)/.python pyproject.toml
	@echo "environment: installing $(TORCH) and the development tools (minutes where they are downloaded)"
	@$(PIP) install $(TORCH) "setuptools>=77" wheel ninja \
	    && PYRANET_FAST_NATIVE=0 $(PIP) install --no-build-isolation -e ".[dev]" \
	    || { echo "make: pip could not install the requirements (its error is above): check the network and TORCH=$(TORCH)" >&2; exit 1; }
	@touch $@

$(VENV)/.built: $(VENV)/.installed setup.py $(NATIVE_SOURCES)
	@rm -f pyranet_fast/_C*.so pyranet_fast/_cuda*.so; mkdir -p build
	@PYRANET_FAST_CUDA=$${PYRANET_FAST_CUDA:-0} $(PYTHON) setup.py -q build_ext --inplace >build/native.log 2>&1 || { cat build/native.log >&2; exit 1; }
	@grep -E '^pyranet_fast:|warning:' build/native.log || true
	@touch $@

build: $(VENV)/.built ## create or update the environment in .venv and the native library

# CUDA kernels compiled for the CPU, for tests/emulator: never part of the package. _emulator has the kernels' bindings,
# without torch; _operators the host functions of csrc/cuda/*.cu with their kernels.
EMULATOR := build/emulator
EMULATOR_CORE := $(patsubst %,$(EMULATOR)/%.o,emulator memory numbers)
EMULATOR_OBJECTS := $(patsubst csrc/emulator/%.cpp,$(EMULATOR)/%.o,$(filter-out %/host.cpp %/host_checks.cpp,$(wildcard csrc/emulator/*.cpp)))
EMULATOR_HOST := $(patsubst %,$(EMULATOR)/operators/%.o,host host_checks)
EMULATOR_OPERATORS := $(patsubst csrc/cuda/%.cu,$(EMULATOR)/operators/%.o,$(filter-out %/module.cu %/probe.cu,$(wildcard csrc/cuda/*.cu)))
EMULATOR_HEADERS := $(wildcard csrc/emulator/*.h csrc/cuda/*.cuh csrc/cuda/*.h csrc/common/*.h)
EMULATOR_CXX = $(or $(CXX),c++) -std=c++20 -O1 -fPIC -fvisibility=hidden -DPF_EMULATOR -ffp-contract=off -U_FORTIFY_SOURCE \
    -Wall -Wno-unknown-pragmas -Icsrc $(EMULATOR_FLAGS) $(shell $(PYTHON) -m pybind11 --includes)
EMULATOR_TORCH = $(shell $(PYTHON) -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')
EMULATOR_HOST_CXX = $(EMULATOR_CXX) -DTORCH_TARGET_VERSION=0x020b000000000000 -isystem $(EMULATOR_TORCH)/include

$(EMULATOR)/%.o: csrc/emulator/%.cpp $(EMULATOR_HEADERS)
	@mkdir -p $(@D)
	@$(EMULATOR_CXX) -c $< -o $@

$(EMULATOR)/_emulator.so: $(EMULATOR_OBJECTS)
	@$(or $(CXX),c++) $(EMULATOR_FLAGS) -shared $^ -o $@

$(EMULATOR_HOST): $(EMULATOR)/operators/%.o: csrc/emulator/%.cpp $(EMULATOR_HEADERS)
	@mkdir -p $(@D)
	@$(EMULATOR_HOST_CXX) -c $< -o $@

$(EMULATOR_OPERATORS): $(EMULATOR)/operators/%.o: csrc/cuda/%.cu $(EMULATOR_HEADERS)
	@mkdir -p $(@D)
	@$(EMULATOR_HOST_CXX) -x c++ -c $< -o $@

$(EMULATOR)/_operators.so: $(EMULATOR_HOST) $(EMULATOR_OPERATORS) $(EMULATOR_CORE)
	@$(or $(CXX),c++) $(EMULATOR_FLAGS) -shared $^ -L$(EMULATOR_TORCH)/lib -ltorch_cpu -lc10 -o $@

emulator: $(VENV)/.installed ## the CUDA emulator for tests/emulator
	@$(MAKE) --no-print-directory -j $(or $(MAX_JOBS),$(JOBS)) $(EMULATOR)/_emulator.so $(EMULATOR)/_operators.so

# CPU kernels beside naive loops, without torch: the program of tests/native, for this machine and for 64-bit ARM. Zig, a
# package of Python, is clang with the C library of other systems. Linked statically, so that qemu needs none.
PARITY_FILES := $(wildcard tests/native/*.cpp)
PARITY_HEADERS := $(wildcard tests/native/*.h csrc/common/*.h csrc/cpu/*.h csrc/cpu/fused/*.h)
PARITY_FLAGS := -std=c++20 -O2 -fno-math-errno -fno-trapping-math -Wall -Wextra -Werror -Wno-unknown-pragmas -Icsrc
# For this machine under AddressSanitizer where the compiler has it: the short form of `make sanitize` in each run of the
# tests. UndefinedBehaviorSanitizer would double the time to compile.
PARITY_ADDRESS := -O1 -fsanitize=address -fno-omit-frame-pointer -g1
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1
PARITY_SANITIZER = $(eval PARITY_SANITIZER := $(shell mkdir -p build/native && echo "int main() {}" | \
    $(or $(CXX),c++) $(PARITY_ADDRESS) -x c++ - -o build/native/probe 2>/dev/null && build/native/probe && \
    echo "$(PARITY_ADDRESS)"))$(PARITY_SANITIZER)
CXX_AARCH64 ?= $(or $(shell command -v aarch64-linux-gnu-g++),$(PYTHON) -m ziglang c++ -target aarch64-linux-musl)
RUN_AARCH64 ?= $(or $(shell command -v qemu-aarch64),$(shell command -v qemu-aarch64-static))

build/native/%.o: tests/native/%.cpp $(PARITY_HEADERS)
	@mkdir -p $(@D)
	@$(or $(CXX),c++) $(PARITY_FLAGS) $(PARITY_SANITIZER) -c $< -o $@

build/native/parity: $(PARITY_FILES:tests/native/%.cpp=build/native/%.o)
	@$(or $(CXX),c++) $(PARITY_SANITIZER) $^ -o $@

build/aarch64/%.o: tests/native/%.cpp $(PARITY_HEADERS)
	@mkdir -p $(@D)
	@$(CXX_AARCH64) $(PARITY_FLAGS) -c $< -o $@

build/aarch64/parity: $(PARITY_FILES:tests/native/%.cpp=build/aarch64/%.o)
	@$(CXX_AARCH64) -static $^ -o $@

parity: ## the program of tests/native: CPU kernels against naive loops, without torch, under ASan
	@$(MAKE) --no-print-directory -j $(or $(MAX_JOBS),$(JOBS)) build/native/parity

aarch64: $(VENV)/.installed ## the same program for 64-bit ARM (CXX_AARCH64), run where there is a qemu-aarch64 (RUN_AARCH64)
	@$(MAKE) --no-print-directory -j $(or $(MAX_JOBS),$(JOBS)) build/aarch64/parity
	@if [ -n "$(RUN_AARCH64)" ]; then $(RUN_AARCH64) build/aarch64/parity; \
	else echo "make: build/aarch64/parity is built; it was not run, since there is no qemu-aarch64 (Debian: qemu-user)"; fi

env: build ## show versions, build, and the backend of each operator with the reason
	@$(PYTHON) -m pyranet_fast.env

# --- use ---------------------------------------------------------------------------------------------------------

DEMO := demo
# Small pictures first, then 96 px: the cheapest way to a network that finds people within minutes on two cores.
DEMO_TRAIN ?= --stacks 1 --features 64 --depth 3 --input-size 96 --early-size 64 --early-share 0.5 --batch-size 16 \
    --epochs 10 --lr 2.5e-3 --schedule cosine --warmup 100 --ema 0.99 --pool-windows sample \
    --rotation-probability 0 --scale-noise 0.1 --workers 0 --validate-every 5

demo: build ## train and evaluate a small model on synthetic people; draw predictions to demo/
	$(PYTHON) -m pyranet_fast.train --dataset demo --output $(DEMO) $(DEMO_TRAIN)
	$(PYTHON) -m pyranet_fast.evaluate --dataset demo --checkpoint $(DEMO)/last.pt --output $(DEMO)
	@$(PYTHON) -m pyranet_fast.data.synthetic --count 12 --output $(DEMO)/people
	$(PYTHON) -m pyranet_fast.predict $(DEMO)/people/*.png --checkpoint $(DEMO)/last.pt --output $(DEMO)/predictions
	@echo "pictures: $(CURDIR)/$(DEMO)/predictions (people it has not seen), $(CURDIR)/$(DEMO)/pictures, $(DEMO)/curves.png"

# recipes/RECIPE.sh. people, the weights in the package: many hours on two cores. lsp, where people starts: an hour and a
# half with products in bfloat16, longer on others; it needs no mpii/. Rerun it to resume.
RECIPE ?= people
weights: build ## train weights on the datasets in ROOT into output/RECIPE: people (those in the package) or lsp
	@test -n "$(ROOT)" || { echo "make: name the folder that holds lsp_dataset/, lspet_dataset/ and mpii/: make weights ROOT=DATA" >&2; exit 1; }
	@PYTHON=$(PYTHON) sh recipes/$(RECIPE).sh "$(ROOT)"

# --- checks ------------------------------------------------------------------------------------------------------

# One thread a process: JOBS processes share the cores. Each begins with a share of neighboring tests, so that what a file
# trains once is mostly trained once, and takes from the others when it is done. pytest-benchmark does not go with several.
test: build emulator parity ## run the tests
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -p no:benchmark -n $(JOBS) --dist worksteal $(ARGS)

# The pages in a real browser: Gradio and Selenium are installed for it, Chromium and chromedriver have to be there
# (Debian: chromium, chromium-driver); without them these tests skip with the reason.
test-browser: build ## test report.html and the demo page in a headless Chromium
	@PYRANET_FAST_NATIVE=0 $(PIP) install -e ".[demo]" --no-build-isolation "selenium>=4.20"
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -p no:benchmark tests/test_demo.py tests/training/test_report_page.py $(ARGS)

# torch is not built for sanitizers: leaks are not looked for, and memory that cannot be had is an exception. Under
# ThreadSanitizer loops run in threads of tests/ops/sanitized_threads.cpp, which it knows, instead of torch's. Linux, GCC.
# A quarter of an hour to build on two cores; rerun it to compile what changed only. CALLS: wrong direct calls of each.
CALLS ?= 2000
SANITIZER_CXX = $(or $(CXX),g++)
sanitizer_library = $(shell $(SANITIZER_CXX) -print-file-name=lib$(1).so)
ADDRESS := $(CURDIR)/build/sanitize
THREADS := $(CURDIR)/build/tsan
UNDER_ADDRESS = cd $(ADDRESS) && LD_PRELOAD="$(call sanitizer_library,asan) $(call sanitizer_library,ubsan)" OMP_NUM_THREADS=2 \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=8192 UBSAN_OPTIONS=print_stacktrace=1 \
    $(abspath $(PYTHON))
# Without random addresses, which the thread sanitizer of GCC 12 does not get along with.
UNDER_THREADS = cd $(THREADS) && LD_PRELOAD="$(call sanitizer_library,tsan) $(THREADS)/threads.so" OMP_NUM_THREADS=1 \
    TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1:report_signal_unsafe=0 setarch -R $(abspath $(PYTHON))
SANITIZED_TESTS := -m pytest -q -p no:benchmark -p no:cacheprovider -p no:faulthandler
# The compiled probe is nvcc's, which does not start under a sanitizer.
SANITIZED_OPERATORS := $(SANITIZED_TESTS) tests/ops --ignore-glob='*triton*' --ignore-glob='*cuda_resources*' \
    --deselect tests/ops/test_direct_calls.py \
    --deselect tests/ops/test_dispatch.py::test_the_compiled_probe_finds_no_driver_here
# $(1): a folder, $(2): what _C is compiled with, in a copy of the tree.
define sanitized_copy
@mkdir -p $(1) && rm -rf $(1)/tests && cp -rp tests pyproject.toml setup.py README.md LICENSE $(1)/
@cp -rp csrc pyranet_fast $(1)/ && rm -f $(1)/pyranet_fast/_*.so
@cd $(1) && PYRANET_FAST_CUDA=0 PYRANET_FAST_SANITIZE=$(2) CXX=$(SANITIZER_CXX) \
    $(abspath $(PYTHON)) setup.py -q build_ext --inplace >native.log 2>&1 || { cat native.log >&2; exit 1; }
endef

sanitize: sanitize-address sanitize-threads ## run _C and the emulator under ASan and UBSan, loops under TSan; fail on findings

sanitize-address: $(VENV)/.installed
	$(call sanitized_copy,$(ADDRESS),address$(comma)undefined)
	@$(MAKE) --no-print-directory -j $(or $(MAX_JOBS),$(JOBS)) EMULATOR=$(ADDRESS)/build/emulator CXX=$(SANITIZER_CXX) \
	    EMULATOR_FLAGS="$(SANITIZERS)" \
	    $(ADDRESS)/build/emulator/_emulator.so $(ADDRESS)/build/emulator/_operators.so
	@$(UNDER_ADDRESS) -m tests.ops.direct_calls --calls $(CALLS)
	@$(UNDER_ADDRESS) $(SANITIZED_OPERATORS) $(ARGS)
	@$(UNDER_ADDRESS) $(SANITIZED_TESTS) tests/emulator $(ARGS)

sanitize-threads: $(VENV)/.installed
	$(call sanitized_copy,$(THREADS),thread)
	@$(SANITIZER_CXX) -std=c++20 -O1 -g1 -fsanitize=thread -fPIC -shared tests/ops/sanitized_threads.cpp -o $(THREADS)/threads.so
	@$(UNDER_THREADS) -m tests.ops.sanitized_threads
	@$(UNDER_THREADS) $(SANITIZED_OPERATORS) $(ARGS)

comma := ,

FILES ?= 10000
fuzz: build ## read FILES corrupted files of every format; fail if one is neither read nor rejected
	@OMP_NUM_THREADS=1 $(PYTHON) -m tests.fuzz --files $(FILES) $(ARGS)

KILLS ?= 100
faults: build ## kill commands at KILLS random moments and rerun them; fail unless results are bitwise equal
	@OMP_NUM_THREADS=1 $(PYTHON) -m tests.faults --kills $(KILLS) $(ARGS)

MINUTES ?= 60
endurance: build ## train and predict for MINUTES each; fail unless memory and open files stay flat; build/endurance
	@OMP_NUM_THREADS=1 $(PYTHON) -m tests.endurance --minutes $(MINUTES) --output build/endurance $(ARGS)

lint: $(VENV)/.installed ## run ruff, mypy, import-linter and clang-format, all even if one fails
	@status=0; \
	$(PYTHON) -m ruff check . || status=1; \
	$(PYTHON) -m ruff format --check . || status=1; \
	$(PYTHON) -m mypy || status=1; \
	$(VENV)/bin/lint-imports --no-logo --no-cache || status=1; \
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP_FILES) || status=1; \
	test $$status = 0 || echo "make: lint found the above; 'make format' mends layout" >&2; exit $$status

format: $(VENV)/.installed ## fix the layout with ruff and clang-format
	@$(PYTHON) -m ruff check --fix-only . && $(PYTHON) -m ruff format . && $(VENV)/bin/clang-format -i $(CPP_FILES)

# bench/results/<machine>.json; BENCH: flags of bench.model (its whole run takes hours: compiling does).
BENCH ?= --budget 60
bench: build ## benchmark operators, network and pipeline against native PyTorch; then make bench-report
	@$(PYTHON) -m pytest -q bench --record --benchmark-disable-gc $(ARGS)
	@$(PYTHON) -m bench.model $(BENCH)
	@$(PYTHON) -m bench.pipeline

bench-growth: build ## benchmark time and memory over batch, stacks, levels and resolution
	@$(PYTHON) -m bench.growth $(BENCH)

bench-report: build ## write the README tables and docs/bench from bench/results/*.json
	@$(PYTHON) -m bench.report --write

# On a machine with a GPU: any Python whose torch has CUDA. The kernels are built here where they are not (nvcc; neither pip
# nor a network); without make: python -m bench.gpu_all.
gpu: ## on a machine with a GPU: build, parity, tests, sanitizer, benchmark within ten minutes (GPU_PYTHON, ARGS: --help)
	@$(GPU_PYTHON) -m bench.gpu_all $(ARGS)

gpu-model: ## predict kernels, memory traffic and times of a GPU run without a GPU (GPU_PYTHON: a torch with CUDA)
	@$(GPU_PYTHON) -m bench.gpu_model $(ARGS)

docs: build ## build the documentation in build/docs; warnings are errors, no downloads
	@$(PYTHON) -m sphinx -q -b html -W --keep-going -d build/docs/.doctrees docs build/docs
	@echo "docs: build/docs/index.html"

# --- release -----------------------------------------------------------------------------------------------------

# auditwheel names the oldest C library that the wheel runs with; torch's libraries stay outside.
wheel: $(VENV)/.installed ## build one audited abi3 wheel for Python >= 3.10 and torch >= 2.11 in dist/
	@rm -rf build/lib* build/bdist* build/wheel dist/*.whl
	@$(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	@if [ "$$(uname)" = Linux ]; then \
	    PATH="$(abspath $(VENV))/bin:$$PATH" $(PYTHON) -m auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' \
	        --wheel-dir dist build/wheel/*.whl >build/auditwheel.log 2>&1 || { cat build/auditwheel.log >&2; exit 1; }; \
	else mkdir -p dist && cp build/wheel/*.whl dist; fi
	@$(PYTHON) -m abi3audit --strict --verbose dist/*.whl
	@ls -l dist/*.whl

# Both files of a release and what must agree with them; release-tag makes the tag and pushes nothing.
sdist: $(VENV)/.installed ## build the source distribution in dist/
	@rm -f dist/*.tar.gz
	@PYRANET_FAST_NATIVE=0 $(PYTHON) -m build --sdist --no-isolation --outdir dist . >build/sdist.log 2>&1 || { cat build/sdist.log >&2; exit 1; }
	@ls -l dist/*.tar.gz

release-check: wheel sdist ## check wheel and sdist with twine, auditwheel and abi3audit; compare version, changelog and citation
	@$(PYTHON) -m twine check --strict dist/*
	@if [ "$$(uname)" = Linux ]; then PATH="$(abspath $(VENV))/bin:$$PATH" $(PYTHON) -m auditwheel show dist/*.whl; fi
	@$(PYTHON) .ci/release.py check

release-tag: release-check ## tag the version if all is committed and the changelog has its date; pushes nothing
	@$(PYTHON) .ci/release.py tag

# Installs the wheel with each torch release into an environment of its own (gigabytes where the release is a CUDA
# build; deleted afterwards) and runs the package's and the operators' tests there, away from the source tree.
# NumPy below 2.4, since the interpreter of Triton 3.6, which torch 2.11 brings, fails with later ones.
CHECK := $(CURDIR)/.cache/wheel-check
wheel-check: ## test the wheel of `make wheel` under torch VERSIONS: import, operators, their tests
	@ls dist/*.whl >/dev/null 2>&1 || { echo "make: no wheel in dist/; run make wheel first" >&2; exit 1; }
	@for version in $(VERSIONS); do \
	    rm -rf "$(CHECK)" && $(PYTHON3) -m venv "$(CHECK)/venv" && cp -r tests "$(CHECK)/tests" && \
	    "$(CHECK)/venv/bin/python" -m pip -qq install --no-cache-dir torch==$$version dist/*.whl "numpy<2.4" && \
	    (cd "$(CHECK)" && venv/bin/python -c 'import torch, pyranet_fast as pf; pf.ops.upsample_sum([torch.ones(1, 1, 2, 2)], (4, 4)); pf.models.PyraNet(1, features=32)') && \
	    "$(CHECK)/venv/bin/python" -m pip -qq install --no-cache-dir "$$(ls dist/*.whl)[pose]" "numpy<2.4" "pytest>=8" "hypothesis>=6.100" && \
	    (cd "$(CHECK)" && export OMP_NUM_THREADS=1 && \
	     venv/bin/python -c 'import platform, torch, pyranet_fast as pf; print("Python", platform.python_version(), "torch", torch.__version__, pf.ops.available_backends(), pf.__file__)' && \
	     venv/bin/python -m pytest -q --rootdir tests -p no:cacheprovider tests/test_package.py tests/test_env.py tests/ops); \
	    status=$$?; rm -rf "$(CHECK)"; \
	    test $$status = 0 || { echo "make: the wheel failed under torch $$version" >&2; exit 1; }; \
	done

clean: ## remove outputs of build, demo and wheel, but not the environment
	@rm -rf build dist demo *.egg-info pyranet_fast/_C*.so pyranet_fast/_cuda*.so pyranet_fast/_build.json $(VENV)/.built .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	@find pyranet_fast tests bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## also remove the environment and downloads
	@rm -rf $(VENV) .cache
