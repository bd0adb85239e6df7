"""The model against its parts put together by hand, its dropout masks seen one by one, its gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnnlab import cells
from rnnlab.errors import UsageError
from rnnlab.models import stack
from rnnlab.recurrence.unrolling import unroll

pytestmark = pytest.mark.usefixtures("strict_dtypes", "float64")

T, B, V, H = 6, 3, 5, 4


def make(**options):
    sizes = {"input_size": V, "output_size": V, "cell": "lstm", "hidden": H, "layers": 2}
    return stack.stack_cells(**(sizes | options))


def random_like(tree, seed=0, scale=0.6):
    """Random float64 arrays of the shapes of `tree`."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * scale), tree)


def values(net, seed=0):
    """Random parameters; no initialiser has to be compiled for them."""
    return random_like(jax.eval_shape(net.init, jax.random.key(0)), seed)


def tokens(time=T, batch=B, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, (time, batch)), jnp.int32)


def vectors(time=T, batch=B, size=V, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(time, batch, size)))


def zeros(net, batch=B):
    return net.carry(batch, jnp.float64)


def run(net, params, x, carry=None, **options):
    carry = zeros(net, x.shape[1]) if carry is None else carry
    return jax.jit(net.apply)(params, carry, x, **options)


def close(found, wanted, tolerance=1e-12):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def same(found, wanted):
    close(found, wanted, 0.0)


# The forward pass

COMBINATIONS = {
    "plain": {},
    "gru": {"cell": "gru", "layers": 1},
    "dense": {"input": "dense", "layers": 3},
    "embedding": {"input": "embedding", "embedding_size": 3},
    "tied": {"input": "embedding", "embedding_size": H, "tied": True},
    "residual": {"residual": True, "layers": 3},
    "skip": {"skip": True, "layers": 3},
    "bidirectional": {"bidirectional": True},
    "all": {
        "input": "embedding",
        "embedding_size": 2 * 2 * H,
        "tied": True,
        "residual": True,
        "skip": True,
        "bidirectional": True,
    },
}


GIVEN = cells.get("gru", hidden=3, precision="bf16")


def test_a_cell_may_be_given_in_place_of_its_name():
    named = make(cell="gru", hidden=3, precision="bf16")
    given = make(cell=GIVEN, hidden=None)
    assert given.cell is GIVEN
    params, x = values(named), tokens()
    assert given.layers == named.layers
    same(run(given, params, x), run(named, params, x))


def by_hand(options, params, carry, x):
    """(carry, outputs) put together from single unrolls; backward ones run over the flipped input."""
    cell = cells.get(options.get("cell", "lstm"), hidden=H)
    if options.get("input") == "embedding":
        x = params["embedding"][x]
    seen, finals = [], []
    for index, layer in enumerate(params["layers"]):
        if options.get("bidirectional"):
            final_f, y_f = unroll(cell, layer["forward"], x, carry[index][0])
            final_b, y_b = unroll(cell, layer["backward"], jnp.flip(x, 0), carry[index][1])
            finals.append((final_f, final_b))
            y = jnp.concatenate([y_f, jnp.flip(y_b, 0)], axis=2)
        else:
            final, y = unroll(cell, layer, x, carry[index][0])
            finals.append((final,))
        x = y + x if index and options.get("residual") else y
        seen.append(x)
    width = jnp.concatenate(seen, axis=2) if options.get("skip") else seen[-1]
    kernel = params["embedding"].T if options.get("tied") else params["readout"]["kernel"]
    return tuple(finals), jnp.einsum("tbw,wv->tbv", width, kernel) + params["readout"]["bias"]


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_model_is_its_parts(name):
    options = COMBINATIONS[name]
    net = make(**options)
    params, carry = values(net), random_like(zeros(net), seed=1)
    x = vectors() if options.get("input") == "dense" else tokens()
    wanted = jax.jit(functools.partial(by_hand, options))(params, carry, x)
    close(run(net, params, x, carry), wanted)


GATES = {"bias": (16,), "kernel_h": (H, 16), "kernel_x": (V, 16)}


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        (
            {"output_size": 7},
            {
                **{f"layers.0.{name}": shape for name, shape in GATES.items()},
                **{f"layers.1.{name}": shape for name, shape in GATES.items()},
                "layers.1.kernel_x": (H, 16),
                "readout.bias": (7,),
                "readout.kernel": (H, 7),
            },
        ),
        (
            {"bidirectional": True, "skip": True},
            {
                **{
                    f"layers.{layer}.{direction}.{name}": shape
                    for layer in (0, 1)
                    for direction in ("backward", "forward")
                    for name, shape in GATES.items()
                },
                "layers.1.backward.kernel_x": (2 * H, 16),
                "layers.1.forward.kernel_x": (2 * H, 16),
                "readout.bias": (V,),
                "readout.kernel": (4 * H, V),
            },
        ),
        (
            {"input": "embedding", "embedding_size": H, "tied": True, "layers": 1},
            {
                "embedding": (V, H),
                **{f"layers.0.{name}": shape for name, shape in GATES.items()},
                "layers.0.kernel_x": (H, 16),
                "readout.bias": (V,),
            },
        ),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_and_the_table_of_them(options, shapes, dtype):
    net = make(**options)
    leaves = jax.tree_util.tree_leaves_with_path(
        jax.eval_shape(lambda k: net.init(k, dtype), key())
    )
    found = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    assert {name: leaf.shape for name, leaf in found.items()} == shapes
    assert {leaf.dtype for leaf in found.values()} == {np.dtype(dtype)}
    wanted = {name: " x ".join(map(str, shape)) for name, shape in shapes.items()}
    assert dict(net.layers) == wanted


def key(seed=0):
    return jax.random.key(seed)


def test_initial_values_follow_from_the_key_and_no_two_kernels_share_theirs():
    net = make(cell="rnn", bidirectional=True, input="embedding", embedding_size=2 * H)
    init = jax.jit(net.init)
    params = init(key())
    same(init(key()), params)
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    kernels += [leaf for leaf in jax.tree.leaves(init(key(1))) if leaf.ndim == 2]
    for a, b in itertools.combinations(kernels, 2):
        assert a.shape != b.shape or (a != b).any()


@pytest.mark.parametrize("directions", [1, 2])
def test_the_carry_has_one_state_a_layer_and_direction(directions):
    net = make(layers=3, bidirectional=directions == 2)
    carry = net.carry(B)
    assert len(carry) == 3
    for layer in carry:
        assert len(layer) == directions
        for state in layer:
            assert state._fields == ("c", "h")
            assert {leaf.shape for leaf in state} == {(B, H)}
            assert {leaf.dtype for leaf in state} == {np.dtype(np.float32)}
    assert not any(leaf.any() for leaf in jax.tree.leaves(carry))
    x = jax.ShapeDtypeStruct((T, B), jnp.int32)
    params = jax.eval_shape(net.init, key())
    after, outputs = jax.eval_shape(net.apply, params, carry, x)
    assert jax.tree.structure(after) == jax.tree.structure(carry)
    assert outputs.shape == (T, B, V)


def test_two_windows_with_the_carry_between_them_are_one():
    net = make()
    params, x = values(net), tokens()
    carry, first = run(net, params, x[:2])
    carry, second = run(net, params, x[2:], carry)
    close((carry, jnp.concatenate([first, second])), run(net, params, x))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_causal_says_whether_the_future_is_seen(bidirectional):
    net = make(input="dense", bidirectional=bidirectional)
    params, t = values(net), 3
    grad = jax.jit(jax.grad(lambda x: net.apply(params, zeros(net), x)[1][t].sum()))(vectors())
    assert net.causal is not bidirectional
    assert (np.abs(grad[: t + 1]).max(axis=(1, 2)) > 0).all()
    assert (np.abs(grad[t + 1 :]).max() > 0) == bidirectional


# Inputs


def test_one_hot_rows_are_gathered():
    gathered, dense = make(), make(input="dense")
    params, x = values(gathered), tokens()

    def loss(params, net, x):
        return (net.apply(params, zeros(net), x)[1] ** 2).sum()

    run_both = jax.jit(
        lambda params: (
            jax.value_and_grad(loss)(params, gathered, x),
            jax.value_and_grad(loss)(params, dense, jax.nn.one_hot(x, V, dtype=jnp.float64)),
        )
    )
    close(*run_both(params))


def test_an_embedding_is_a_factor_of_the_first_kernel():
    net, plain = make(input="embedding", embedding_size=3), make()
    params, x = values(net), tokens()
    first, *rest = params["layers"]
    folded = {"layers": [first | {"kernel_x": params["embedding"] @ first["kernel_x"]}, *rest]}
    folded["readout"] = params["readout"]
    close(run(net, params, x), run(plain, folded, x))


def test_the_gradient_of_a_tied_table_is_that_of_both_its_uses():
    options = {"input": "embedding", "embedding_size": H}
    tied, free = make(**options, tied=True), make(**options)
    params, x = values(tied), tokens()
    untied = params | {"readout": params["readout"] | {"kernel": params["embedding"].T}}

    def gradient(net, params):
        return jax.jit(jax.grad(lambda p: (net.apply(p, zeros(net), x)[1] ** 2).sum()))(params)

    found, wanted = gradient(tied, params), gradient(free, untied)
    entering, leaving = wanted["embedding"], wanted["readout"].pop("kernel").T
    assert jnp.abs(entering).max() > 0.1
    assert jnp.abs(leaving).max() > 0.1
    close(found, wanted | {"embedding": entering + leaving})


# Padding and resets


@pytest.mark.parametrize("name", ["bidirectional", "residual", "skip"])
def test_each_sequence_is_as_if_it_were_alone(name):
    net = make(**COMBINATIONS[name])
    params, x, lengths = values(net), tokens(), np.array([6, 2, 4])
    carry, outputs = run(net, params, x, lengths=jnp.asarray(lengths))
    masked = run(net, params, x, mask=jnp.asarray(np.arange(T)[:, None] < lengths))
    same(masked, (carry, outputs))
    for b, length in enumerate(lengths):
        alone, wanted = run(net, params, x[:length, b : b + 1])
        close(outputs[:length, b : b + 1], wanted)
        close(jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], carry), alone)


@pytest.mark.parametrize(("bidirectional", "training"), [(False, False), (True, True)])
def test_what_the_padding_holds_does_not_matter(bidirectional, training):
    net = make(
        cell="rnn",
        input="dense",
        bidirectional=bidirectional,
        residual=True,
        skip=True,
        input_dropout=0.3,
        dropout=0.3,
        output_dropout=0.3,
        cell_options={
            "recurrent_dropout": 0.3,
            "recurrent_dropout_on": "state",
            "zoneout": 0.2,
            "layer_norm": True,
        },
    )
    lengths = jnp.array([6, 2, 4])
    valid = jnp.arange(T)[:, None] < lengths
    noise = key() if training else None

    @jax.jit
    def everything(params, x):
        def loss(params, x):
            carry, outputs = net.apply(params, zeros(net), x, lengths=lengths, key=noise)
            terms = jnp.where(valid[..., None], outputs**2, 0.0)
            return terms.sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(carry))

        return jax.value_and_grad(loss, argnums=(0, 1))(params, x)

    x = vectors()
    clean = everything(values(net), jnp.where(valid[..., None], x, 0.0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
    for rubbish in (np.nan, np.inf, 1e300):
        same(everything(values(net), jnp.where(valid[..., None], x, rubbish)), clean)


def test_a_reset_starts_every_layer_anew():
    net = make(residual=True)
    params, x = values(net), tokens()
    carry = random_like(zeros(net), seed=1)
    reset = jnp.zeros((T, B), bool).at[4, 1].set(True)
    after, outputs = run(net, params, x, carry, reset=reset)
    through_after, through = run(net, params, x, carry)
    fresh_after, fresh = run(net, params, x[4:])
    close(outputs[:4], through[:4])
    for b, wanted, final in ((0, through[4:], through_after), (1, fresh, fresh_after)):
        close(outputs[4:, b], wanted[:, b])
        pick = lambda leaf, b=b: leaf[b]  # noqa: E731
        close(jax.tree.map(pick, after), jax.tree.map(pick, final))


# Dropout

RATE = 0.25
ALL_RATES = {"dropout": RATE, "input_dropout": RATE, "output_dropout": RATE}


@pytest.mark.parametrize("input", ["one_hot", "embedding", "dense"])
def test_dropout_is_off_in_evaluation(input):
    options = {"input": input, "embedding_size": 3 if input == "embedding" else 0}
    wet, dry = make(**options, **ALL_RATES), make(**options)
    params, x = values(dry), vectors() if input == "dense" else tokens()
    wanted = run(dry, params, x)
    same(run(wet, params, x), wanted)
    same(run(wet, params, x, key=None), wanted)
    same(run(dry, params, x, key=key()), wanted)
    carry, outputs = run(wet, params, x, key=key())
    assert (outputs != wanted[1]).all()
    same(run(wet, params, x, key=key()), (carry, outputs))
    assert (run(wet, params, x, key=key(1))[1] != outputs).any()


def glass(layers=1, time=20, batch=10, **options):
    """A model to look through, and inputs: outputs [T, B, L, H] show what every layer puts out.

    Each layer is tanh of its input, and the readout is the identity.
    """
    kinds = {"input": "dense", "input_size": H, "output_size": H * layers, "cell": "rnn"}
    net = make(**(kinds | {"layers": layers, "skip": True} | options))
    layer = {"kernel_x": jnp.eye(H), "kernel_h": jnp.zeros((H, H)), "bias": jnp.zeros(H)}
    readout = {"kernel": jnp.eye(H * layers), "bias": jnp.zeros(H * layers)}
    params = {"layers": [layer] * layers, "readout": readout}

    def look(x, key):
        _, outputs = run(net, params, x, key=key)
        return np.asarray(outputs).reshape(*outputs.shape[:2], layers, H)

    return look, vectors(time, batch, H)


def check_mask(kept, shared):
    """kept [T, B, H]: near its rate, one mask for all steps or one a step, and never the same twice."""
    if shared:
        assert (kept == kept[0]).all()
        kept = kept[:1]
    else:
        assert (kept[0] != kept[1]).any()
    assert (kept[:, 0] != kept[:, 1]).any()
    spread = np.sqrt(kept.size * RATE * (1 - RATE))
    assert abs(kept.sum() - kept.size * (1 - RATE)) < 4 * spread


both_kinds = pytest.mark.parametrize("shared", [False, True])


@both_kinds
def test_input_dropout_scales_what_it_keeps(shared):
    look, x = glass(input_dropout=RATE, dropout_shared=shared)
    entered = np.arctanh(look(x, key())[:, :, 0])
    kept = entered != 0
    np.testing.assert_allclose(entered, np.where(kept, x / (1 - RATE), 0), rtol=1e-6)
    check_mask(kept, shared)


@both_kinds
def test_output_dropout_scales_what_it_keeps(shared):
    look, x = glass(output_dropout=RATE, dropout_shared=shared)
    seen = look(x, key())[:, :, 0]
    kept = seen != 0
    np.testing.assert_allclose(seen, np.where(kept, np.tanh(x) / (1 - RATE), 0), rtol=1e-12)
    check_mask(kept, shared)


@both_kinds
def test_dropout_between_layers_is_another_one_in_each(shared):
    look, x = glass(layers=3, dropout=RATE, dropout_shared=shared, batch=30)
    one, two, three = np.moveaxis(look(x, key()), 2, 0)
    np.testing.assert_allclose(one, np.tanh(x), rtol=1e-12)
    first, second = two != 0, three != 0
    np.testing.assert_allclose(two, np.where(first, np.tanh(one / (1 - RATE)), 0), rtol=1e-12)
    # What the first mask dropped is 0 below the second one, which shows only elsewhere.
    np.testing.assert_allclose(three, np.where(second, np.tanh(two / (1 - RATE)), 0), rtol=1e-12)
    check_mask(first, shared)
    share = second[first].mean()
    assert abs(share - (1 - RATE)) < 4 * np.sqrt(RATE * (1 - RATE) / (first[0].sum()))


def test_what_a_residual_layer_adds_to_is_not_dropped():
    look, x = glass(layers=2, dropout=RATE, residual=True)
    one, two = np.moveaxis(look(x, key()), 2, 0)
    kept = np.abs(two - one) > 1e-9
    added = np.where(kept, np.tanh(one / (1 - RATE)), 0)
    np.testing.assert_allclose(two, one + added, rtol=1e-12)
    check_mask(kept, shared=False)


@both_kinds
def test_whole_characters_are_blanked_without_rescaling(shared):
    net = make(cell="rnn", layers=1, input_size=H, output_size=H, input_dropout=RATE)
    params = values(net)
    layer, readout = params["layers"][0], {"kernel": jnp.eye(H), "bias": jnp.zeros(H)}
    layer |= {"kernel_h": jnp.zeros((H, H))}
    x = tokens(20, 10) % H
    _, outputs = run(net, {"layers": [layer], "readout": readout}, x, key=key())
    bias = np.asarray(layer["bias"])
    seen = np.abs(outputs - np.tanh(layer["kernel_x"][x] + bias)).max(axis=2) < 1e-12
    blank = np.abs(outputs - np.tanh(bias)).max(axis=2) < 1e-12
    assert (seen ^ blank).all()
    assert abs(blank.mean() - RATE) < 4 * np.sqrt(RATE * (1 - RATE) / blank.size)


@pytest.mark.parametrize(
    "options", [{"input_dropout": RATE}, {"input": "embedding", "embedding_size": 3}]
)
def test_tokens_may_be_integers_of_any_type(options):
    net = make(input_size=256, cell="rnn", layers=1, **options)
    params, x = values(net), 51 * tokens()
    assert x.max() > 127
    wanted = run(net, params, x, key=key())
    for dtype in (np.uint8, np.int16):
        same(run(net, params, x.astype(dtype), key=key()), wanted)


def test_noise_inside_the_cells_differs_between_layers_and_directions():
    net = make(
        cell="rnn",
        input="dense",
        input_size=H,
        bidirectional=True,
        skip=True,
        output_size=4 * H,
        cell_options={"recurrent_dropout": 0.5, "recurrent_dropout_on": "state"},
    )
    # What a layer adds to its input, the forward half of the layer below, is its masked state.
    half = {"kernel_h": jnp.eye(H), "bias": jnp.zeros(H)}
    layers = []
    for width in (H, 2 * H):
        layer = half | {"kernel_x": jnp.eye(width, H)}
        layers.append({"forward": layer, "backward": layer})
    params = {"layers": layers, "readout": {"kernel": jnp.eye(4 * H), "bias": jnp.zeros(4 * H)}}
    x = 0.1 + 0.01 * vectors(size=H)
    _, outputs = run(net, params, x, key=key())
    below, masks = x, []
    for y in np.split(np.asarray(outputs), 2, axis=2):
        forward, backward = np.split(y, 2, axis=2)
        masks.append((np.abs(np.arctanh(forward) - below) > 1e-6)[1:-1])
        masks.append((np.abs(np.arctanh(backward) - below) > 1e-6)[1:-1])
        below = forward
    for mask in masks:
        assert 0.2 < mask.mean() < 0.8
    for a, b in itertools.combinations(masks, 2):
        assert (a != b).any()


# Gradients


def cross_entropy(net, x, targets, **options):
    def loss(params):
        _, logits = net.apply(params, zeros(net, x.shape[1]), x, **options)
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, targets[..., None], axis=2).mean()

    return loss


@pytest.mark.parametrize(
    "options",
    [
        {"cell": "lstm"},
        {"cell": "gru", "input": "embedding", "embedding_size": 3, "tied": True, "residual": True},
        {"cell": "ugrnn", "bidirectional": True, "skip": True, "remat": True},
    ],
    ids=["lstm", "tied-residual-gru", "bidirectional-remat-ugrnn"],
)
def test_gradient_against_central_differences(options):
    net = make(hidden=3, **options)
    flat, unravel = ravel_pytree(values(net))
    loss = cross_entropy(net, tokens(), tokens(seed=1))
    step = 1e-5

    @jax.jit
    def both(flat):
        moves = step * jnp.eye(len(flat))
        losses = jax.vmap(lambda move: loss(unravel(flat + move)))
        differences = (losses(moves) - losses(-moves)) / (2 * step)
        return jax.grad(lambda flat: loss(unravel(flat)))(flat), differences

    gradient, differences = both(flat)
    assert jnp.abs(gradient).max() > 1e-2
    np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_rematerialisation_changes_nothing():
    options = {"cell": "rnn", "cell_options": {"zoneout": 0.2}} | ALL_RATES
    x, targets, lengths = tokens(7), tokens(7, seed=1), jnp.array([7, 3, 5])
    results = []
    for remat in (False, True):
        net = make(remat=remat, **options)
        loss = cross_entropy(net, x, targets, lengths=lengths, key=key())
        program = jax.jit(jax.value_and_grad(loss))
        results.append(program(values(net)))
        kept = str(jax.make_jaxpr(jax.grad(loss))(values(net)))
        assert ("remat" in kept or "checkpoint" in kept) == remat
    close(*results)


def test_products_in_bfloat16_are_near_and_sums_stay():
    half, full = make(precision="bf16"), make()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), values(full))
    carry, outputs = run(half, params, tokens(), half.carry(B))
    assert {leaf.dtype for leaf in jax.tree.leaves((carry, outputs))} == {np.dtype(np.float32)}
    wanted = run(full, params, tokens(), full.carry(B))
    close((carry, outputs), wanted, 3e-2)
    assert (outputs != wanted[1]).all()
    # The readout's product too: what goes into it is the same, so it is not exact either.
    alone = params | {"layers": jax.tree.map(jnp.zeros_like, params["layers"])}
    alone["layers"][1]["bias"] = params["layers"][1]["bias"]
    assert (
        run(half, alone, tokens(), half.carry(B))[1] != run(full, alone, tokens(), full.carry(B))[1]
    ).any()


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "model.layers must be in .1, 256., got 0"),
        ({"hidden": 0}, "at least 1 hidden unit, got 0"),
        (
            {"input": "onehot"},
            "model.input must be 'one_hot', 'embedding' or 'dense', got 'onehot'",
        ),
        ({"input": "embedding"}, "set model.embedding_size to at least 1"),
        ({"dropout": 1.0}, r"model.dropout must be in \[0, 1\), got 1.0"),
        ({"input_dropout": -0.1}, r"model.input_dropout must be in \[0, 1\), got -0.1"),
        ({"output_dropout": float("nan")}, r"model.output_dropout must be in \[0, 1\), got nan"),
        ({"tied": True}, "model.tied needs model.input 'embedding' with model.embedding_size 4"),
        (
            {"tied": True, "input": "embedding", "embedding_size": 5, "bidirectional": True},
            "with model.embedding_size 8, .* it is 'embedding' with 5",
        ),
        ({"cell": "lstmm"}, "unknown cell 'lstmm': did you mean 'lstm'"),
        ({"preset": "pytorch"}, "no preset 'pytorch'"),
        ({"cell_options": {"peephole": True}}, "no option 'peephole': did you mean 'peepholes'"),
        ({"readout_init": "glorot"}, "unknown initialisation 'glorot'"),
        ({"readout_init": "uniform"}, "needs a number"),
        ({"precision": "bf61"}, "unknown precision 'bf61': did you mean 'bf16'"),
        ({"cell_options": {"precision": "bf16"}}, "set model.precision"),
        ({"cell_options": {"hidden": 7}}, "model.hidden"),
        ({"hidden": None}, "cell 'lstm' needs the option 'hidden'"),
        ({"cell": GIVEN, "hidden": 7}, "'gru' is made already, with 3 units"),
        ({"cell": GIVEN, "hidden": None, "preset": "torch"}, "'gru' is made already"),
        ({"cell": GIVEN, "hidden": None, "precision": "tf32"}, "in precision 'bf16', not 'tf32'"),
    ],
)
def test_a_mistake_is_told_in_one_line(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        make(**options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
