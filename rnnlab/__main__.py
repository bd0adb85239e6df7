"""The launcher: python -m rnnlab VERB --help, or python launch.py of a checkout, or the script rnnlab."""

from rnnlab.run import signals

if __name__ == "__main__":  # now, before what takes long to import
    signals.end_process()

import sys

from rnnlab.bench import verbs as bench
from rnnlab.diagnose import verbs as diagnose
from rnnlab.run import command, environment, process
from rnnlab.sweep import verbs as sweep
from rnnlab.train import verbs as train

# A verb is a line here; its flags stand beside what it does.
VERBS = (
    train.TRAIN,
    train.EVALUATE,
    train.SAMPLE,
    train.SHOW,
    train.TASKS,
    bench.DOCTOR,
    sweep.SWEEP,
    sweep.REPORT,
    diagnose.DIAGNOSE,
    train.COMPILE,
    train.MOT,
    bench.BENCH,
)

EPILOG = """\
examples:
  {start} train    --config=experiments/quickstart.py
  {start} train    --config=experiments/quickstart.py --config.optim.clip_norm=5.0
  {start} evaluate --workdir=runs/mine
  {start} sample   --workdir=runs/mine --prime="def " --length=500 --temperature=0.8
  {start} diagnose --workdir=runs/mine
  {start} bench    step --cells=lstm --shapes=2x128xB50xT50
  {start} doctor

exit codes:
  0 done   1 rnnlab itself failed   2 bad flag, config or data   3 diverged   4 bad checkpoint
  5 disk   6 run folder in use   7 out of memory   129, 130, 143 interrupted, the state saved
"""


def prepare() -> None:
    """Set up this process, before JAX starts."""
    environment.draw_into_files()
    process.deliver_interrupts()
    process.retain_memory()
    process.one_blas_thread()
    environment.start_jax()
    from rnnlab.data import cache

    process.keep_compiled(cache.folder() / "compiled")


PROGRAM = command.Program(
    name=" ".join(command.started()),
    description="Train, evaluate, sample, diagnose and time recurrent neural networks.",
    epilog=EPILOG,
    verbs=VERBS,
    prepare=prepare,
    command=(sys.executable, "-m", "rnnlab"),
)


def start() -> None:
    """Be this process, to its end: the script `rnnlab` of the installed package."""
    signals.end_process()
    command.launch(PROGRAM, sys.argv[1:])


if __name__ == "__main__":
    start()
