"""What a launched process sets for itself."""

import platform
import subprocess
import sys

import pytest

from tests.support import ROOT

GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"

# Prints what the process holds, in MiB, after it has filled and freed arrays of so many MiB.
FILL_AND_FREE = """
import ctypes, resource, sys
from pathlib import Path
from rnnlab.run import process
retain, *sizes = map(int, sys.argv[1:])
if retain and not process.retain_memory():
    sys.exit("refused")
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for size in sizes:
    array = libc.malloc(size << 20)
    libc.memset(array, 1, size << 20)
    libc.free(array)
    print(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20)
"""


def held(retain: bool, *sizes: int) -> list[int]:
    command = [sys.executable, "-c", FILL_AND_FREE, str(int(retain)), *map(str, sizes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(not GLIBC, reason="glibc on Linux alone retains memory")
def test_freed_memory_is_retained_but_for_the_largest_arrays():
    kept, after = held(True, 300, 1100)
    assert kept >= 300
    probe = "import ctypes; print(ctypes.CDLL('libc.so.6').mallopt(-3, 1 << 30))"
    newer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert (kept - 50 < after < 1100) if int(newer.stdout) else (after >= 1100)
    assert max(held(False, 300, 1100)) < 150


def test_importing_rnnlab_sets_nothing():
    code = "import sys, rnnlab; print('jax' in sys.modules, 'rnnlab.run.process' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_the_limit_of_open_files_is_raised():
    resource = pytest.importorskip("resource")
    code = (
        "import resource; from rnnlab.run import process\n"
        "_, most = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))\n"
        "process.allow_files(); print(*resource.getrlimit(resource.RLIMIT_NOFILE), most)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    soft, hard, most = map(int, done.stdout.split())
    assert soft == hard == most, done.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == most


def test_programs_that_cannot_be_kept_cost_time_and_no_words(tmp_path):
    code = (
        "import resource, sys, jax; from pathlib import Path; from rnnlab.run import process\n"
        "process.keep_compiled(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "print(jax.jit(lambda x: x + 1)(2))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("3\n", "")


INTERRUPTED = """
import signal, time
from rnnlab.run import process
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job of a script ignores
process.deliver_interrupts()
process.deliver_interrupts()
class Finalised:
    def __init__(self, error):
        self.error = error
    def __del__(self):
        raise self.error
Finalised(ValueError("mine"))
try:
    Finalised(KeyboardInterrupt)
    print("swallowed", flush=True)
    time.sleep(10)
except KeyboardInterrupt:
    print("delivered")
"""


def test_an_interrupt_that_python_could_not_raise_comes_again():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["swallowed", "delivered"], done.stderr
    assert "ValueError: mine" in done.stderr
    assert "KeyboardInterrupt" not in done.stderr
