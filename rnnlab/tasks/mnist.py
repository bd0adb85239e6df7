"""Sequential MNIST: a handwritten digit, read pixel by pixel, is to be named at the last one.

Le et al. 2015 (section 4.2): the 784 pixels of an image, from left to right and from top to bottom,
as numbers in [0, 1]; with `permuted` in one random order, the same for all images and all runs. The
answer, at the last step, is one of 10 digits. An epoch is all training images in a random order, but
for those that fill no batch.

data.path: a folder with the four IDX files, as they are named below, with or without .gz; unset, they
are downloaded. data.valid: how many of the last training images are held out, 5,000; validation reads
the first eval.sequences of these, and at the end the whole test set is read. data.pool: the average
of each block of pool x pool pixels is one step, for a quick run. train.window must be the number of
steps, 784 / pool^2.

Without memory one guesses: ln 10 nats.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.data import cache, draws
from rnnlab.data.reading import reading
from rnnlab.errors import UsageError
from rnnlab.run.folder import unchanged
from rnnlab.tasks.kinds import sequences
from rnnlab.tasks.kinds.epochs import shuffled
from rnnlab.tasks.kinds.shades import shaded
from rnnlab.tasks.kinds.sources import Reads
from rnnlab.types import About, Config, Task

ABOUT = About(
    mapping="many-to-one",
    data="MNIST, pixel by pixel: downloaded, or a folder of IDX files",
    metric="accuracy on the test images",
    experiment="sequential_mnist",
)

_ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FILES = {  # name -> sha256 of what the .gz holds
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
READS = Reads(lambda config: {"data.path": (*FILES, *(f"{name}.gz" for name in FILES))})
DIGITS = 10
Batches = Callable[[], Iterable[sequences.Batch]]


class Images(NamedTuple):
    """The data, as its files have it."""

    train: tuple[np.ndarray, np.ndarray]  # uint8 [N, rows, columns], uint8 [N]
    test: tuple[np.ndarray, np.ndarray]
    sha256: str  # of the four files, one after the other
    source: str


@functools.lru_cache(maxsize=1)
def load(path: str) -> Images:
    """The images of a folder, or for "" the published ones, downloaded once.

    Raises UsageError for a file that is missing, damaged or of another kind, images and labels that
    do not belong together, or a download that fails.
    """
    digest, arrays = hashlib.sha256(), []
    for name, sha256 in FILES.items():
        if path:
            content = cache.local(Path(path).expanduser(), name)
        else:
            remote = cache.Remote(
                f"mnist-{name}", f"{_ADDRESS}{name}.gz", f"sha256:{sha256}", folder="", member=""
            )
            content = cache.fetch(remote).read_bytes()
        digest.update(content)
        arrays.append(parsed(content, name, rank=3 if "idx3" in name else 1))
    images, labels, test_images, test_labels = arrays
    for pictures, answers in ((images, labels), (test_images, test_labels)):
        if len(pictures) != len(answers) or not len(answers):
            raise UsageError(f"MNIST: {len(pictures)} images and {len(answers)} labels")
        if answers.max() >= DIGITS:
            raise UsageError(f"MNIST: a label is {answers.max()}, and there are {DIGITS} digits")
    if images.shape[1:] != test_images.shape[1:]:
        raise UsageError("MNIST: the images for training and for testing are of different sizes")
    return Images(
        (images, labels), (test_images, test_labels), digest.hexdigest(), path or _ADDRESS
    )


def parsed(content: bytes, name: str, *, rank: int) -> np.ndarray:
    """The array of an IDX file of bytes: 0, 0, 8 (uint8), its rank, each size as a big-endian int32,
    and the numbers. Raises UsageError for another kind of file, or another length."""
    head = 4 + 4 * rank
    if len(content) < head or content[:4] != bytes((0, 0, 8, rank)):
        raise UsageError(f"{name} is no IDX file of bytes with {rank} dimensions")
    shape = tuple(int(n) for n in np.frombuffer(content[4:head], ">i4"))
    if min(shape) < 0 or len(content) - head != math.prod(shape):
        raise UsageError(
            f"{name} is damaged: it should hold {' x '.join(map(str, shape))} bytes after its header, "
            f"and holds {len(content) - head}"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


@functools.lru_cache(maxsize=2)
def _train_pixels(path: str, pool: int) -> np.ndarray:
    """Of the training images, once for all members of a sweep."""
    return pooled(load(path).train[0], pool)


def pooled(images: np.ndarray, pool: int) -> np.ndarray:
    """float32 [N, T] in [0, 1]: the averages of blocks of pool x pool pixels, in reading order.
    Raises UsageError if blocks of that size do not fill an image."""
    count, rows, columns = images.shape
    if pool < 1 or rows % pool or columns % pool:
        raise UsageError(f"data.pool must divide {rows} and {columns}, got {pool}")
    blocks = images.reshape(count, rows // pool, pool, columns // pool, pool)
    return (blocks.mean((2, 4), dtype=np.float32) / 255).reshape(count, -1).astype(np.float32)


def batch_of(
    pixels: np.ndarray, labels: np.ndarray, index: np.ndarray, order: np.ndarray
) -> sequences.Batch:
    """The images `index` (int [B]) of pixels [N, T] and labels [N], whose steps are in the order int [T]:
    inputs float32 [T, B, 1], and the label at the last step."""
    inputs = pixels[index][:, order].T[..., None]
    targets = np.zeros((len(order), len(index)), np.int32)
    targets[-1] = labels[index]
    weights = np.zeros((len(order), len(index)), bool)
    weights[-1] = True
    return {"inputs": np.ascontiguousarray(inputs), "targets": targets, "weights": weights}


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, the images must be those of that run.

    Raises UsageError for options that do not fit the images, or other images than the run's.
    """
    chosen = sequences.options(config, path="", permuted=False, pool=1, valid=5000)
    with reading(chosen["path"] or "MNIST"):
        found = load(chosen["path"])
    unchanged(kept, "images", found.source, found.sha256)
    width = found.train[0].shape[2] // max(chosen["pool"], 1)

    pixels, labels = _train_pixels(chosen["path"], chosen["pool"]), found.train[1]
    steps, rows, held = pixels.shape[1], config.train.batch_size, chosen["valid"]
    if config.train.window != steps:
        raise UsageError(
            f"an image has {steps} steps (data.pool is {chosen['pool']}): set train.window to {steps}"
        )
    count = len(labels) - held
    if held < 1 or count < rows:
        raise UsageError(
            f"of {len(labels)} training images data.valid holds out {held}, and a batch has {rows}"
        )
    if config.eval.sequences > held:
        raise UsageError(f"eval.sequences is {config.eval.sequences}, more than data.valid, {held}")
    permuted = np.argsort(draws.Random(0, draws.PIXELS).uniform((steps,)))
    order = permuted if chosen["permuted"] else np.arange(steps)

    batch = functools.partial(batch_of, order=order)
    numbers, per_epoch = shuffled(count, batch_size=rows, seed=config.seed)

    def in_order(pixels: np.ndarray, labels: np.ndarray, index: np.ndarray) -> Batches:
        part = functools.partial(batch, pixels, labels)
        return sequences.in_order(index, config.eval.chunk, part)

    def test() -> Iterable[sequences.Batch]:
        images, answers = found.test
        return in_order(pooled(images, chosen["pool"]), answers, np.arange(len(answers)))()

    def example(step: int) -> sequences.Batch:
        random = draws.Random(config.seed, draws.SHOW, step)
        return batch(pixels, labels, random.integers(count, len(labels), (1,)))

    def tell(inputs: np.ndarray) -> str:
        picture = np.zeros(steps)
        picture[order] = inputs[:, 0]
        return "\n".join(line.rstrip() for line in shaded(picture.reshape(-1, width)))

    def facts() -> dict[str, Any]:
        return {
            "source": found.source,
            "sha256": found.sha256,
            "train_images": count,
            "valid_images": config.eval.sequences,
            "test_images": len(found.test[1]),
            "steps_per_epoch": per_epoch,
        }

    source = sequences.Source(
        train=lambda step: batch(pixels, labels, numbers(step)),
        valid=in_order(pixels, labels, count + np.arange(config.eval.sequences)),
        last={"test_accuracy": ("accuracy", test)},
        example=example,
        facts=facts,
    )
    problem = sequences.Problem(
        inputs=1,
        outputs=DIGITS,
        vectors=True,
        draw=None,
        baseline=("guessing", math.log(DIGITS)),
        unit="sequence",
        facts={key: value for key, value in chosen.items() if key != "path"},
        tell=tell,
    )
    return sequences.make_task(config, problem, source)
