import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab import cells
from rnnlab.errors import UsageError
from rnnlab.models import interop
from rnnlab.recurrence.unrolling import unroll

T, B, D, H = 5, 3, 2, 4
LENGTHS = np.array([5, 2, 4])
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
FLAX = {
    "LSTMCell": ("lstm", nnx.LSTMCell),
    "OptimizedLSTMCell": ("lstm", nnx.OptimizedLSTMCell),
    "GRUCell": ("gru", nnx.GRUCell),
    "SimpleCell": ("rnn", functools.partial(nnx.SimpleCell, dtype=jnp.float64)),
}


pytestmark = pytest.mark.usefixtures("float64")


def make_state(cell, *, layers=1, bidirectional=False, bias=True, dtype=np.float64):
    rng, state, width = np.random.default_rng(0), {}, GATES[cell] * H
    for k in range(layers):
        size = D if k == 0 else H * (1 + bidirectional)
        for end in ["", "_reverse"][: 1 + bidirectional]:
            shapes = {"weight_ih": (width, size), "weight_hh": (width, H)}
            if bias:
                shapes |= {"bias_ih": (width,), "bias_hh": (width,)}
            for name, shape in shapes.items():
                state[f"{name}_l{k}{end}"] = rng.uniform(-0.7, 0.7, shape).astype(dtype)
                state[f"{name}_l{k}{end}"][0] *= -0.0
    return state


def make_params(cell, dtype=np.float64):
    """Parameters in the shapes of `cell.init`, drawn at less cost."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
    return jax.tree.map(
        lambda a: jax.device_put(rng.uniform(-0.7, 0.7, a.shape).astype(dtype)), shapes
    )


def make_inputs(*, layers=1, bidirectional=False, fields=1):
    rng = np.random.default_rng(1)
    return rng.normal(size=(T, B, D)), rng.normal(size=(fields, layers * (1 + bidirectional), B, H))


def run_stack(cell, layers, x, start, lengths):
    """Layers as `from_torch` makes them; `start` and the final carry are [fields, layers, B, H]."""
    zero, final, count = cell.carry(B, x.dtype), [], 0
    for layer in layers:
        outputs = []
        for name in ("forward", "backward") if "forward" in layer else (None,):
            # PyTorch's h comes first, a carry's h last.
            carry = type(zero)(*start[::-1, count])
            params = layer if name is None else layer[name]
            reverse, count = name == "backward", count + 1
            carry, y = unroll(cell, params, x, carry, lengths=lengths, reverse=reverse)
            final.append(jnp.stack(carry[::-1]))
            outputs.append(y)
        x = jnp.concatenate(outputs, -1)
    return x, jnp.stack(final, 1)


RUN = jax.jit(run_stack, static_argnums=0)


def torch_oracle(cell, state, x, start, lengths, act=np.tanh):
    """The equations in the documentation of torch.nn.RNN, GRU and LSTM, in NumPy, step by step."""

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    sides, layers = 1 + ("weight_hh_l0_reverse" in state), start.shape[1]
    finals, outputs = [], []
    for index in range(layers):
        k, end = index // sides, f"_l{index // sides}" + "_reverse" * (index % sides)
        if index % sides == 0:
            inputs, outputs = (x if k == 0 else np.concatenate(outputs, -1)), []
        w_i, w_h = state["weight_ih" + end], state["weight_hh" + end]
        b_i = state.get("bias_ih" + end, np.zeros(len(w_i)))
        b_h = state.get("bias_hh" + end, np.zeros(len(w_i)))
        y, last = np.zeros((T, B, H)), np.zeros((len(start), B, H))
        for b in range(B):
            h, c = start[0, index, b], start[-1, index, b]
            steps = range(lengths[b])
            for t in reversed(steps) if index % sides else steps:
                i, r = w_i @ inputs[t, b] + b_i, w_h @ h + b_h
                if cell == "rnn":
                    h = act(i + r)
                elif cell == "gru":
                    (i_r, i_z, i_n), (h_r, h_z, h_n) = i.reshape(3, H), r.reshape(3, H)
                    z = sigmoid(i_z + h_z)
                    h = (1 - z) * np.tanh(i_n + sigmoid(i_r + h_r) * h_n) + z * h
                else:
                    g_i, g_f, g_g, g_o = (i + r).reshape(4, H)
                    c = sigmoid(g_f) * c + sigmoid(g_i) * np.tanh(g_g)
                    h = sigmoid(g_o) * np.tanh(c)
                y[t, b] = h
            last[:, b] = [h, c][: len(start)]
        outputs.append(y)
        finals.append(last)
    return np.concatenate(outputs, -1), np.stack(finals, 1)


def close(a, b, atol):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=atol), a, b)


def shapes(tree):
    return jax.tree.map(np.shape, tree)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert left.tobytes() == right.tobytes()


# PyTorch


@pytest.mark.parametrize(
    ("cell", "layers", "bidirectional", "bias"),
    [
        ("rnn", 2, False, True),
        ("gru", 2, True, True),
        ("lstm", 2, True, True),
        ("gru", 1, False, 0),
    ],
)
def test_from_torch_agrees_with_torch_equations_in_numpy(cell, layers, bidirectional, bias):
    state = make_state(cell, layers=layers, bidirectional=bidirectional, bias=bias)
    x, start = make_inputs(layers=layers, bidirectional=bidirectional, fields=1 + (cell == "lstm"))
    ours = cells.get(cell, hidden=H, preset="torch")
    found = RUN(ours, interop.from_torch(state, cell=cell), x, start, LENGTHS)
    close(found, torch_oracle(cell, state, x, start, LENGTHS), 1e-12)


@pytest.mark.parametrize(
    ("kind", "layers", "bidirectional"),
    [
        *(("tanh", 1, False), ("tanh", 2, True), ("relu", 3, False)),
        *(("gru", 1, False), ("gru", 2, True), ("gru", 3, False)),
        *(("lstm", 1, False), ("lstm", 2, True), ("lstm", 3, False)),
    ],
)
def test_torch_forward_and_gradients(kind, layers, bidirectional):
    torch = pytest.importorskip("torch")
    cell = kind if kind in GATES else "rnn"
    options = {"nonlinearity": kind} if cell == "rnn" else {}
    module = getattr(torch.nn, cell.upper())(
        D, H, num_layers=layers, bidirectional=bidirectional, dtype=torch.float64, **options
    )
    state = make_state(cell, layers=layers, bidirectional=bidirectional)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    x, start = make_inputs(layers=layers, bidirectional=bidirectional, fields=1 + (cell == "lstm"))
    lengths = None if layers == 1 else LENGTHS  # whole sequences, and packed ones
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(T, B, H * (1 + bidirectional))), rng.normal(size=start.shape)

    x_t, start_t = (torch.tensor(a, requires_grad=True) for a in (x, start))
    state_t = (start_t[0], start_t[1]) if cell == "lstm" else start_t[0]
    if lengths is None:
        y_t, final_t = module(x_t, state_t)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x_t, lengths, enforce_sorted=False)
        packed, final_t = module(packed, state_t)
        y_t, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, total_length=T)
    final_t = torch.stack(final_t) if cell == "lstm" else final_t[None]
    w_y, w_final = (torch.from_numpy(w) for w in weights)
    ((y_t * w_y).sum() + (final_t * w_final).sum()).backward()

    options = {"activation": kind} if cell == "rnn" else {}
    ours = cells.get(cell, hidden=H, preset="torch", **options)

    def loss(params, x, start):
        found = run_stack(ours, params, x, start, lengths)
        return sum(jnp.sum(a * w) for a, w in zip(found, weights, strict=True)), found

    params = interop.from_torch(module.state_dict(), cell=cell)
    gradients, found = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(params, x, start)
    close(found, (y_t.detach().numpy(), final_t.detach().numpy()), 1e-12)
    wanted = {name: p.grad.numpy() for name, p in module.named_parameters()}
    close(interop.to_torch(gradients[0], cell=cell), wanted, 1e-10)
    close(gradients[1:], (x_t.grad.numpy(), start_t.grad.numpy()), 1e-10)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_torch_round_trip_keeps_bits(cell, dtype):
    state = make_state(cell, layers=3, bidirectional=True, dtype=dtype)
    renamed = {f"rnn.{name}": array for name, array in state.items()} | {"head.weight": np.ones(1)}
    layers = interop.from_torch(renamed, cell=cell, prefix="rnn.")
    equal(interop.to_torch(layers, cell=cell), state)
    fresh = make_params(cells.get(cell, hidden=H, preset="torch"), dtype)
    equal(shapes(layers[0]["forward"]), shapes(fresh))
    equal(interop.from_torch(interop.to_torch([fresh], cell=cell), cell=cell), [fresh])


def test_from_torch_copies_and_to_torch_is_writable():
    state = make_state("gru")
    layers = interop.from_torch(state, cell="gru")
    before = jax.tree.map(np.array, layers)
    for array in state.values():
        array += 1.0
    equal(jax.tree.map(np.asarray, layers), before)
    assert all(a.flags.writeable and a.flags.c_contiguous for a in state.values())
    for array in interop.to_torch(layers, cell="gru").values():
        assert array.flags.writeable
        assert array.flags.c_contiguous


def test_to_torch_of_a_cell_with_one_bias_has_zeros():
    params = make_params(cells.get("lstm", hidden=H))
    state = interop.to_torch([params], cell="lstm", hidden=H, recurrent_dropout=0.1)
    np.testing.assert_array_equal(state["bias_hh_l0"], np.zeros(4 * H))
    x, start = make_inputs(fields=2)
    found = RUN(cells.get("lstm", hidden=H), [params], x, start, None)
    close(found, torch_oracle("lstm", state, x, start, [T] * B), 1e-12)


def without(state, *names):
    return {name: array for name, array in state.items() if name not in names}


@pytest.mark.parametrize(
    ("state", "cell", "message"),
    [
        (without(make_state("gru"), "bias_hh_l0"), "gru", "no 'bias_hh_l0', .* shape \\[12\\]"),
        (without(make_state("gru"), "weight_ih_l0"), "gru", "no 'weight_ih_l0', .* \\[12, D\\]"),
        ({}, "rnn", "no 'weight_hh_l0', .* \\[1\\*H, H\\]"),
        (make_state("gru"), "lstm", "'weight_hh_l0' has shape \\[12, 4\\], expected \\[16, 4\\]"),
        (
            make_state("rnn", layers=2) | {"weight_ih_l1": np.ones((4, 3))},
            "rnn",
            "'weight_ih_l1' has shape \\[4, 3\\], expected \\[4, 4\\]",
        ),
        (
            make_state("rnn", bidirectional=True) | {"weight_ih_l0_reverse": np.ones((4, 3))},
            "rnn",
            "'weight_ih_l0_reverse' has shape \\[4, 3\\], expected \\[4, 2\\]",
        ),
        (
            without(make_state("rnn", layers=3), "weight_hh_l1"),
            "rnn",
            "no 'weight_hh_l1', .* \\[4, 4\\]",
        ),
        ({"weight_hh_l0": np.ones(3)}, "rnn", "shape \\[3\\], expected \\[1\\*H, H\\]"),
        (make_state("lstm") | {"weight_hr_l0": np.ones((1, 4))}, "lstm", "projections"),
        (make_state("lstm") | {"head.weight": np.ones(1)}, "lstm", "'head.weight' .* set prefix"),
        (make_state("rnn"), "ugrnn", "torch has no cell 'ugrnn': it has rnn, gru, lstm"),
    ],
)
def test_from_torch_errors(state, cell, message):
    with pytest.raises(UsageError, match=message) as error:
        interop.from_torch(state, cell=cell)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        ("lstm", {"peepholes": True}, "cannot express peepholes"),
        ("lstm", {"layer_norm": True}, "cannot express layer norm"),
        ("rnn", {"layer_norm": True}, "cannot express layer norm"),
        ("gru", {"reset": "before"}, "cannot express a reset gate before"),
        ("gru", {"zoneout": 0.1}, "cannot express zoneout"),
        ("ugrnn", {}, "has no cell 'ugrnn'"),
    ],
)
def test_export_of_what_a_library_lacks(cell, options, message):
    params = make_params(cells.get(cell, hidden=H, **options))
    for export in (
        lambda: interop.to_torch([params], cell=cell, **options),
        lambda: interop.to_flax(params, cell=cell, **options),
    ):
        with pytest.raises(UsageError, match=message) as error:
            export()
        assert "\n" not in str(error.value)


def test_export_errors():
    params = make_params(cells.get("gru", hidden=H, preset="torch"))
    with pytest.raises(UsageError, match=r"'kernel_x' has shape \[2, 11\], expected \[D, 12\]"):
        interop.to_torch([params | {"kernel_x": np.ones((D, 11))}], cell="gru")
    with pytest.raises(UsageError, match=r"no 'bias', expected with shape \[12\]"):
        interop.to_flax(without(params, "bias"), cell="gru")
    with pytest.raises(UsageError, match="no option 'resett': did you mean 'reset'"):
        interop.to_torch([params], cell="gru", resett="before")
    with pytest.raises(UsageError, match="list of layers"):
        interop.to_torch(params, cell="gru")
    with pytest.raises(UsageError, match="second bias on the candidate"):
        interop.to_flax(params, cell="gru")


# Flax


def flax_cell(kind, dtype=np.float64):
    """A Flax cell of random parameters, biases too: Flax starts those at zero."""
    cell, make = FLAX[kind]
    zeros = nnx.initializers.zeros
    options = {"kernel_init": zeros, "recurrent_kernel_init": zeros, "param_dtype": dtype}
    module, rng = make(D, H, rngs=nnx.Rngs(0), **options), np.random.default_rng(0)
    for _, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        values = rng.uniform(-0.7, 0.7, leaf.shape).astype(dtype)
        values[..., 0] = -0.0  # a sum with zero would lose its sign
        leaf[...] = jax.device_put(values)
    return cell, module


@pytest.mark.parametrize("kind", FLAX)
def test_flax_forward_and_gradients(kind):
    name, module = flax_cell(kind)
    cell, params = cells.get(name, hidden=H, preset="flax"), interop.from_flax(module, cell=name)
    x, _ = make_inputs()
    weights = np.random.default_rng(2).normal(size=(T, B, H))

    def flax_loss(rnn):
        carry, y = rnn(jnp.asarray(x), time_major=True, return_carry=True)
        return jnp.sum(y * weights), (jax.tree.leaves(carry), y)

    def our_loss(params):
        carry, y = unroll(cell, params, x)
        return jnp.sum(y * weights), (list(carry), y)

    rnn = nnx.RNN(module)
    gradient, wanted = nnx.jit(nnx.grad(flax_loss, has_aux=True))(rnn)
    our_gradient, found = jax.jit(jax.grad(our_loss, has_aux=True))(params)
    close(found, wanted, 1e-12)
    close(our_gradient, interop.from_flax(gradient, cell=name), 1e-10)
    equal(interop.from_flax(rnn, cell=name), params)


@pytest.mark.parametrize("kind", FLAX)
def test_flax_round_trip_keeps_bits(kind):
    name, module = flax_cell(kind, dtype=np.float32)
    tree = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    params = interop.from_flax(module, cell=name)
    back = interop.to_flax(params, cell=name, optimized=kind == "OptimizedLSTMCell")
    equal(back, tree)
    fresh = make_params(cells.get(name, hidden=H, preset="flax"), np.float32)
    nnx.update(module, interop.to_flax(fresh, cell=name, optimized=kind == "OptimizedLSTMCell"))
    equal(interop.from_flax(module, cell=name), fresh)


@pytest.mark.parametrize("cell", GATES)
def test_to_flax_adds_a_second_bias(cell):
    (params,) = interop.from_torch(make_state(cell), cell=cell)
    if cell == "gru":
        params["bias_h"] = np.append(params["bias_h"][: 2 * H], np.zeros(H))
    module = {"rnn": "SimpleCell", "gru": "GRUCell", "lstm": "LSTMCell"}[cell]
    _, module = flax_cell(module)
    nnx.update(module, interop.to_flax(params, cell=cell))
    x, _ = make_inputs()
    _, wanted = unroll(cells.get(cell, hidden=H, preset="torch"), params, x)
    close(nnx.RNN(module)(x, time_major=True), wanted, 1e-12)


def test_from_flax_errors():
    _, module = flax_cell("GRUCell")
    state = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    with pytest.raises(UsageError, match=r"no 'dense_i/bias', expected with shape \[12\]"):
        interop.from_flax(state | {"dense_i": {"kernel": np.ones((D, 12))}}, cell="gru")
    with pytest.raises(
        UsageError, match=r"'dense_h/kernel' has shape \[4, 12\], expected \[4, 4\]"
    ):
        interop.from_flax(module, cell="rnn")
    with pytest.raises(UsageError, match="flax has no cell 'ugrnn'"):
        interop.from_flax(module, cell="ugrnn")
    with pytest.raises(UsageError, match="residual"):
        interop.from_flax(nnx.SimpleCell(D, H, residual=True, rngs=nnx.Rngs(0)), cell="rnn")


# Any cell inside nnx.RNN


def adapt(cell, **options):
    options = {"params": make_params(cell)} | options
    return interop.FlaxCell(cell, D, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("name", cells.names())
def test_adapter_agrees_with_unroll(name):
    cell = cells.get(name, hidden=H)
    rnn = nnx.RNN(adapt(cell), return_carry=True, keep_order=True)
    params = rnn.cell.to_params()
    equal(params, make_params(cell))
    assert len(jax.tree.leaves(nnx.state(rnn.cell))) == len(jax.tree.leaves(params))
    x, _ = make_inputs()
    weights = np.random.default_rng(2).normal(size=(T, B, H))
    start = jax.tree.map(lambda a: a + 0.1, cell.carry(B, np.float64))

    def flax_loss(rnn, x, start):
        carry, y = rnn(x, initial_carry=start, seq_lengths=LENGTHS, reverse=True, time_major=True)
        y = jnp.where(np.arange(T)[:, None, None] < LENGTHS[:, None], y, 0)
        return jnp.sum(y * weights), (carry, y)

    def our_loss(params, x, start):
        carry, y = unroll(cell, params, x, start, lengths=LENGTHS, reverse=True)
        return jnp.sum(y * weights), (carry, y)

    flax_grad = nnx.jit(nnx.grad(flax_loss, has_aux=True))
    gradient, found = flax_grad(rnn, jnp.asarray(x), start)
    wanted_gradient, wanted = jax.jit(jax.grad(our_loss, has_aux=True))(params, x, start)
    close(found, wanted, 1e-12)
    close(nnx.to_pure_dict(gradient)["cell"]["params"], wanted_gradient, 1e-10)

    carry, y = rnn(x.swapaxes(0, 1))
    close((carry, y.swapaxes(0, 1)), unroll(cell, params, x), 1e-12)


OPTIONS = [
    ("gru", {"reset": "before", "layer_norm": True}),
    ("lstm", {"peepholes": True, "layer_norm": True, "precision": "bf16"}),
    ("rnn", {"activation": "relu", "hidden_bias": True, "zoneout": 0.2}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_adapter_takes_every_option(name, options):
    cell = cells.get(name, hidden=H, **options)
    params = make_params(cell, np.float32)
    adapted = interop.FlaxCell(cell, D, rngs=nnx.Rngs(0), params=params, deterministic=True)
    x = make_inputs()[0].astype(np.float32)
    rnn = nnx.RNN(adapted, time_major=True, return_carry=True)
    carry, y = nnx.jit(lambda rnn, x: rnn(x))(rnn, x)
    close((carry, y), jax.jit(functools.partial(unroll, cell))(params, x), 1e-6)
    assert y.dtype == jnp.float32


def test_adapter_any_number_of_batch_axes():
    adapted = adapt(cells.get("lstm", hidden=H))
    assert adapted.num_feature_axes == 1
    x = np.random.default_rng(0).normal(size=(2, B, T, D))
    y = nnx.RNN(adapted)(x)
    close(y.reshape(2 * B, T, H), nnx.RNN(adapted)(x.reshape(2 * B, T, D)), 1e-12)
    close(nnx.RNN(adapted)(x[1, 2]), y[1, 2], 1e-12)


NOISY = {
    "recurrent_dropout": 0.4,
    "recurrent_dropout_on": "state",
    "recurrent_dropout_shared": True,
    "zoneout": 0.3,
}


def test_adapter_noise_per_step_and_shared():
    cell = cells.get("lstm", hidden=H, **NOISY)
    adapted = adapt(cell)
    twin, params = nnx.clone(adapted), adapted.to_params()
    draw = jax.jit(cell.noise, static_argnums=(1, 2))
    x, _ = make_inputs()
    rnn = nnx.RNN(adapted, time_major=True)
    y = rnn(x)

    @jax.jit
    def advance(params, carry, x, noise):
        z = jax.tree.map(lambda a: a[0], cell.project(params, x, noise))
        return cell.step(params, carry, z)

    carry, wanted, keeps, zones = twin.initialize_carry((B, D)), [], [], []
    for t in range(T):
        noise = draw(twin.rngs(), 1, B)._replace(keep=draw(twin.key[...], 1, B).keep)
        carry, y_t = advance(params, carry, x[t][None], noise)
        wanted.append(y_t)
        keeps.append(np.asarray(noise.keep[0]))
        zones.append(np.asarray(noise.zone.h[0]))
    close(y, jnp.stack(wanted), 1e-12)
    assert (np.array(keeps) == keeps[0]).all()
    assert not (np.array(zones) == zones[0]).all()

    key = adapted.key[...]
    again = rnn(x, initial_carry=cell.carry(B, jnp.float64))
    assert adapted.key[...] == key  # the sequence goes on
    assert np.abs(again - y).max() > 1e-3
    rnn(x)
    assert adapted.key[...] != key  # a new one starts


def drawn(adapted):
    """The state of the noise, in NumPy."""
    stream = adapted.rngs
    keys = [np.asarray(jax.random.key_data(k[...])) for k in (adapted.key, stream.key)]
    return [*keys, np.asarray(stream.count[...])]


def test_adapter_evaluation_draws_nothing():
    cell = cells.get("gru", hidden=H, **NOISY)
    adapted = adapt(cell)
    x, _ = make_inputs()
    view = nnx.view(nnx.RNN(adapted, time_major=True), deterministic=True)
    before = drawn(adapted)
    _, wanted = unroll(cell, adapted.to_params(), x)
    close(view(x), wanted, 1e-12)
    assert not adapted.deterministic
    rnn = nnx.RNN(adapted, time_major=True)
    rnn.eval()
    close(rnn(x), wanted, 1e-12)
    equal(drawn(adapted), before)


def test_adapter_trains_under_nnx_jit_and_split_state():
    x, _ = make_inputs()
    target = np.random.default_rng(2).normal(size=(T, B, H)) / 4
    rnn = nnx.RNN(adapt(cells.get("lstm", hidden=H, **NOISY)), time_major=True)

    def loss(rnn):
        return jnp.mean((rnn(x) - target) ** 2)

    @nnx.jit
    def train(rnn):
        value, gradient = nnx.value_and_grad(loss)(rnn)
        params = nnx.state(rnn, nnx.Param)
        nnx.update(rnn, jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient))
        return value

    evaluate = nnx.jit(nnx.value_and_grad(loss))
    rnn.eval()
    before, gradient = evaluate(rnn)
    graph, params, rest = nnx.split(rnn, nnx.Param, ...)
    merged = jax.jit(jax.grad(lambda p: loss(nnx.merge(graph, p, rest, copy=True))))(params)
    close(nnx.to_pure_dict(merged), nnx.to_pure_dict(gradient), 1e-12)
    rnn.train()
    values = [float(train(rnn)) for _ in range(20)]
    assert len(set(values)) == 20  # each step draws its own noise
    rnn.eval()
    assert evaluate(rnn)[0] < 0.9 * before


def test_adapter_made_inside_a_transformation():
    cell = cells.get("lstm", hidden=H, **NOISY)
    made = nnx.jit(lambda: adapt(cell))()
    equal(made.shared, adapt(cell).shared)
    assert made.shared == (True, False, False)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_adapter_draws_its_own_parameters(dtype):
    cell = cells.get("rnn", hidden=H)
    adapted = adapt(cell, params=None, param_dtype=dtype)
    equal(adapted.to_params(), cell.init(nnx.Rngs(0).params(), D, dtype))
    assert adapted.initialize_carry((B, D)).h.dtype == dtype


def test_adapter_errors():
    cell = cells.get("gru", hidden=H)
    params = make_params(cell)
    with pytest.raises(UsageError, match=r"'kernel_x' has shape \[2, 12\], expected \[3, 12\]"):
        interop.FlaxCell(cell, 3, rngs=nnx.Rngs(0), params=params)
    with pytest.raises(UsageError, match="no 'bias'"):
        adapt(cell, params=without(params, "bias"))
    with pytest.raises(UsageError, match="there is no 'bias_h'"):
        adapt(cell, params=params | {"bias_h": params["bias"]})
    with pytest.raises(UsageError, match="initial_carry"):
        adapt(cell).initialize_carry((B, D), nnx.Rngs(0), nnx.initializers.ones)


# Presets


def fresh(cell, preset):
    init = cells.get(cell, hidden=64, preset=preset).init
    params = jax.jit(init, static_argnums=(1, 2))(jax.random.key(0), 48, np.float32)
    return jax.tree.map(np.asarray, params)


@pytest.mark.parametrize("cell", GATES)
def test_torch_preset_is_torch_reset_parameters(cell):
    limit = 0.125
    params = fresh(cell, "torch")
    state = interop.to_torch([params], cell=cell)
    states = [state]
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.manual_seed(0)
        module = getattr(torch.nn, cell.upper())(48, 64)
        states.append({name: np.asarray(p) for name, p in module.state_dict().items()})
        equal(*map(shapes, states))
    for array in (array for s in states for array in s.values()):
        assert np.abs(array).max() <= limit
        assert np.abs(array).max() > 0.95 * limit
        assert abs(array.std() * 3**0.5 / limit - 1) < (0.05 if array.ndim == 2 else 0.25)
    assert not np.array_equal(state["bias_ih_l0"], state["bias_hh_l0"])


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "SimpleCell"])
def test_flax_preset_is_how_flax_cells_start(kind):
    name, make = FLAX[kind]
    module = make(48, 64, rngs=nnx.Rngs(0))
    ours = fresh(name, "flax")
    theirs = jax.tree.map(np.asarray, interop.from_flax(module, cell=name))
    equal(shapes(ours), shapes(theirs))
    for params in (ours, theirs):
        np.testing.assert_array_equal(params["bias"], 0.0)
        assert abs(params["kernel_x"].std() * 48**0.5 - 1) < 0.03  # LeCun: variance 1 / D
        # A normal distribution cut off at two deviations, of those before the cut.
        assert 1.9 < np.abs(params["kernel_x"]).max() * 48**0.5 * 0.87962566 <= 2.0
        blocks = 4 if kind == "LSTMCell" else 1  # LSTMCell draws each gate by itself
        for kernel in np.split(params["kernel_h"], blocks, axis=1):
            close(kernel @ kernel.T, np.eye(64), 1e-5)


@pytest.mark.parametrize("cell", GATES)
def test_keras_preset_is_what_its_documentation_says(cell):
    params = fresh(cell, "keras")
    bias = np.zeros((GATES[cell], 64))
    if cell == "lstm":
        bias[1] = 1.0  # unit_forget_bias=True
    np.testing.assert_array_equal(params["bias"], bias.ravel())
    assert ("bias_h" in params) == (cell == "gru")  # reset_after=True has two biases
    np.testing.assert_array_equal(params.get("bias_h", 0.0), 0.0)
    limit = (6 / (48 + GATES[cell] * 64)) ** 0.5  # glorot_uniform, the gates fused
    assert 0.98 * limit < np.abs(params["kernel_x"]).max() <= limit
    close(params["kernel_h"] @ params["kernel_h"].T, np.eye(64), 1e-5)  # orthogonal, fused
