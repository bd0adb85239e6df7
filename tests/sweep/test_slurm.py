"""A sweep as a SLURM job array, on a cluster of two hosts that this one plays."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import launch
from rnnlab.errors import UsageError
from rnnlab.run import checkpoint
from rnnlab.sweep import slurm
from rnnlab.sweep.members import Sweep, declare_members, prepare_sweep
from rnnlab.train.saved import saved_config
from rnnlab.train.session import fit
from tests.support import ROOT
from tests.sweep.experiments import experiment, final, rows

LAUNCH = launch.PROGRAM.command

SEEDS = "for seed in range(3): add(seed=seed)"
LONG = {"train.steps": 3000, "train.eval_every": 500, "train.checkpoint_every": 100}


# What is refused


@pytest.mark.usefixtures("quiet_host")
@pytest.mark.parametrize("flag", ["partition=debug", "time=5", "gpus=1", "cpus=1", "nodes=2"])
@pytest.mark.parametrize("executor", ["vmap", "local"])
def test_its_flags_are_for_it_alone(text, tmp_path, capsys, flag, executor):
    path, folder = experiment(tmp_path, text, SEEDS), tmp_path / "sweep"
    arguments = [f"--config={path}", f"--workdir={folder}", f"--executor={executor}", f"--{flag}"]
    assert launch.main(["sweep", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"rnnlab: --{flag.partition('=')[0]} is for --executor=slurm"
    assert not folder.exists()


@pytest.mark.usefixtures("quiet_host")
@pytest.mark.parametrize("flag", ["time=0", "gpus=-1", "cpus=0", "nodes=0"])
def test_a_flag_out_of_range_is_one_line(text, tmp_path, capsys, flag):
    path, folder = experiment(tmp_path, text, SEEDS), tmp_path / "sweep"
    arguments = [f"--config={path}", f"--workdir={folder}", "--executor=slurm", f"--{flag}"]
    assert launch.main(["sweep", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--{flag.partition('=')[0]} must be at least 1" in line
    assert not folder.exists()


@pytest.mark.usefixtures("quiet_host")
@pytest.mark.parametrize("missing", ["sbatch", "submitit"])
def test_without_slurm_or_submitit_one_line_says_what_to_do(
    text,
    tmp_path,
    capsys,
    monkeypatch,
    missing,
):
    if missing == "submitit":
        monkeypatch.setitem(sys.modules, "submitit", None)
        for program in ("sbatch", "srun", "squeue"):
            (tmp_path / program).write_text("#!/bin/sh\n")
            (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    path, folder = experiment(tmp_path, text, SEEDS), tmp_path / "sweep"
    arguments = [f"--config={path}", f"--workdir={folder}", "--executor=slurm"]
    assert launch.main(["sweep", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert missing in line
    assert "pip install -e '.[slurm]'" in line
    assert not folder.exists()


@pytest.fixture
def commands(tmp_path, monkeypatch) -> Path:
    """A folder of programs that stand in for SLURM's: sbatch takes anything, squeue is silent."""
    folder = tmp_path / "commands"
    folder.mkdir()
    for name, line in {
        "sbatch": "echo Submitted batch job 7",
        "srun": "",
        "squeue": "exit 1",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def declared(text, folder: Path) -> Sweep:
    path = experiment(folder, text, SEEDS)
    (folder / "sweep").mkdir()
    return prepare_sweep(folder / "sweep", declare_members(path, []), unit="char", halving=0)


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize(
    ("options", "there", "not_there"),
    [
        (
            {"jobs": 2},
            ["--array=0-2%2", "--nodes=1", "--ntasks-per-node=1", "--requeue", "--signal=USR2@90"],
            ["--time", "--partition", "--gpus", "--cpus-per-task"],
        ),
        (
            {"nodes": 2, "gpus": 4, "cpus": 3, "partition": "fast", "time": 2},
            [
                *("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=3"),
                *("--partition=fast", "--time=2", "--signal=USR2@30", "--array=0-2%3"),
            ],
            [],
        ),
        (
            {"gpus": 4},
            ["--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=4"],
            [],
        ),
    ],
)
def test_what_a_job_asks_for(text, tmp_path, options, there, not_there):
    made = declared(text, tmp_path)
    name, job = slurm._submit(made, made.members, slurm.Options(**options), LAUNCH)
    assert job == "7"
    folder = made.folder / "slurm" / name
    (script,) = folder.glob("*_submission.sh")
    source = script.read_text()
    lines = [line.removeprefix("#SBATCH ") for line in source.splitlines()]
    assert [flag for flag in there if flag not in lines] == []
    assert [flag for flag in not_there if flag in source] == []
    assert f"--job-name={name}" in lines
    srun = lines[-1]
    assert ("--cpus-per-task=3" in srun) == ("cpus" in options)
    assert json.loads((folder / "array.json").read_text())["members"] == [
        m.name for m in made.members
    ]


@pytest.mark.usefixtures("commands")
def test_a_job_needs_no_rnnlab_to_start(text, tmp_path):
    made = declared(text, tmp_path)
    name, _ = slurm._submit(made, made.members[1:], slurm.Options(), LAUNCH)
    (pickled,) = (made.folder / "slurm" / name).glob("7_1_submitted.pkl")
    code = (
        "import pickle, sys; kept = pickle.load(open(sys.argv[1], 'rb'));"
        "print(*kept.args[0][1:], 'jax' in sys.modules, 'rnnlab' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, pickled], capture_output=True, text=True, check=True
    )
    path = made.path(made.members[2])
    assert done.stdout.split()[1:] == ["train", f"--workdir={path}", "False", "False"]


@pytest.mark.usefixtures("commands")
def test_a_job_starts_though_its_module_has_moved_since(text, tmp_path, monkeypatch):
    """Older versions called it rnnlab.slurm_task; what they have submitted waits in the queue."""
    old = types.ModuleType("rnnlab.slurm_task")
    old.__file__ = str(tmp_path / "slurm_task.py")
    exec(Path(slurm.slurm_task.__file__).read_text(), old.__dict__)
    monkeypatch.setitem(sys.modules, old.__name__, old)
    monkeypatch.setattr(slurm, "slurm_task", old)
    made = declared(text, tmp_path)
    says = (sys.executable, "-c", "import sys; print('trained by', *sys.argv[1:])")
    name, _ = slurm._submit(made, made.members, slurm.Options(), says)
    (pickled,) = (made.folder / "slurm" / name).glob("7_0_submitted.pkl")
    code = (
        "import pickle, sys; kept = pickle.load(open(sys.argv[1], 'rb')); kept.result();"
        "print(kept.function.__module__, 'rnnlab' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, pickled], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["rnnlab.slurm_task", "False"]
    path = made.path(made.members[0])
    assert (path / "log.txt").read_text() == f"trained by train --workdir={path}\n"


@pytest.mark.usefixtures("commands")
def test_nothing_is_submitted_twice_because_the_queue_is_silent(text, tmp_path):
    made = declared(text, tmp_path)
    slurm._submit(made, made.members, slurm.Options(), LAUNCH)
    with pytest.raises(UsageError, match="squeue does not say which members have a job"):
        slurm.train_as_jobs(made, made.members, slurm.Options(), print, LAUNCH)
    assert len(list((made.folder / "slurm").iterdir())) == 1


# A real one


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
JobRequeue=1
KillWait=30
PartitionName=debug Nodes=ALL Default=YES MaxTime=01:00:00 State=UP
"""


class Cluster(NamedTuple):
    """SLURM's daemons, and how its commands find them."""

    environment: dict[str, str]
    nodes: list[str]

    def __call__(self, *command: str) -> str:
        """What a command of SLURM's prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    missing = [p for p in ("munged", "slurmctld", "slurmd") if shutil.which(p) is None]
    if missing or os.geteuid():
        pytest.skip(f"needs {' '.join(missing)} here" if missing else "needs to be root")
    host = socket.gethostname().partition(".")[0]
    # Two hosts, by two names that both lead here, since a process is sent to another by name.
    nodes = [host] if host == "localhost" else [host, "localhost"]
    # Short, as the path of a socket has to be.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    daemons = []
    control, *ports = _free_ports(1 + len(nodes))
    lines = [
        f"NodeName={n} NodeHostname={host} NodeAddr=127.0.0.1 Port={p} CPUs=2 RealMemory=1000"
        for n, p in zip(nodes, ports, strict=True)
    ]
    (folder / "state").mkdir()
    conf = CONF.format(host=host, control=control, folder=folder) + "\n".join(lines) + "\n"
    (folder / "slurm.conf").write_text(conf)
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    munged = [
        *("munged", "--force", "--foreground", f"--socket={folder}/munge.socket"),
        *(f"--{what}-file={folder}/{name}" for what, name in {
            "key": "key", "pid": "munged.pid", "log": "munged.log", "seed": "munged.seed",
        }.items()),
    ]  # fmt: skip

    def start(*command: str) -> None:
        with (folder / "daemons.log").open("ab") as log:
            daemons.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )
            )

    try:
        start(*munged)
        _until(lambda: (folder / "munge.socket").exists(), 20, lambda: _told(folder))
        start("slurmctld", "-D")
        for node in nodes:
            start("slurmd", "-D", "-N", node)
        made = Cluster(environment, nodes)

        def idle() -> bool:
            command = ["sinfo", "-h", "-N", "-o", "%T"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            return done.stdout.split() == ["idle"] * len(nodes)

        _until(idle, 60, lambda: _told(folder))
        yield made
        made("scancel", "--user=root")  # what a test that failed has left
        _until(lambda: not made("squeue", "-h"), 60)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(folder)


def _told(folder: Path) -> str:
    return (folder / "daemons.log").read_text(errors="replace")[-3000:]


def _until(true, seconds: float, told=lambda: "") -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, told()
        time.sleep(0.2)


def started(cluster: Cluster, folder: Path, *flags: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "launch.py", "sweep", f"--workdir={folder}", "--executor=slurm", *flags],
        cwd=ROOT,
        env=cluster.environment | {"RNNLAB_CACHE": str(folder.parent / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen, seconds: float = 300) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, output


def assert_alone_is_the_same(member: Path, folder: Path) -> None:
    """The run of this config in a process like a job's own comes to the same bits."""
    folder.mkdir()
    shutil.copy(member / "config.json", folder)
    subprocess.run(
        [sys.executable, "launch.py", "train", f"--workdir={folder}"],
        cwd=ROOT,
        env=os.environ | {"NPROC": "1"},
        check=True,
        capture_output=True,
    )
    assert rows(member) == rows(folder)
    assert final(member) == final(folder)


def number(cluster: Cluster) -> str:
    """The one job that runs."""
    (job,) = cluster("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").split()
    return job


@pytest.mark.slurm
def test_a_sweep_is_one_array_and_its_members_are_the_runs_alone(
    cluster,
    text,
    tmp_path,
):
    path, folder = experiment(tmp_path, text, SEEDS), tmp_path / "sweep"
    flags = ["--partition=debug", "--time=5", "--cpus=1", "--jobs=2"]
    code, output = ended(started(cluster, folder, f"--config={path}", *flags))
    assert code == 0, output
    lines = output.splitlines()
    assert lines[0].startswith("3 members, 3 to run")
    assert re.fullmatch(r"members submitted as job array \d+, 0000-rnnlab-\w+: 3", lines[1])
    assert [line[:4] for line in lines[2:5]] == ["1/3 ", "2/3 ", "3/3 "]
    assert all(" validation " in line for line in lines[2:5])
    for seed in range(3):
        name = f"00{seed}_seed={seed}"
        assert_alone_is_the_same(folder / "members" / name, tmp_path / name)
    scripts = list((folder / "slurm").glob("*/*_submission.sh"))
    assert len(scripts) == 1
    assert "--array=0-2%2" in scripts[0].read_text()
    # The same command has nothing left to do.
    code, output = ended(started(cluster, folder))
    assert code == 0
    assert output.startswith("3 members, 0 to run")


@pytest.mark.slurm
@pytest.mark.parametrize("how", ["requeue", "time", "cancel"])
def test_a_member_that_is_stopped_goes_on_to_the_same_end(
    cluster,
    text,
    tmp_path,
    how,
):
    path = experiment(tmp_path, text, "add(seed=0)", **LONG)
    folder = tmp_path / "sweep"
    member = folder / "members" / "000_seed=0"
    process = started(cluster, folder, f"--config={path}")
    try:
        _until(lambda: checkpoint.steps(member / "checkpoints"), 120)
        job = number(cluster)
        if how == "requeue":
            cluster("scontrol", "requeue", job)
        elif how == "time":
            cluster("scancel", "--signal=USR2", job)
        else:
            cluster("scancel", job)
        if how != "cancel":
            # SLURM lets a job that it queues again wait for two minutes. A node refuses to start it
            # in the second in which it killed it, so that it must wait for some.
            _until(lambda: cluster("squeue", "-h", "-j", job, "-o", "%T") == "PENDING\n", 60)
            cluster("scontrol", "update", f"JobId={job}", "StartTime=now+10")
    except BaseException:
        process.kill()
        raise
    code, output = ended(process, 400)
    if how == "cancel":
        assert code == 1, output
        assert "failed: rnnlab: interrupted after step" in output
        assert "(CANCELLED; see " in output
        code, output = ended(started(cluster, folder))
    assert code == 0, output
    assert "1/1 000_seed=0 validation" in output
    log = (member / "log.txt").read_text()
    assert "interrupted after step" in log  # it saved where it was
    assert "resumed at step" in log
    assert len(json.loads((member / "run.json").read_text())["resumed"]) == 1
    assert_alone_is_the_same(member, tmp_path / "alone")


@pytest.mark.slurm
def test_ctrl_c_leaves_the_jobs_running_and_none_is_submitted_twice(
    cluster,
    text,
    tmp_path,
):
    path = experiment(tmp_path, text, "for seed in (0, 1): add(seed=seed)", **LONG)
    folder = tmp_path / "sweep"
    process = started(cluster, folder, f"--config={path}", "--jobs=1")
    try:
        first = folder / "members" / "000_seed=0"
        _until(lambda: checkpoint.steps(first / "checkpoints"), 120)
    finally:
        process.send_signal(signal.SIGINT)
        code, output = ended(process)
    assert code == 130, output
    assert (
        "interrupted; the jobs of the members that are left (2) go on: come back to them with "
        in output
    )
    assert "scancel --name=0000-rnnlab-" in output
    code, output = ended(started(cluster, folder))
    assert code == 0, output
    assert "members that have a job and are not submitted again: 2" in output
    assert len(list((folder / "slurm").iterdir())) == 1
    assert "resumed at step" not in (first / "log.txt").read_text()


@pytest.mark.slurm
def test_a_member_that_fails_is_told_of_and_the_others_finish(
    cluster,
    text,
    tmp_path,
):
    path, folder = experiment(tmp_path, text, SEEDS), tmp_path / "sweep"
    members = declare_members(path, [])
    folder.mkdir()
    prepare_sweep(folder, members, unit="char", halving=0)
    (folder / "members" / "001_seed=1" / "tensorboard").touch()  # where a folder has to be
    code, output = ended(started(cluster, folder))
    assert code == 1, output
    (line,) = [line for line in output.splitlines() if "failed" in line]
    assert "001_seed=1 failed: rnnlab: " in line
    assert "tensorboard" in line
    assert "(FAILED; see " in line
    assert output.count(" validation ") == 2
    (folder / "members" / "001_seed=1" / "tensorboard").unlink()
    code, output = ended(started(cluster, folder))
    assert code == 0, output
    assert re.search(r"submitted as job array \d+, 0001-rnnlab-\w+: 1\n", output)


@pytest.mark.slurm
def test_what_sbatch_refuses_is_one_line(cluster, text, tmp_path):
    path, folder = experiment(tmp_path, text, SEEDS), tmp_path / "sweep"
    code, output = ended(started(cluster, folder, f"--config={path}", "--partition=none"))
    assert code == 2
    (line,) = output.splitlines()[1:]
    assert line.startswith("rnnlab: sbatch refused the array: ")
    assert "partition" in line
    code, output = ended(started(cluster, folder))
    assert code == 0, output


@pytest.mark.slurm
def test_a_member_over_two_hosts(cluster, text, tmp_path):
    if len(cluster.nodes) < 2:
        pytest.skip("this host has no second name")
    changes = {"parallel.devices": 0}
    path, folder = experiment(tmp_path, text, "add(seed=0)", **changes), tmp_path / "sweep"
    code, output = ended(started(cluster, folder, f"--config={path}", "--nodes=2"))
    assert code == 0, output
    member = folder / "members" / "000_seed=0"
    described = json.loads((member / "run.json").read_text())
    assert described["processes"] == 2
    settings = saved_config(member)
    fit(settings, tmp_path / "alone", [])
    mine, alone = rows(member), rows(tmp_path / "alone")
    assert [row["step"] for row in mine] == [row["step"] for row in alone]
    for a, b in zip(mine, alone, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
