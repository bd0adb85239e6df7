"""What a process of a SLURM job does on its node: train one member of a sweep, and be queued again.

The member saves when SLURM sends SIGTERM, which it does before it requeues a job or ends it, and goes
on from its checkpoint when SLURM starts the job again. The end of a time limit SLURM announces by
SIGUSR2: the member saves, and the job puts itself back into the queue. The saving is done by the
member's own loop, after a whole step, and the queueing here after it has exited; no signal handler
does more than pass the signal on.
"""

import os
import signal
import subprocess
import sys
from typing import Any

SAVED = 128 + signal.SIGTERM  # the exit code of a run that was stopped and has saved


def work(command: list[str], folder: str) -> None:
    """Run the command, its output at the end of `folder`/log.txt.

    It is pickled with what it uses of this module, and so must not use anything else of rnnlab.

    Raises SystemExit with the command's exit code where it failed, CalledProcessError if the job
    cannot be put back into the queue.
    """
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def stop(number: int, _: Any) -> None:
        received.append(number)
        if process is not None:
            process.terminate()

    for number in (signal.SIGTERM, signal.SIGUSR2):  # in place of submitit's own
        signal.signal(number, stop)
    rank = os.environ.get("SLURM_PROCID", "0")
    cores = len(os.sched_getaffinity(0))  # all of the host's, where SLURM binds no process to some
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if name in os.environ:
            cores = min(cores, int(os.environ[name]))
            break
    log = "log.txt" if rank == "0" else f"log.{rank}.txt"
    with open(os.path.join(folder, log), "ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"NPROC": str(cores)},
            # SLURM sends it to every process of the job, and it would end this one unsaved.
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        )
    if received:  # while it was being started
        process.terminate()
    code = process.wait()
    saved = code == SAVED and bool(received)
    if code and not saved:
        sys.exit(code if code > 0 else 128 - code)
    # A run that has saved has taken a step, so that this comes to an end. What gets SIGTERM alone is
    # requeued by SLURM itself, or is to end.
    if saved and signal.SIGUSR2 in received and rank == "0":
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
