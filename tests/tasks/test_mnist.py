"""MNIST, pixel by pixel: its files, and what is made of them."""

import gzip
from pathlib import Path

import jax
import numpy as np
import pytest

from rnnlab.errors import UsageError
from rnnlab.tasks import mnist
from tests.tasks.kinds.small import made


def write_images(folder: Path, count=40, test=10, pack=False, size=4):
    rng = np.random.default_rng(0)
    for name, number in (("train", count), ("t10k", test)):
        images = rng.integers(0, 256, (number, size, size), dtype=np.uint8)
        labels = (np.arange(number) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
            path = folder / f"{name}-{kind}-ubyte"
            content = head + array.tobytes()
            if pack:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)
    mnist.load.cache_clear()
    mnist._train_pixels.cache_clear()


def of_images(folder, *more):
    changes = ("data.valid=10", "eval.sequences=10", f"data.path={folder}", "train.window=16")
    return made("mnist", *changes, *more)


@pytest.mark.parametrize("pack", [False, True])
def test_images_come_pixel_by_pixel(tmp_path, pack):
    write_images(tmp_path, pack=pack)
    one = of_images(tmp_path)
    images, labels = mnist.load(str(tmp_path)).train
    seen = []
    for step in range(3):  # an epoch: 30 images in batches of 8, and what is left over is left out
        batch = one.batch(step)
        assert batch["weights"].sum(0).tolist() == [1] * 8
        for row in range(8):
            pixels = np.round(batch["inputs"][:, row, 0] * 255).astype(np.uint8)
            (found,) = np.flatnonzero((images[:30].reshape(30, -1) == pixels).all(1))
            assert batch["targets"][-1, row] == labels[found]
            seen.append(int(found))
    assert len(set(seen)) == 24
    assert one.finish(one.init(jax.random.key(0))).keys() == {"test_accuracy"}
    assert one.facts()["test_images"] == 10


def test_permuted_pixels_are_in_one_order_for_all(tmp_path):
    write_images(tmp_path)
    plain, mixed = of_images(tmp_path), of_images(tmp_path, "data.permuted=True")
    a, b = plain.batch(0)["inputs"][..., 0], mixed.batch(0)["inputs"][..., 0]
    orders = {
        tuple(int(np.flatnonzero(a[:, row] == v)[0]) for v in b[:, row])
        for row in range(8)
        if len(set(a[:, row])) == 16  # its pixels tell themselves apart
    }
    (order,) = orders
    assert sorted(order) == list(range(16)) != list(order)


def test_pooled_pixels_are_averages(tmp_path):
    write_images(tmp_path)
    one = of_images(tmp_path, "data.pool=2", "train.window=4")
    images, _ = mnist.load(str(tmp_path)).train
    blocks = images[:30].reshape(30, 2, 2, 2, 2).mean((2, 4)).reshape(30, 4) / 255
    for row in one.batch(0)["inputs"][..., 0].T:
        assert np.abs(blocks - row).max(1).min() < 1e-6


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "train-labels-idx1-ubyte").unlink(), "has no train-labels-idx1-ubyte"),
        (lambda f: (f / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03"), "no IDX file"),
        (
            lambda f: (f / "train-images-idx3-ubyte").write_bytes(
                (f / "train-images-idx3-ubyte").read_bytes()[:-1]
            ),
            "is damaged: it should hold 40 x 4 x 4 bytes",
        ),
    ],
)
def test_damaged_images_are_one_line(tmp_path, damage, told):
    write_images(tmp_path)
    damage(tmp_path)
    with pytest.raises(UsageError, match=told) as error:
        of_images(tmp_path)
    assert "\n" not in str(error.value)


def test_a_window_that_is_not_the_image_is_refused(tmp_path):
    write_images(tmp_path)
    with pytest.raises(UsageError, match=r"set train\.window to 16"):
        of_images(tmp_path, "train.window=15")
