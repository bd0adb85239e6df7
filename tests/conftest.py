"""What the tests share. JAX runs with its default float32; what needs float64 asks for it."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two that spin beside each other take long

import jax
import jaxlib
import pytest
from hypothesis import settings

from rnnlab.run import process
from rnnlab.train import parallel
from tests.support import make_text

# No deadline: the first example of a shape compiles. Derandomised: a failure repeats by itself.
settings.register_profile("rnnlab", deadline=None, derandomize=True, database=None)
settings.load_profile("rnnlab")

# Before JAX starts. A step is split over both where a test says so.
jax.config.update("jax_num_cpu_devices", 2)


def pytest_addoption(parser):
    parser.addoption(
        "--optimised",
        action="store_true",
        help="compile as in use; by default programs are compiled fast and run slowly",
    )


def pytest_configure(config):
    """Processes that tests start inherit the environment, as pytest's own workers do."""
    gc.disable()  # while all tests are imported: nothing of it is garbage
    if not config.getoption("optimised") and not hasattr(config, "workerinput"):
        compile_quickly()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        # A program is compiled once, whichever process needs it first.
        config.compiled = tempfile.mkdtemp(prefix="compiled-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = config.compiled
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
        jax.config.update("jax_compilation_cache_dir", config.compiled)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compile_quickly():
    """Most of the time of the tests goes into compiling tiny programs, and three quarters of that into
    making them fast."""
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    if jaxlib.__version__.startswith("0.10."):  # a flag that XLA does not know ends the process
        flags = (os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false")
        os.environ["XLA_FLAGS"] = " ".join(flag for flag in flags if flag)


def pytest_collection_modifyitems(items):
    """Those that take longest first, so that no worker is left with one of them at the end."""
    longest = (
        "tests/faults/",
        "tests/train/",
        "tests/sweep/",
        "tests/recurrence/",
        "tests/models/",
    )
    order = {folder: place for place, folder in enumerate(longest)}

    def place(item):
        return next((p for f, p in order.items() if item.nodeid.startswith(f)), len(order))

    items.sort(key=place)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_unconfigure(config):
    if hasattr(config, "compiled"):
        shutil.rmtree(config.compiled, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _float32():
    jax.config.update("jax_enable_x64", False)
    if jax.default_backend() != "cpu":
        jax.config.update("jax_disable_most_optimizations", False)
        # What an accelerator may do by default, TF32, blurs every comparison.
        jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """A text of some 6000 characters."""
    return make_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture
def quiet_host(monkeypatch, tmp_path):
    """The launcher sets up its own process; this one is the test runner's."""
    for name in ("retain_memory", "keep_compiled", "make_devices"):
        monkeypatch.setattr(process, name, lambda *_: True)
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    monkeypatch.setenv("RNNLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def float64():
    """Arrays made in this test may be float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def strict_dtypes():
    """Operands of different dtypes raise, as they may hide a lost or a gained precision.

    Rank promotion stays allowed: a bias [H] added to [T, B, H] is meant, everywhere.
    """
    with jax.numpy_dtype_promotion("strict"):
        yield
