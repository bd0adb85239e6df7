"""Tables of one's own: labels in words or numbers, headings, encodings, constant columns; faults by line."""

import math

import jax
import numpy as np
import pytest

from rnnlab import tasks
from rnnlab.errors import UsageError
from rnnlab.tasks import one_to_one
from tests.tasks.small import task_config

WORDS = ("setosa", "Iris versicolor", "één", "हिन्दी")


def rows(answer, count=60):
    rng = np.random.default_rng(0)
    return "".join(
        f"{x:.4f},{y:.4f},0.3,{answer(n)}\n" for n, (x, y) in enumerate(rng.normal(size=(count, 2)))
    )


def of(path, *more):
    one_to_one.read.cache_clear()
    return tasks.make_task(
        task_config("one_to_one", f"data.path={path}", "eval.sequences=16", *more)
    )


@pytest.mark.parametrize("heading", ["", "length,width,more,kind\n", "\n\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("more", [(), ("data.labels=True",)])
def test_labels_may_be_words(heading, encoding, more, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(heading + rows(lambda n: f" {WORDS[n % 4]}"), encoding=encoding)
    task = of(path, *more)
    batch = task.batch(0)
    assert batch["inputs"].shape == (1, 8, 3)
    found = one_to_one.read(str(path), None)
    assert found.names == tuple(sorted(WORDS))
    assert [found.names[answer] for answer in found.answers] == [WORDS[n % 4] for n in range(60)]
    assert task.facts()["outputs"] == "4 classes"


def test_labels_may_be_numbers_if_one_says_so(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(rows(lambda n: ("10", "9.0", "9")[n % 3]))
    assert one_to_one.read(str(path), None).names == ()
    found = one_to_one.read(str(path), True)
    assert found.names == ("9", "10")
    assert found.answers.tolist() == [1, 0, 0] * 20
    path.write_text(rows(lambda n: ("1", "2", "three")[n % 3]))
    one_to_one.read.cache_clear()
    assert one_to_one.read(str(path), True).names == ("1", "2", "three")


def test_a_label_is_one_however_it_is_composed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(rows(lambda n: ("\u00e9", "e\u0301")[n % 2]))
    assert one_to_one.read(str(path), None).names == ("\u00e9",)


def test_cells_may_be_quoted_and_lines_end_anyhow(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'"x","y"\r\n"1.5","up, or so"\r\n2,"on\ntwo lines"\r\n')
    found = one_to_one.read(str(path), None)
    assert found.names == ("on\ntwo lines", "up, or so")


@pytest.mark.parametrize(
    ("text", "labels", "told"),
    [
        ("1,2\n3,four\n", None, "a.csv:2 is not all numbers: 3,four"),
        ("1,two\n3,four\n", False, "a.csv:2 is not all numbers: 3,four"),
        ("1,2,a\n3,x,b\n", None, "a.csv:2 is not all numbers: 3,x"),
        ("1,2,a\n3,4,b,c\n", None, "a.csv:2 has 4 columns, and line 1 3"),
        ("1,2,a\n3,4, \n", None, "a.csv:2 has no label in its last column"),
        ("1,2\n3,nan\n", None, "a.csv:2 has a number that is not finite"),
        ("1,inf,a\n3,4,b\n", None, "a.csv:1 has a number that is not finite"),
        ("1\n2\n", None, "a.csv:1 has 1 column"),
        ("a\nb\n", None, "a.csv:2 is not all numbers"),
        ("x,y\n", None, "a.csv has no numbers"),
        ("\n \n", None, "a.csv has no numbers"),
        ("1," + "9" * 200_000 + "\n", None, "cannot read .*a.csv: field larger than"),
        ("1,2\n3,\udcff\n", None, "a.csv:2 is not UTF-8"),
    ],
)
def test_what_is_no_table_is_told_with_the_line(text, labels, told, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    one_to_one.read.cache_clear()
    with pytest.raises(UsageError, match=told) as caught:
        one_to_one.read(str(path), labels)
    assert "\n" not in str(caught.value)


def test_an_encoding_that_is_named_is_taken(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(rows(lambda n: ("né", "mort")[n % 2]).encode("cp1252"))
    assert of(path, "data.encoding=cp1252").facts()["outputs"] == "2 classes"


def test_a_constant_column_does_not_explode_on_what_is_held_out(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(rows(lambda n: 14.62))
    task = of(path)
    batch = task.batch(0)
    assert not batch["inputs"][..., 2].any()
    assert not batch["targets"].any()
    lines = path.read_text().splitlines()
    order = np.argsort(one_to_one.draws.Random(0, one_to_one.draws.ORDER).uniform((60,)))
    lines[order[-1]] = "0,0,0.35,15.62"  # of the test
    path.write_text("\n".join(lines))
    found = of(path).finish(task.init(jax.random.key(0)))
    assert math.isfinite(found["test_loss"])
    assert found["test_loss"] < 100
