"""The executor "local": each member as a process of its own on this machine, so many at once."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

from rnnlab.errors import Interrupted
from rnnlab.run import command, machine, signals
from rnnlab.run.display import clock
from rnnlab.run.signals import Received
from rnnlab.sweep.members import Member, Sweep, describe_end, last_line, read_summary


class Ended(NamedTuple):
    """The process of a member has ended."""

    member: Member
    code: int  # its exit code; -1 if it was not started
    seconds: float


class Processes:
    """The processes of members that run now, each in a session of its own.

    threads: that each may use. launch: the words that start the launcher. caught: once a signal has
        been received no process is started.
    """

    def __init__(self, sweep: Sweep, threads: int, launch: Sequence[str], caught: Received):
        self.sweep, self.threads, self.launch, self.caught = sweep, threads, launch, caught
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def train(self, member: Member) -> Ended:
        """Train a member in a process of its own, its output at the end of its log.txt; wait for it.

        Raises OSError if the process cannot be started.
        """
        path, began = self.sweep.path(member), time.monotonic()
        if self.caught.received is not None:
            return Ended(member, -1, 0.0)
        with (path / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [*self.launch, "train", f"--workdir={path}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # On a GPU none may take all of the memory for itself.
                env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
                | os.environ
                | {"NPROC": str(self.threads)},
                start_new_session=True,
            )
            self.running[member.name] = process
            if self.caught.received is not None:  # while it was being started
                process.terminate()
            try:
                return Ended(member, process.wait(), time.monotonic() - began)
            finally:
                self.running.pop(member.name, None)

    def stop(self) -> None:
        """Have the members that run save and end."""
        for process in list(self.running.values()):
            process.terminate()


def train_in_processes(
    sweep: Sweep,
    left: Sequence[Member],
    jobs: int,
    say: Callable[[str], None],
    launch: Sequence[str],
) -> int:
    """Train the members that are left, `jobs` at once; how many have failed.

    Raises Interrupted after SIGINT or SIGTERM, once the members that ran have saved.
    """
    done, failed, stopped = 0, 0, False

    def train(member: Member) -> Ended:
        try:
            return processes.train(member)
        except OSError as error:  # it could not be started
            say(f"{member.name}: {error}")
            return Ended(member, 5, 0.0)

    with signals.deferred() as caught, ThreadPoolExecutor(jobs) as pool:
        processes = Processes(sweep, max(1, machine.cores() // jobs), launch, caught)
        waiting = {pool.submit(train, member) for member in left}
        while waiting:
            try:
                for future in as_completed(waiting, timeout=0.2):
                    waiting.discard(future)
                    ended = future.result()
                    if caught.received is None:
                        done += 1
                        failed += read_summary(sweep, ended.member) is None
                        say(f"{done}/{len(left)} {_line(sweep, ended)}")
                    break
            except TimeoutError:
                pass
            if caught.received is not None and not stopped:
                stopped = True
                processes.stop()
    if caught.received is not None:
        raise Interrupted(
            "interrupted; the states are saved: resume with "
            + command.line("sweep", f"--workdir={sweep.folder}", "--executor=local"),
            caught.received,
        )
    return failed


def _line(sweep: Sweep, ended: Ended) -> str:
    """What a person is told of a member that has ended."""
    name, found = ended.member.name, read_summary(sweep, ended.member)
    if found is None:
        log = sweep.path(ended.member) / "log.txt"
        return f"{name} failed: {last_line(log, f'exit code {ended.code}')}"
    return f"{name} {describe_end(found)} ({clock(ended.seconds)})"
