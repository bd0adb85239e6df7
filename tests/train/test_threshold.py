"""What is said at the end of a run of its clipping threshold."""

import math

import pytest
from ml_collections import ConfigDict

from rnnlab.train.threshold import clipped_share, describe_clipping


def config(threshold):
    return ConfigDict({"optim": {"clip_norm": threshold}})


def rows(*shares):
    """Logged rows, the norm of the n-th 0.1 n in the mean and 0.2 n at most; one of validation."""
    train = [
        {"split": "train", "clipped": share, "grad_norm": 0.1 * n, "grad_norm_max": 0.2 * n}
        for n, share in enumerate(shares, start=1)
    ]
    return [*train, {"split": "valid", "loss": 1.0}]


def test_the_share_is_the_mean_over_the_steps_that_were_not_skipped():
    assert clipped_share(rows(1.0, 0.5, 0.0)) == pytest.approx(0.5)
    assert clipped_share(rows(1.0, math.nan)) == 1.0
    assert math.isnan(clipped_share([{"split": "valid", "loss": 1.0}]))


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((0.25, 0.75), "clipping at 1 changed the gradient in 50% of the steps"),
        ((0.001, 0.0), "clipping at 1 changed the gradient in less than 1% of the steps"),
        (
            (0.0, 0.0, 0.0),
            "clipping at 1 never acted: the gradient's norm was 0.2 in the median and 0.6 at most; "
            "a lower threshold does, --config.optim.clip_norm=0.2 say",
        ),
    ],
)
def test_it_is_said_how_often_the_threshold_acted(shares, said):
    assert describe_clipping(rows(*shares), config(1.0)) == said


def test_nothing_is_said_where_there_is_nothing_to_say():
    assert describe_clipping(rows(0.0), config(math.inf)) == ""
    assert describe_clipping(rows(), config(1.0)) == ""
