"""The launcher as a user meets it: flags, exit codes, one clear line for each mistake."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from rnnlab.run import command, process
from rnnlab.tasks.language_model import corpora
from tests.support import DEFAULT, ROOT, TINY, refused

pytestmark = pytest.mark.usefixtures("quiet_host")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the cat sat on the mat. " * 100)
    return path


@pytest.fixture(scope="module")
def run(text, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "retain_memory", lambda: True)
        patch.setattr(process, "keep_compiled", lambda folder: None)
        code = launch.main(
            ["train", DEFAULT, f"--workdir={workdir}", f"--config.data.path={text}", *TINY]
        )
    assert code == 0
    return workdir


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["optim.clipnorm=1"], "did you mean 'optim.clip_norm'"),
        (["clip_norm=1"], "did you mean 'optim.clip_norm'"),
        (["train.steps=many"], "'train.steps' takes an int"),
        (["optim.learning_rate=fast"], "'optim.learning_rate' takes a float"),
        (["data.shift=perhaps"], "'data.shift' takes a bool"),
        (["model.cell=lstn"], "did you mean 'lstm'"),
        (["model.cell=ugrnn", "model.options.peepholes=true"], "no option 'peepholes'"),
        (["model.options.kernel_h_init=ortogonal"], "did you mean 'orthogonal'"),
        (["task=language_modle"], "did you mean 'language_model'"),
        (["optim.clip_norm=0"], "must be greater than 0"),
        (["optim.clip_norm=-1"], "must be greater than 0"),
        (["optim.clip_norm=nan"], "NaN"),
        (["optim.name=adm"], "optim.name"),
        (["optim.learning_rate=0"], "optim.learning_rate"),
        (["model.dropout=1.0"], "model.dropout"),
        (["model.layers=0"], "model.layers"),
        (["model.path=fast"], "model.path must be one of auto, plain, cudnn"),
        (["model.keep=all"], "model.keep must be one of preactivations, states"),
        (["model.hidden=0"], "hidden"),
        (["model.bidirectional=true"], "bidirectional"),
        (["train.batch_size=0"], "train.batch_size"),
        (["parallel.devices=-1"], "parallel.devices"),
        (["parallel.devices=1000"], "parallel.devices is 1000, and there are"),
        (["parallel.devices=2", "train.batch_size=3"], "cannot be split over 2 devices"),
        (["parallel.devices=2", "train.steps_per_dispatch=4"], "train.steps_per_dispatch is 4"),
        (["train.steps_per_dispatch=-1"], "train.steps_per_dispatch"),
        (["train.window=100000"], "lower train.batch_size or train.window"),
        (["data.corpus=shakespear", "data.path="], "shakespeare"),
        (["data.path=/nowhere/at/all.txt"], "/nowhere/at/all.txt"),
        (["data.level=word"], "level"),
        (["data.batching=randomly"], "data.batching"),
        (["data.valid_fraction=1.5"], "valid_fraction"),
        (["eval.streams=0"], "streams"),
        (["sample.length=0"], "length"),
        (["sample.python_snippets=-1"], "python_snippets"),
        (["sample.temperature=-1"], "temperature"),
        (["sample.prime=☃"], "☃"),
        (["model.hidden=1048577"], "'model.hidden' must be at most 2^20"),
        (["model.layers=1000"], "model.layers must be in [1, 256], got 1000"),
        (["model.embedding_size=-1"], "model.embedding_size must be at least 0"),
        (["model.options.kernel_h_init=normal:inf"], "kernel_h_init: initialisation 'normal:inf'"),
        (["model.readout_init=nomal"], "model.readout_init: unknown initialisation 'nomal'"),
        (["optim.decay_factor=inf"], "'optim.decay_factor' is inf"),
        (["optim.decay_every=-1"], "optim.decay_every must be at least 1"),
        (["eval.random_windows=0"], "eval.random_windows must be at least 1"),
        (["eval.random_windows=2147483647"], "eval.random_windows x eval.random_window"),
        (["sample.python_snippets=2000000"], "python_snippets"),
        (["model.cell=a\nb\x1b[2J"], "unknown cell 'a b\\x1b[2J'"),  # on one line, without effect
    ],
)
def test_a_mistake_in_the_config_is_one_line_and_writes_nothing(
    changes, said, text, tmp_path, capsys
):
    workdir = tmp_path / "run"
    overrides = [f"--config.{c}" for c in changes]
    arguments = [
        "train", DEFAULT, f"--workdir={workdir}", f"--config.data.path={text}", *TINY, *overrides
    ]  # fmt: skip
    assert said in refused(capsys, arguments)
    assert not workdir.exists()


def test_a_message_is_short_whatever_the_value_is(text, tmp_path, capsys):
    arguments = ["train", DEFAULT, f"--workdir={tmp_path / 'run'}", f"--config.data.path={text}"]
    line = refused(capsys, [*arguments, "--config.seed=" + 9000 * "9"])
    assert len(line) < 1100
    assert line.startswith("rnnlab: config key 'seed' takes an int, got '999")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("ConfigDict()", "'seed' takes an int, got None"),
        ("without('parallel')", "'parallel.devices' takes an int, got None"),
        ("without('optim')", "the config does not fit"),
        ("replaced('optim', 5)", "the config does not fit"),
        ("replaced('model', {})", "the config does not fit"),
        ("replaced('task', None)", "the config does not fit"),
        ("replaced('data', (1, 2))", "the config does not fit"),
    ],
)
def test_a_config_file_of_another_shape_is_one_line(body, said, tmp_path, capsys):
    path = tmp_path / "shape.py"
    path.write_text(
        "from ml_collections import ConfigDict\nfrom experiments import default\n"
        "def without(key):\n    c = default.get_config().unlock()\n    del c[key]\n    return c\n"
        "def replaced(key, value):\n"
        "    return ConfigDict({**default.get_config().to_dict(), key: value})\n"
        f"def get_config():\n    return {body}\n"
    )
    workdir = tmp_path / "run"
    assert said in refused(capsys, ["train", f"--config={path}", f"--workdir={workdir}"])
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda kept: [kept], "no JSON object"),
        (lambda kept: None, "no JSON object"),
        (lambda kept: kept | {"model": 3}, "'model' in it has no keys"),
        (lambda kept: kept | {"__class__": 1}, "is damaged"),
        (lambda kept: kept | {"model": kept["model"] | {"hidden": "8"}}, "hidden"),
        (lambda kept: {k: v for k, v in kept.items() if k != "data"}, "data"),
    ],
)
def test_a_damaged_config_of_a_run_is_one_line(run, damage, said, tmp_path, capsys):
    kept = json.loads((run / "config.json").read_text())
    kept.pop("checksum", None)
    (tmp_path / "config.json").write_text(json.dumps(damage(kept)))
    shutil.copy(run / "vocabulary.json", tmp_path)
    for verb in ("evaluate", "sample"):
        assert said in refused(capsys, [verb, f"--workdir={tmp_path}"])
    refused(capsys, ["train", f"--workdir={tmp_path}"])


def test_endless_brackets_in_a_config_of_a_run(tmp_path, capsys):
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert "config.json" in refused(capsys, ["evaluate", f"--workdir={tmp_path}"])


def test_bad_texts_are_one_line(tmp_path, capsys):
    cases = {
        "empty.txt": (b"", "empty"),
        "short.txt": (b"abc", "character"),
        "latin.txt": (b"abc" * 1000 + b"\xe9" + b"abc" * 1000, "3000"),
    }
    for name, (content, said) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        workdir = tmp_path / "run"
        line = refused(
            capsys, ["train", DEFAULT, f"--workdir={workdir}", f"--config.data.path={path}", *TINY]
        )
        assert said in line
        assert not workdir.exists()


def test_no_network_and_a_wrong_hash_are_one_line(tmp_path, capsys, monkeypatch):
    workdir = tmp_path / "run"
    arguments = [
        "train",
        DEFAULT,
        f"--workdir={workdir}",
        *TINY,
        "--config.data.corpus=shakespeare",
    ]
    remote = corpora.REMOTES["shakespeare"][0]
    closed = remote._replace(address="http://127.0.0.1:9/input.txt")
    monkeypatch.setitem(corpora.REMOTES, "shakespeare", (closed,))
    assert "--config.data.path" in refused(capsys, arguments)
    other = tmp_path / "other.txt"
    other.write_text("not what was pinned")
    wrong = remote._replace(address=other.as_uri())
    monkeypatch.setitem(corpora.REMOTES, "shakespeare", (wrong,))
    assert "sha256" in refused(capsys, arguments)
    assert not workdir.exists()
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_an_unwritable_workdir_is_one_line(text, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    arguments = ["train", DEFAULT, f"--config.data.path={text}", *TINY]
    refused(capsys, [*arguments, f"--workdir={tmp_path / 'file'}"])
    refused(capsys, [*arguments, f"--workdir={tmp_path / 'file' / 'run'}"])
    assert (tmp_path / "file").read_text() == "in the way"


def test_missing_and_broken_config_files_are_one_line(tmp_path, capsys):
    assert "does not exist" in refused(capsys, ["train", "--config=nowhere.py"])
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(:\n")
    assert "line 1" in refused(capsys, ["train", f"--config={broken}"])
    typo = tmp_path / "typo.py"
    typo.write_text(
        "from experiments import default\n\n\ndef get_config():\n"
        "    config = default.get_config()\n    config.optim.clipnorm = 1.0\n    return config\n"
    )
    line = refused(capsys, ["train", f"--config={typo}"])
    assert "line 6" in line
    assert "clip_norm" in line
    refused(capsys, ["train"])
    refused(capsys, ["train", "--workdir=nothing/here", "--config.seed=1"])


def test_flags_of_several_processes_go_together(capsys):
    line = refused(capsys, ["train", DEFAULT, "--coordinator=127.0.0.1:1", "--process_id=0"])
    assert "--num_processes" in line


def test_folders_without_a_run_are_one_line(tmp_path, capsys):
    for verb in ("evaluate", "sample"):
        assert "holds no run" in refused(capsys, [verb, f"--workdir={tmp_path}"])
    assert "--config=FILE" in refused(capsys, ["train", f"--workdir={tmp_path / 'none'}"])


@pytest.mark.slow
def test_another_model_or_vocabulary_in_the_folder_is_shown(run, text, tmp_path, capsys):
    import shutil

    line = refused(
        capsys,
        ["train", DEFAULT, f"--workdir={run}", f"--config.data.path={text}", *TINY,
         "--config.model.cell=gru"],
    )  # fmt: skip
    assert "model.cell: the run has 'lstm', you gave 'gru'" in line
    # A checkpoint of another model, carried into this run's folder.
    workdir = tmp_path / "run"
    other = [a for a in TINY if "hidden" not in a] + ["--config.model.hidden=7"]
    arguments = ["train", DEFAULT, f"--workdir={workdir}", f"--config.data.path={text}", *other]
    assert launch.main(arguments) == 0
    capsys.readouterr()
    shutil.rmtree(workdir / "checkpoints")
    shutil.copytree(run / "checkpoints", workdir / "checkpoints")
    line = refused(capsys, ["evaluate", f"--workdir={workdir}"])
    assert "layers.0.kernel_h" in line
    assert "6 x 24" in line
    assert "7 x 28" in line


def test_bad_sampling_options_are_one_line(run, capsys):
    for option in (
        "--length=0",
        "--num=0",
        "--temperature=-1",
        "--top_k=-1",
        "--top_p=0",
        "--prime=☃",
    ):
        refused(capsys, ["sample", f"--workdir={run}", option])
    assert "there are" in refused(capsys, ["sample", f"--workdir={run}", "--checkpoint=77"])
    assert "best, latest" in refused(capsys, ["sample", f"--workdir={run}", "--checkpoint=²"])


def test_a_damaged_held_out_text_is_one_line(run, tmp_path, capsys):
    import shutil

    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    (workdir / "valid.npy").write_bytes(b"nothing")
    assert "valid.npy is damaged" in refused(capsys, ["evaluate", f"--workdir={workdir}"])


def test_a_damaged_checkpoint_is_exit_4(run, tmp_path, capsys):
    import shutil

    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    for manifest in workdir.glob("checkpoints/*/manifest.json"):
        manifest.write_text("{}")
    assert launch.main(["evaluate", f"--workdir={workdir}"]) == 4
    assert capsys.readouterr().err.splitlines()[-1].startswith("rnnlab: ")


def test_sample_and_evaluate_print_what_they_should(run, capsys):
    assert launch.main(["sample", f"--workdir={run}", "--prime=the", "--length=20"]) == 0
    one = capsys.readouterr().out
    assert one.startswith("the")
    assert len(one) == len("the") + 20 + 1
    assert launch.main(["sample", f"--workdir={run}", "--prime=the", "--length=20"]) == 0
    assert capsys.readouterr().out == one
    assert launch.main(["sample", f"--workdir={run}", "--num=3", "--length=5"]) == 0
    assert capsys.readouterr().out.count("----") == 6
    assert launch.main(["sample", f"--workdir={run}", "--beam=3", "--length=5"]) == 0
    assert "log-probability" in capsys.readouterr().out
    assert launch.main(["evaluate", f"--workdir={run}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["loss"] == json.loads((run / "summary.json").read_text())["valid_loss"]


def test_nothing_is_written_by_evaluate_and_sample(run):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    launch.main(["evaluate", f"--workdir={run}"])
    launch.main(["sample", f"--workdir={run}", "--length=5"])
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*")}


def test_overrides_are_told_from_flags():
    words = [
        "train",
        "--config=a.py",
        "--config.seed=1",
        "--config.data.path",
        "x y",
        "--workdir=d",
    ]
    assert command.split(words) == (
        ["seed=1", "data.path=x y"],
        ["train", "--config=a.py", "--workdir=d"],
    )


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["sample", "-h"]])
def test_help_reads_and_starts_no_jax(arguments):
    code = (
        "import sys, launch\n"
        "try:\n    launch.main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert 'jax' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--confg=x"], "--confg=x"),
        (["sample", "--workdir=x", "--length=abc"], "--length"),
        (["sample"], "--workdir"),
        (["trian"], "trian"),
        ([], "VERB"),
        (["evaluate", "--workdir=x", "--config.seed=1"], "for train"),
        (["train", "--num_processes=two"], "--num_processes"),
    ],
)
def test_a_bad_flag_is_one_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as end:
        launch.main(arguments)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
