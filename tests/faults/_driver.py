"""The launcher driven inside this process, for faults of which thousands are tried.

It is `launch.main` that is called, with the arguments that a user would give; what it prints is
caught. Two things stand between it and the machine: a limit of the seconds and a limit of the memory
of each call, so that an input which hangs or which asks for all memory is a line in the table and not
the end of the campaign.
"""

import contextlib
import gc
import io
import os
import resource
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax

import launch
from rnnlab.run import process
from rnnlab.train import session
from rnnlab.train.from_config import build_optimiser
from rnnlab.train.single import Single
from rnnlab.train.state import configured_state
from rnnlab.train.step import TrainStep

SECONDS = 30  # of a call; none of those that end takes a tenth of it
MEMORY = 3 << 30  # bytes that a call may add
TRIED = 1 << 20  # numbers in a batch, up to which it is made and its step is traced


class TookTooLong(BaseException):
    """Not an Exception, so that nothing on the way takes it for one of its own."""


class Accepted(BaseException):
    """Training would begin now; nothing has been written."""


class Said(NamedTuple):
    """What a call came to."""

    code: int  # -1: it raised something; -2: it took too long
    out: str
    err: str
    crew: Any = None  # the `Single` of a run that would have begun
    error: BaseException | None = None

    @property
    def line(self) -> str:
        """What it said, without warnings."""
        told = self.err.split("\n")
        return "\n".join(t for t in told if t and not t.startswith("rnnlab: warning: "))


def _alarm(number: int, frame: Any) -> None:
    raise TookTooLong


@contextlib.contextmanager
def limits(seconds: float = SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """Raises TookTooLong inside, or MemoryError, rather than take more of either."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    old = signal.signal(signal.SIGALRM, _alarm)
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, before[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, old)


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """What the launcher sets for its whole process is left as it is."""
    names = ("retain_memory", "one_blas_thread", "allow_files")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(process, name))
        stack.enter_context(mock.patch.object(process, "make_devices"))
        stack.enter_context(mock.patch.object(process, "keep_compiled"))
        yield


def call(*arguments: object, seconds: float = SECONDS, begin: bool = False) -> Said:
    """`launch.main` with these arguments. begin: a run is trained; else it ends where it would begin
    to write, as accepted, with code 0."""
    out, err = io.StringIO(), io.StringIO()
    kept: dict[str, Any] = {}

    class Kept(Single):
        def __init__(self, *made: Any):
            super().__init__(*made)
            kept["crew"] = self

    def held(*_: object) -> None:
        raise Accepted

    with contextlib.ExitStack() as stack:
        stack.enter_context(settled())
        if not begin:
            stack.enter_context(mock.patch.object(session, "Single", Kept))
            stack.enter_context(mock.patch.object(session, "_held", held))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        error = None
        try:
            with limits(seconds):
                code = launch.main([str(a) for a in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except Accepted:
            code = 0
        except TookTooLong:
            code = -2
        except Exception as raised:
            code, error = -1, raised
    return Said(code, out.getvalue(), err.getvalue(), kept.get("crew"), error)


def traced(crew: Any) -> str:
    """What a run that would begin comes to, up to the shapes of its state and of its step; "" if they
    are as they should be, else what went wrong."""
    config, task = crew.config, crew.task
    # Rows and steps of which the batches of no experiment here have as many.
    if config.train.batch_size * config.train.window > TRIED:
        return ""
    try:
        with limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimiser = build_optimiser(config, {})
            state = jax.eval_shape(lambda: configured_state(config, task, optimiser))
            last = config.train.steps - 1
            batch, other = task.batch(0), task.batch(last)
            assert jax.tree.structure(batch) == jax.tree.structure(other)
            pure = TrainStep(
                task.loss,
                optimiser,
                average_decay=config.optim.ema,
                reduction=config.optim.reduction,
                log_every=config.train.log_every,
                probe=task.probe,
                omega=config.optim.omega,
            )
            after, _ = jax.eval_shape(pure.step, state, batch)
            task.facts()
    except MemoryError:
        return ""  # a batch of pictures, say; training would say what to lower
    except TookTooLong:
        return f"tracing took more than {SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    shapes = [
        [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (state, after)
    ]
    return "" if shapes[0] == shapes[1] else "the step changes the shapes of its state"


def whole(text: str) -> str:
    """How `text` is not one line of ours; "" if it is."""
    lines = text.rstrip("\n").split("\n")
    if len(lines) != 1 or not lines[0].startswith("rnnlab: "):
        return f"not one line: {text[:300]!r}"
    if not lines[0].isprintable() or len(lines[0]) > 3000:
        return f"no line for a terminal ({len(lines[0])} characters): {lines[0][:300]!r}"
    return ""


def free() -> None:
    """Let go of what thousands of models have left in JAX."""
    jax.clear_caches()
    gc.collect()


def residue(folder: Path, *, known: tuple[str, ...] = ()) -> list[str]:
    """What a call that was refused has left in the folder."""
    return sorted(name for name in os.listdir(folder) if name not in known)
