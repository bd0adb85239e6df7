import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.errors import UsageError
from rnnlab.tasks.language_model.batches import (
    held_out,
    random_windows,
    split,
    stream_batches,
    window_batches,
)


def counting(n):
    """A text in which every token is its own position."""
    return np.arange(n, dtype=np.uint32)


def check_form(batch, window, batch_size):
    assert set(batch) == {"inputs", "targets", "fresh"}
    for key in ("inputs", "targets"):
        assert batch[key].shape == (window, batch_size)
        assert batch[key].dtype == np.int32
    assert batch["fresh"].dtype == bool
    np.testing.assert_array_equal(batch["targets"], batch["inputs"] + 1)


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


# split


@pytest.mark.parametrize(
    ("n", "fraction", "train"),
    [
        (1_115_394, 0.1, 1_003_854),
        (1_115_394, 0.05, 1_059_624),
        (100, 0.1, 90),
        # 1 - 0.9 is a little less than 0.1 in floating point.
        (100, 0.9, 10),
        (1000, 0.003, 997),
    ],
)
def test_split_counts_in_decimals(n, fraction, train):
    first, second = split(counting(n), valid_fraction=fraction)
    assert (len(first), len(second)) == (train, n - train)
    assert (first[-1], second[0]) == (train - 1, train)
    assert first.base is not None  # a view: nothing was copied


def test_split_takes_a_numpy_fraction():
    assert len(split(counting(100), valid_fraction=np.float64(0.9))[0]) == 10


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_split_refuses_fractions(fraction):
    with pytest.raises(UsageError, match=r"data\.valid_fraction"):
        split(counting(100), valid_fraction=fraction)


@pytest.mark.parametrize(("n", "fraction"), [(0, 0.5), (3, 0.5), (10, 0.01), (10, 0.95)])
def test_split_refuses_short_parts(n, fraction):
    with pytest.raises(UsageError, match="leaves a part of less than 2"):
        split(counting(n), valid_fraction=fraction)


# streams

shapes = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(0, 200), st.booleans())


def streams(batch_size, window, extra, shift, seed=3):
    least = batch_size * window + 1 + (window - 1 if shift else 0)
    tokens = counting(least + extra)
    batches = stream_batches(
        tokens, batch_size=batch_size, window=window, seed=seed, shift=shift, forget=0.0
    )
    return tokens, batches


@given(shapes, st.integers(0, 3))
def test_streams_are_contiguous_and_disjoint(shape, epoch):
    batch_size, window, extra, shift = shape
    tokens, batches = streams(batch_size, window, extra, shift)
    first = epoch * batches.steps_per_epoch
    epoch_batches = [batches(first + i) for i in range(batches.steps_per_epoch)]
    for i, batch in enumerate(epoch_batches):
        check_form(batch, window, batch_size)
        assert (batch["fresh"] == (i == 0)).all()
    inputs = np.concatenate([batch["inputs"] for batch in epoch_batches])  # [time, B]
    assert (np.diff(inputs, axis=0) == 1).all()
    offset = inputs[0, 0]
    assert 0 <= offset < (window if shift else 1)
    # No target twice, and little left out: an unfilled window a stream, and a rest.
    assert len(np.unique(inputs)) == inputs.size
    assert np.unique(np.diff(inputs[0])).size <= 1
    gaps = np.diff(inputs[0]) - len(inputs)
    assert (gaps >= 0).all()
    assert (gaps < 2 * window).all()
    left_out = len(tokens) - 1 - inputs.size
    assert left_out < batch_size * window + (window if shift else 0)


@given(shapes, st.lists(st.integers(0, 500), min_size=1, max_size=5))
def test_batch_is_a_pure_function_of_the_step(shape, steps):
    tokens, batches = streams(*shape)
    _, again = streams(*shape)
    batch_size, window, _, _ = shape
    make = [window_batches(tokens, batch_size=batch_size, window=window, seed=3) for _ in range(2)]
    before = [(batches(s), make[0](s)) for s in steps]
    for step, (stream, windows) in reversed(list(zip(steps, before, strict=True))):
        same(again(np.int64(step)), stream)
        same(make[1](step), windows)


def test_shift_differs_between_epochs_and_seeds():
    def offsets(seed, shift):
        _, batches = streams(4, 50, 1000, shift, seed)
        return [int(batches(e * batches.steps_per_epoch)["inputs"][0, 0]) for e in range(20)]

    assert len(set(offsets(3, True))) > 10
    assert offsets(3, True) != offsets(4, True)
    assert set(offsets(3, False)) == {0}


def test_shift_is_the_same_in_every_version():
    _, batches = streams(4, 50, 1000, True, seed=3)
    starts = [int(batches(e * batches.steps_per_epoch)["inputs"][0, 0]) for e in range(4)]
    assert starts == [16, 0, 41, 0]
    windows = window_batches(counting(1000), batch_size=4, window=10, seed=3)
    assert windows(7)["inputs"][0].tolist() == [191, 564, 716, 397]


@pytest.mark.parametrize(("shift", "least"), [(False, 4 * 5 + 1), (True, 4 * 5 + 5)])
def test_short_text_is_refused(shift, least):
    def make(n):
        return stream_batches(counting(n), batch_size=4, window=5, seed=0, shift=shift, forget=0.0)

    assert make(least).steps_per_epoch == 1
    with pytest.raises(UsageError) as caught:
        make(least - 1)
    assert str(caught.value) == (
        f"the training text has {least - 1} characters; 4 streams of a window of 5 need at least "
        f"{least}: lower train.batch_size or train.window, or give more text"
    )


@pytest.mark.parametrize("sizes", [{"batch_size": 0, "window": 1}, {"batch_size": 1, "window": 0}])
def test_sizes_below_one_are_refused(sizes):
    for make in (lambda **kw: stream_batches(shift=False, forget=0.0, **kw), window_batches):
        with pytest.raises(UsageError, match="must be at least 1"):
            make(tokens=counting(9), seed=0, **sizes)


def test_negative_seed_is_refused():
    with pytest.raises(UsageError, match="seed must not be negative"):
        window_batches(counting(9), batch_size=1, window=1, seed=-1)(0)


# random windows


def test_windows_reach_the_whole_text():
    batches = window_batches(counting(12), batch_size=8, window=10, seed=0)
    assert batches.steps_per_epoch == 1
    seen = set()
    for step in range(20):
        batch = batches(step)
        check_form(batch, 10, 8)
        assert batch["fresh"].all()
        seen |= set(batch["inputs"][0].tolist())
    assert seen == {0, 1}
    assert window_batches(counting(1001), batch_size=5, window=10, seed=0).steps_per_epoch == 20


def test_random_windows_are_one_fixed_set():
    a, b, c = (random_windows(counting(500), count=7, window=20, seed=s) for s in (1, 1, 2))
    same(a, b)
    assert (a["inputs"] != c["inputs"]).any()
    assert a["inputs"].shape == (20, 7)
    assert a["inputs"].dtype == np.int32
    np.testing.assert_array_equal(a["targets"], a["inputs"] + 1)
    exact = random_windows(counting(21), count=3, window=20, seed=0)
    np.testing.assert_array_equal(exact["inputs"][:, 0], np.arange(20))


def test_text_shorter_than_a_window_is_refused():
    with pytest.raises(UsageError, match=r"the training text has 10 .* at least 11: lower train"):
        window_batches(counting(10), batch_size=1, window=10, seed=0)
    with pytest.raises(UsageError, match=r"eval\.random_windows must be at least 1, not 0"):
        random_windows(np.arange(50), count=0, window=5, seed=0)
    with pytest.raises(UsageError, match=r"the held-out text has 10 .* at least 11"):
        random_windows(counting(10), count=1, window=10, seed=0)


# held-out text


@given(st.integers(2, 400), st.integers(1, 9), st.integers(1, 12), st.integers(0, 15))
def test_every_held_out_target_counts_once(n, streams, window, burn_in):
    held = held_out(counting(n), streams=streams, window=window, burn_in=burn_in)
    assert 1 <= held.streams <= streams
    assert held.targets == n - 1
    windows = [held(i) for i in range(held.windows)]
    inputs, targets, weights = (
        np.concatenate([w[key] for w in windows]) for key in ("inputs", "targets", "weights")
    )  # [time, K]
    assert inputs.dtype == targets.dtype == np.int32
    assert weights.dtype == bool
    window = len(windows[0]["inputs"])  # shorter if the text is
    assert inputs.shape == targets.shape == weights.shape == (held.windows * window, held.streams)
    np.testing.assert_array_equal(np.sort(targets[weights]), np.arange(1, n))
    np.testing.assert_array_equal(targets[weights], inputs[weights] + 1)
    for k in range(held.streams):
        counted = np.flatnonzero(weights[:, k])
        # The text is read without a gap up to the last target that counts, the burn-in first.
        assert counted[0] == (0 if k == 0 else burn_in)
        read = inputs[: counted[-1] + 1, k]
        np.testing.assert_array_equal(read, read[0] + np.arange(len(read)))
        assert weights[counted[0] : counted[-1] + 1, k].all()
    assert weights[-window:].any()  # no window is read for nothing


def test_held_out_reads_in_as_few_windows_as_it_can():
    held = held_out(counting(111_540), streams=64, window=256, burn_in=256)
    # A stream counts (111,539 - 256) / 64 = 1,738.8 targets and reads 256 more before them.
    assert (held.streams, held.windows) == (64, 8)


def test_short_held_out_text_gets_fewer_streams():
    assert held_out(counting(101), streams=50, window=10, burn_in=10).streams == 5
    single = held_out(counting(8), streams=50, window=10, burn_in=10)
    assert (single.streams, single.windows) == (1, 1)
    assert single(0)["weights"].sum() == 7


def test_a_held_out_text_is_read_in_no_longer_windows_than_it_has():
    """A window of 2^31 characters is the whole text, and not 16 GB of padding."""
    whole = held_out(np.arange(50), streams=4, window=2**31 - 1, burn_in=10)
    assert (whole.windows, whole.streams, whole.targets) == (1, 1, 49)
    batch = whole(0)
    assert batch["weights"].shape == (49, 1)
    assert batch["weights"].all()


def test_held_out_refuses_nonsense():
    for n in (0, 1):
        with pytest.raises(UsageError, match="needs at least 2"):
            held_out(counting(n), streams=1, window=1, burn_in=0)
    with pytest.raises(UsageError, match="burn_in"):
        held_out(counting(9), streams=1, window=1, burn_in=-1)
    held = held_out(counting(9), streams=1, window=3, burn_in=0)
    for i in (-1, held.windows):
        with pytest.raises(IndexError):
            held(i)


# memory maps


def test_large_memory_map_is_not_copied(tmp_path):
    # A sparse file: 4 GB of zeros that take no disk, and would show if they were read.
    path = tmp_path / "tokens"
    with open(path, "wb") as file:
        file.truncate(4 << 30)
    tokens = np.memmap(path, np.uint8, "r")
    train, valid = split(tokens, valid_fraction=0.1)
    for batches in (
        stream_batches(train, batch_size=8, window=16, seed=0, shift=True, forget=0.0),
        window_batches(train, batch_size=8, window=16, seed=0),
    ):
        check = batches(batches.steps_per_epoch * 3 - 1)
        assert type(check["inputs"]) is np.ndarray
        assert check["inputs"].shape == (16, 8)
    held = held_out(valid, streams=64, window=256, burn_in=256)
    assert held(held.windows - 1)["weights"].any()
    random_windows(valid, count=4, window=8, seed=0)


def test_forgetting_is_a_pure_function_of_the_step_with_the_stated_rate():
    tokens = np.arange(200_000, dtype=np.uint32)
    options = {"batch_size": 20, "window": 10, "seed": 3, "shift": False}
    some = stream_batches(tokens, **options, forget=0.25)
    none = stream_batches(tokens, **options, forget=0.0)
    drawn = np.stack([some(i)["fresh"] for i in range(1, 999)])
    assert abs(drawn.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / drawn.size)
    np.testing.assert_array_equal(some(7)["fresh"], drawn[6])
    assert some(0)["fresh"].all()
    assert not np.stack([none(i)["fresh"] for i in range(1, 999)]).any()
    np.testing.assert_array_equal(some(7)["inputs"], none(7)["inputs"])
