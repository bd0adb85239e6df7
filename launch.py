"""rnnlab's launcher: python launch.py VERB --help"""

import sys
from pathlib import Path

from rnnlab.bench import verbs as bench
from rnnlab.diagnose import verbs as diagnose
from rnnlab.run import command, process
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
  python launch.py train    --config=experiments/quickstart.py
  python launch.py train    --config=experiments/quickstart.py --workdir=runs/mine \\
                            --config.optim.clip_norm=5.0
  python launch.py evaluate --workdir=runs/mine
  python launch.py sample   --workdir=runs/mine --prime="def " --length=500 --temperature=0.8
  python launch.py diagnose --workdir=runs/mine
  python launch.py bench    step --cells=lstm --shapes=2x128xB50xT50
  python launch.py doctor

exit codes:
  0 done   1 rnnlab itself failed   2 bad flag, config or data   3 diverged   4 bad checkpoint
  5 disk   6 run folder in use   7 out of memory   129, 130, 143 interrupted, the state saved
"""


def prepare() -> None:
    """Set up this process, before JAX starts."""
    process.deliver_interrupts()
    process.retain_memory()
    process.one_blas_thread()
    from rnnlab.data import cache

    process.keep_compiled(cache.folder() / "compiled")


PATH = Path(__file__).resolve()
PROGRAM = command.Program(
    name="launch.py",
    description="Train, evaluate, sample, diagnose and time recurrent neural networks.",
    epilog=EPILOG,
    verbs=VERBS,
    prepare=prepare,
    command=(sys.executable, str(PATH)),
    root=PATH.parent,
)


def main(arguments: list[str]) -> int:
    """Run the verb that the arguments name; the exit code. See `command.main`."""
    return command.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
