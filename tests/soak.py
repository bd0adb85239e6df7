"""Many steps split over the devices of a CPU: that none of them hangs.

    python -m tests.soak --steps=20000 --layers=2 --hidden=128 --batch=64 --window=64

prints the time per step and the peak of memory as it goes, and the last line says "finished". A
watchdog ends the process, with a traceback of every thread, if there is no progress for 5 minutes.
"""

import argparse
import faulthandler
import math
import resource
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from rnnlab.run import config, process
from rnnlab.train import parallel
from rnnlab.train.from_config import build
from rnnlab.train.state import configured_state
from rnnlab.train.step import make_train_step

BLOCK_EVERY = 4  # steps; between two blocks the devices run ahead of each other
PATIENCE = 300.0  # seconds


def soak(*, steps: int, layers: int, hidden: int, batch: int, window: int, devices: int) -> float:
    """Takes the steps; returns the seconds each took. Raises if the loss is not finite."""
    split = parallel.choose_split(requested=devices, batch=batch)
    default = Path(__file__).resolve().parent.parent / "experiments" / "default.py"
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        draws = np.random.default_rng(0).integers(97, 123, size=batch * (window + 1) * 8 + 20_000)
        text.write_text("".join(map(chr, draws)))
        changes = [
            f"data.path={text}",
            f"train.batch_size={batch}",
            f"train.window={window}",
            f"train.steps={steps}",
            f"model.layers={layers}",
            f"model.hidden={hidden}",
            "optim.warmup_steps=0",
        ]
        settings = config.load(str(default), changes)
        task, optimiser = build(settings)
        state = parallel.place_state(split, configured_state(settings, task, optimiser))
        step = make_train_step(
            task,
            optimiser,
            average_decay=settings.optim.ema,
            reduction="mean",
            log_every=100,
            split=split,
        )
        print(f"{split.name}, {steps} steps", flush=True)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        began = told = time.monotonic()
        each = 0.0
        for number in range(steps):
            state, report = step(state, task.batch(number))
            if number % BLOCK_EVERY == 0:
                jax.block_until_ready(report)
            if number == 0:
                began = time.monotonic()
            if time.monotonic() - told > 10 or number == steps - 1:
                loss = float(report["loss"] / report["count"])
                assert math.isfinite(loss)
                assert int(report["fault"]) == 0
                told = time.monotonic()
                each = (told - began) / max(number, 1)
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(
                    f"step {number + 1:>6}  {1e3 * each:.2f} ms/step  loss {loss:.4f}  "
                    f"peak {peak:.0f} MiB",
                    flush=True,
                )
                faulthandler.dump_traceback_later(PATIENCE, exit=True)
    faulthandler.cancel_dump_traceback_later()
    assert int(state.step) == steps
    print("finished", flush=True)
    return each


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = {"steps": 20_000, "layers": 2, "hidden": 128, "batch": 64, "window": 64, "devices": 2}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    flags = parser.parse_args(sys.argv[1:])
    process.retain_memory()
    process.make_devices(flags.devices)
    soak(**vars(flags))
