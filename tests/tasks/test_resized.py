"""Which axes of a task's parameters grow with its vocabularies, for weights of another run."""

import jax
import pytest

from rnnlab import tasks
from tests.tasks.small import task_config


@pytest.mark.parametrize("name", ["translation", "captions"])
def test_symbols_and_sizes_belong_together(name):
    task = tasks.make_task(task_config(name))
    sizes = {key: len(symbols) for key, symbols in task.symbols.items()}
    key = jax.random.key(0)
    before = jax.eval_shape(task.init, key)
    assert jax.eval_shape(task.resized(sizes), key) == before
    for vocabulary in sizes:
        grown = jax.eval_shape(task.resized({**sizes, vocabulary: sizes[vocabulary] + 1}), key)
        differs = [
            (a.shape, b.shape)
            for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(grown), strict=True)
            if a.shape != b.shape
        ]
        assert differs
        for one, other in differs:
            assert sum(other) == sum(one) + 1
