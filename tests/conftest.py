"""What the tests share. JAX runs with its default float32; what needs float64 asks for it."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two that spin beside each other take long

import jax
import pytest
from hypothesis import settings

# No deadline: the first example of a shape compiles. Derandomised: a failure repeats by itself.
settings.register_profile("rnnlab", deadline=None, derandomize=True, database=None)
settings.load_profile("rnnlab")

# Before JAX starts. A step is split over both where a test says so.
jax.config.update("jax_num_cpu_devices", 2)


@pytest.fixture(scope="session", autouse=True)
def _float32():
    jax.config.update("jax_enable_x64", False)
    if jax.default_backend() != "cpu":
        # What an accelerator may do by default, TF32, blurs every comparison.
        jax.config.update("jax_default_matmul_precision", "highest")


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
