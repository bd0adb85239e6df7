"""A worker of the benchmark: a process of its own for each library, and both ends of its pipe.

Thread pools and allocators of one library so never disturb another. A worker answers one request at
a time and is blocked on its pipe until the next one comes: it takes no processor time from the one
that is being timed. Nothing here imports JAX or PyTorch: a worker first sets up its process.

A message is one line of JSON, and the bytes of its arrays after it.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import rnnlab
from rnnlab.run import process  # `rnnlab.types` would import JAX

PATIENCE = 2.0  # seconds a worker is given to end by itself
# library -> (module, class) of rnnlab.bench.contenders, and what its constructor gets
CONTENDERS = {
    "rnnlab": ("own", "Own", {"path": "auto"}),
    "rnnlab-flow": ("own", "Own", {"path": "auto", "watch": "flow"}),
    "rnnlab-watched": ("own", "Own", {"path": "auto", "watch": "all"}),
    "rnnlab-plain": ("own", "Own", {"path": "plain"}),
    "flax": ("flax_nnx", "Flax", {}),
    "torch": ("torch_nn", "Torch", {"compiled": False}),
    "torch-compile": ("torch_nn", "Torch", {"compiled": True}),
}


class WorkerDied(Exception):
    """A worker ended before it answered; the message is the last line of its standard error."""


def send(pipe: IO[bytes], message: Any) -> None:
    """Write a message of what JSON has, other mappings and NumPy arrays. Raises TypeError for the rest."""
    arrays = []

    def described(value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return dict(value)
        if not hasattr(value, "__array_interface__") or value.dtype.hasobject:
            raise TypeError(f"a {type(value).__name__} is not sent to or by a worker")
        arrays.append(value.tobytes())
        return {"dtype": str(value.dtype), "shape": value.shape}

    pipe.write(json.dumps(message, default=described).encode() + b"\n")
    pipe.writelines(arrays)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Read what `send` wrote; tuples come as lists. Raises EOFError where it has ended."""
    import numpy as np  # not before the process has been set up

    def read(found: dict[str, Any]) -> Any:
        if found.keys() != {"dtype", "shape"}:
            return found
        array = np.empty(found["shape"], found["dtype"])
        data = pipe.read(array.nbytes)
        if len(data) < array.nbytes:
            raise EOFError
        array.ravel()[:] = np.frombuffer(data, array.dtype)
        return array

    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return json.loads(line, object_hook=read)


class Worker:
    """The asking end: starts the process, asks it, ends it.

    library: a key of CONTENDERS. threads: of every pool that the library has.
    retain: whether the process keeps the memory it frees; see `process.retain_memory`.
    """

    def __init__(self, library: str, *, threads: int, retain: bool):
        pools = ("NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        found = Path(rnnlab.__path__[0]).parent  # where this process has found rnnlab
        paths = [str(found), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.library = library
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115, closed in `close`
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "rnnlab.bench.worker",
                library,
                json.dumps([threads, retain]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=os.environ
            | dict.fromkeys(pools, str(threads))
            | {
                "JAX_PLATFORMS": "cpu",
                "JAX_DEFAULT_MATMUL_PRECISION": "highest",
                "PYTHONPATH": os.pathsep.join(paths),
            },
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )

    def ask(self, request: str, /, **arguments: Any) -> Any:
        """The contender's answer to the method `request`. Raises WorkerDied if there is none."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            send(self.process.stdin, [request, arguments])
            return receive(self.process.stdout)
        except (BrokenPipeError, EOFError):
            self.close()
            raise WorkerDied(self.last_words) from None

    def close(self) -> None:
        """End the process; at once if it is idle, by force if it is busy. May be called twice."""
        if self.errors.closed:
            return
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # it has gone already
                pipe.close()
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        self.last_words = f"{said[-1] if said else 'it said nothing'} (exit code {code})"
        self.errors.close()


def main(arguments: list[str]) -> None:
    """The answering end. arguments: the library, and [threads, retain] as JSON."""
    library, (threads, retain) = arguments[0], json.loads(arguments[1])
    if retain:
        process.retain_memory()  # before anything is imported that allocates
    if library.startswith("rnnlab"):
        process.make_devices(threads)  # of which a case takes as many as its batch asks for
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    requests = sys.stdin.buffer
    from rnnlab.bench.contenders.contender import Case  # it imports NumPy

    module, name, options = CONTENDERS[library]
    made = getattr(importlib.import_module(f"rnnlab.bench.contenders.{module}"), name)
    contender = made(threads=threads, **options)
    while True:
        try:
            request, values = receive(requests)
        except EOFError:
            return
        if "case" in values:
            values["case"] = Case(*values["case"])
        send(replies, getattr(contender, request)(**values))


if __name__ == "__main__":
    main(sys.argv[1:])
