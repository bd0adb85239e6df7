"""Reading models whose units are known, and the page that is made of it."""

import base64
import html.parser
import itertools
import json
import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.data.vocabulary import Vocabulary
from rnnlab.diagnose import context, labels, page, ranking, reading
from rnnlab.errors import UsageError
from tests.diagnose.by_hand import net_of

pytestmark = pytest.mark.usefixtures("strict_dtypes")

BYTES = Vocabulary("byte", tuple(range(256)))
SMALL = {"top": 3, "shifts": 20, "longest": 3, "positions": 30, "shown": 300}


def vocabulary_of(text):
    return Vocabulary("char", tuple(sorted(set(text))))


def prose(length, seed=0):
    """Lines of words, with nested parentheses."""
    random, pieces, depth = np.random.default_rng(seed), [], 0
    while len(pieces) < length:
        pieces += random.choice(list("abcdefgh"), random.integers(1, 7)).tolist()
        chance = random.random()
        if chance < 0.12:
            pieces += " ("
            depth += 1
        elif chance < 0.3 and depth:
            pieces.append(")")
            depth -= 1
        pieces.append("\n" if random.random() < 0.1 else " ")
    return "".join(pieces[:length])


def constructed(vocabulary):
    """An rnn with relu whose unit 17 counts open parentheses and whose unit 5 counts the characters
    of a line, by construction; 22 others are random and know of neither."""
    net, params = net_of(
        vocabulary.size, cell="rnn", hidden=24, cell_options={"activation": "relu"}
    )
    (layer,) = params["layers"]
    assert {name: leaf.shape for name, leaf in layer.items()} == {
        "kernel_x": (vocabulary.size, 24),
        "kernel_h": (24, 24),
        "bias": (24,),
    }
    x, h = np.array(layer["kernel_x"]), np.array(layer["kernel_h"]) / 12
    x[vocabulary.encode("(")] = x[vocabulary.encode(")")] = 0.3
    x[vocabulary.encode("\n")] = 0.3
    for unit in (17, 5):
        h[unit] = h[:, unit] = 0.0
        h[unit, unit] = 1.0
    x[:, 17], x[:, 5] = 0.0, 1.0
    x[vocabulary.encode("("), 17], x[vocabulary.encode(")"), 17] = 1.0, -1.0
    x[vocabulary.encode("\n"), 5] = -1000.0
    bias = np.array(layer["bias"])
    bias[[5, 17]] = 0.0
    layer |= {"kernel_x": jnp.array(x), "kernel_h": jnp.array(h), "bias": jnp.array(bias)}
    return net, params


# Reading


@pytest.mark.parametrize("window", [1, 7, 50, 64])
def test_the_text_is_read_statefully_in_windows(window):
    net, params = net_of(9, layers=2, input="embedding", embedding_size=3)
    tokens = np.random.default_rng(0).integers(0, 9, 50).astype(np.uint8)
    seen = reading.read(net, params, tokens, window=window)
    x = jnp.asarray(tokens, jnp.int32)[:, None]
    _, logits, layers = jax.jit(net.watch)(params, net.carry(1), x)
    wanted = [a for each in layers for a in (np.tanh(each.states.c), each.states.h)]
    np.testing.assert_allclose(seen.values, np.concatenate(wanted, axis=2)[:, 0], atol=2e-6)
    assert [str(unit) for unit in seen.units[4:8]] == [
        "unit 4 of layer 1 (c)",
        "unit 5 of layer 1 (c)",
        "unit 0 of layer 1 (h)",
        "unit 1 of layer 1 (h)",
    ]
    assert str(seen.units[-1]) == "unit 5 of layer 2 (h)"
    log_p = np.asarray(jax.nn.log_softmax(logits))[:-1, 0]
    assert np.isnan(seen.losses[0])
    np.testing.assert_allclose(seen.losses[1:], -log_p[np.arange(49), tokens[1:]], atol=1e-5)


@pytest.mark.parametrize("cell", ["rnn", "gru", "ugrnn"])
def test_a_state_of_one_part_is_shown_as_it_is(cell):
    net, params = net_of(5, cell=cell, residual=True, layers=2)
    seen = reading.read(net, params, [1, 2, 3, 4, 0, 1])
    _, _, layers = net.watch(params, net.carry(1), jnp.array([1, 2, 3, 4, 0, 1])[:, None])
    wanted = np.concatenate([each.states.h[:, 0] for each in layers], axis=1)
    np.testing.assert_allclose(seen.values, wanted, atol=2e-6)
    assert str(seen.units[7]) == "unit 1 of layer 2"


def test_float64_and_bfloat16(float64):
    net, params = net_of(5)
    tokens = np.random.default_rng(0).integers(0, 5, 20)
    for dtype, seen in ((jnp.float64, np.float64), (jnp.bfloat16, np.float32)):
        cast = jax.tree.map(lambda a, dtype=dtype: a.astype(dtype), params)
        assert reading.read(net, cast, tokens).values.dtype == seen


def test_other_parameters_and_texts_compile_nothing():
    net, params = net_of(5)
    traces = []

    def watch(*arguments):
        traces.append(arguments[2].shape)
        return net.watch(*arguments)

    watched = net._replace(watch=watch)
    for count in (10, 9, 21):
        params = jax.tree.map(lambda a: 0.9 * a, params)
        reading.read(watched, params, np.arange(count) % 5, window=8)
    assert traces == [(8, 1)]


# Units that are known


def test_constructed_units_are_ranked_first(tmp_path):
    text = prose(4000)
    vocabulary = vocabulary_of(text)
    net, params = constructed(vocabulary)
    tokens = vocabulary.encode(text)
    seen = reading.read(net, params, tokens)
    found = labels.of(text)
    np.testing.assert_array_equal(seen.values[:, 5], found["position in the line"])
    options = {"title": "constructed", "seed": 1, "shifts": 40, "longest": 4, "positions": 20}
    said = reading.write_page(net, params, vocabulary, tokens, tmp_path, **options)
    latch = next(line for line in said if "'inside parentheses'" in line)
    assert re.fullmatch(
        r"unit 17 of layer 1 follows 'inside parentheses' with AUC 1\.00 "
        r"\(chance, best of 24 units: 0\.[5-7]\d\), high where it holds; a threshold from the first "
        r"half of the text has a balanced accuracy of 100% on the second",
        latch,
    )
    counter = next(line for line in said if "'position in the line'" in line)
    assert re.fullmatch(
        r"unit 5 of layer 1 follows 'position in the line' with a rank correlation of \+1\.00 "
        r"\(chance, best of 24 units: 0\.[0-4]\d\)",
        counter,
    )
    assert "'inside a comment' is too rare in this text to rank units by it" in said
    # The rest of the units do not know of parentheses.
    others = np.delete(seen.values, [5, 17], axis=1)
    label = {"inside parentheses": found["inside parentheses"]}
    (result,) = ranking.rank(others, label, top=3, shifts=40, seed=1)
    assert result.best < 0.8


def sentence(**changes):
    given = {
        "label": "inside it",
        "binary": True,
        "share": 0.1,
        "columns": (1, 0),
        "values": (0.1, 0.6),
        "accuracies": (0.876, 0.5),
        "chance": 0.7,
    } | changes
    units = (reading.Unit("layer 1", "c", 0), reading.Unit("layer 2", "h", 3))
    kept = context.Memory((1, 2), (2.0, 1.0), (0.1, 0.05), 0.999, 9)
    said = reading.sentences([ranking.Ranking(**given)], units, kept, unit="byte")
    assert len(said) == 2
    return said


def test_what_is_said_follows_from_the_numbers():
    first, last = sentence()
    assert first == (
        "unit 3 of layer 2 (h) follows 'inside it' with AUC 0.90 (chance, best of 2 units: 0.70), low "
        "where it holds; a threshold from the first half of the text has a balanced accuracy of 88% on "
        "the second"
    )
    assert last == (
        "the memory of the model is 2 bytes: from so many on its loss (1.000 nats per byte, 0.100 "
        "either way) is at most 1% above the 0.999 with all the text before (9 random positions)"
    )
    assert sentence(chance=0.91)[0] == (
        "no unit follows 'inside it' beyond chance: 0.90 (chance, best of 2 units: 0.91)"
    )
    assert sentence(columns=())[0] == "'inside it' is too rare in this text to rank units by it"
    number = sentence(binary=False, values=(-0.8, 0.1))[0]
    assert number == (
        "unit 3 of layer 2 (h) follows 'inside it' with a rank correlation of -0.80 (chance, best of 2 "
        "units: 0.70)"
    )


# The page


class Parsed(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.inside, self.texts, self.attributes, self.pieces = [], {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        name = dict(attrs).get("id") or tag
        if tag not in ("meta", "img", "input"):
            self.inside.append((tag, name))
        if tag == "i":
            self.pieces.append("")

    def handle_endtag(self, tag):
        while self.inside.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for _, name in self.inside:
            self.texts[name] = self.texts.get(name, "") + data
        if self.inside and any(tag == "i" for tag, _ in self.inside):
            self.pieces[-1] += data


NASTY = 'x = "</script><!-- &amp; <b>" # \'é\t\u202e\u0301\u2028\u0000"""\n\tf(a[0]) {$}\n'


@pytest.mark.parametrize(
    ("vocabulary", "options"),
    [
        (vocabulary_of(NASTY), {"cell": "lstm", "layers": 2}),
        (BYTES, {"cell": "gru", "input": "embedding", "embedding_size": 4}),
        (vocabulary_of(NASTY), {"cell": "rnn", "cell_options": {"activation": "relu"}}),
    ],
)
def test_the_page_holds_what_was_read(vocabulary, options, tmp_path):
    net, params = net_of(vocabulary.size, **options)
    params = jax.tree.map(lambda a: 0.3 * a, params)
    tokens = vocabulary.encode(NASTY * 12)
    title = "<script>alert(1)</script> & \"'{text}$"
    said = reading.write_page(
        net, params, vocabulary, tokens, tmp_path, title=title, seed=0, **SMALL
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["context.png", "reading.html"]
    content = (tmp_path / "reading.html").read_text(encoding="utf-8")
    parsed = Parsed(content)
    assert parsed.texts["h1"] == parsed.texts["title"] == title
    for line in said:
        assert line in parsed.texts["ul"]
    # Nothing is fetched.
    links = [value for _, name, value in parsed.attributes if name in ("src", "href", "srcset")]
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp", content)
    figure = base64.b64decode(next(link for link in links if link[0] == "d").partition(",")[2])
    assert figure == (tmp_path / "context.png").read_bytes()
    assert struct.unpack(">II", figure[16:24])[0] > 600
    # The text: a span a token.
    data = json.loads(parsed.texts["data"])
    assert len(parsed.pieces) == data["length"] == 300
    text = reading.text_of(vocabulary, tokens)
    seen = reading.read(net, params, tokens)
    found = labels.of(text)
    begin = reading._stretch(text, found, 300)
    assert begin == 0 or text[begin - 1] == "\n"
    assert data["begin"] == begin
    decoded = vocabulary.decode(tokens[begin : begin + 300])
    shown = "".join(parsed.pieces).replace("→\t", "\t").replace("◌", "").replace("↵", "\n")
    shown = shown.replace("202E", "\u202e").replace("2028", "\u2028").replace("00", "\0")
    assert shown.replace("·", "") == decoded
    assert shown.count("·") == len(parsed.pieces) - len(decoded)
    # The values, within half a level.
    count, span = len(data["units"]), slice(begin, begin + 300)
    levels = np.frombuffer(base64.b64decode(data["values"]), np.uint8).reshape(count, 300).T
    low, high = np.array(data["low"]), np.array(data["high"])
    values = low + (high - low) * levels / 255
    columns = np.arange(len(seen.units))
    assert count == len(columns)
    half_a_level = (high - low) / 510 + 1e-3 * np.maximum(abs(low), abs(high))
    assert (np.abs(values - seen.values[span][:, columns]) <= half_a_level).all()
    for unit, (layer, part, number) in zip(seen.units, data["units"], strict=True):
        assert (unit.layer, unit.part, unit.number) == (data["layers"][layer], part, number)
    # The labels.
    assert [label["name"] for label in data["labels"]] == list(found)
    for label in data["labels"]:
        values = found[label["name"]]
        if values.dtype == bool:
            bits = np.unpackbits(np.frombuffer(base64.b64decode(label["marks"]), np.uint8))
            np.testing.assert_array_equal(bits[:300], values[span])


def test_a_page_of_a_larger_model_has_the_best_and_a_sample(tmp_path):
    text = prose(1000)
    vocabulary = vocabulary_of(text)
    net, params = net_of(vocabulary.size, cell="rnn", hidden=20, layers=2)
    tokens = vocabulary.encode(text)
    reading.write_page(
        net, params, vocabulary, tokens, tmp_path, title="t", seed=0, units=25, **SMALL
    )
    parsed = Parsed((tmp_path / "reading.html").read_text(encoding="utf-8"))
    data = json.loads(parsed.texts["data"])
    assert len(data["units"]) == len(set(data["slugs"])) == 25
    assert "This page has 25 of the 40 units" in parsed.texts["header"]
    seen = reading.read(net, params, tokens)
    found = labels.of(text)
    for label, result in zip(
        data["labels"], ranking.rank(seen.values, found, top=3, shifts=20, seed=0), strict=True
    ):
        units = [data["slugs"][column] for column, *_ in label["top"]]
        assert units == [page.slug(seen.units[column]) for column in result.columns]
        assert label["follows"] == result.follows
    before = (tmp_path / "reading.html").read_bytes()
    reading.write_page(
        net, params, vocabulary, tokens, tmp_path, title="t", seed=0, units=25, **SMALL
    )
    assert (tmp_path / "reading.html").read_bytes() == before


def test_addresses():
    assert page.slug(reading.Unit("layer 2", "", 17)) == "layer-2-unit-17"
    assert page.slug(reading.Unit("layer 1", "c", 0)) == "layer-1-c-unit-0"
    slugs = [page.slug(name) for name in labels.of("")]
    assert len(set(slugs)) == len(slugs)
    assert slugs[0] == "inside-double-quotes"


def test_black_text_can_be_read_on_every_colour():
    def luminance(colour):
        channels = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    text = luminance((26, 26, 26))
    for end, share in itertools.product((page.NEGATIVE, page.POSITIVE), (0.0, 0.5, 1.0)):
        colour = [z + (e - z) * share for z, e in zip(page.ZERO, end, strict=True)]
        assert (luminance(colour) + 0.05) / (text + 0.05) > 5.0  # WCAG AA asks for 4.5


@pytest.mark.parametrize("shown", [30, 60, 10_000])
def test_the_page_shows_where_labels_begin_most_often(shown):
    text = "a\n" * 50 + 'b "c" (d) {e}\nf (\n) [0] A_B\n' * 5 + "g\n" * 50
    found = labels.of(text)
    flags = [label for label in found.values() if label.dtype == bool]
    scores = {}
    for start in range(len(text)):
        if start == 0 or (text[start - 1] == "\n" and start + shown <= len(text)):
            part = range(start, min(start + shown, len(text)))
            times = [sum(bool(f[t] and not (t and f[t - 1])) for t in part) for f in flags]
            scores[start] = sum(np.log(1 + n) for n in times)
    begin = reading._stretch(text, found, shown)
    assert begin in scores
    np.testing.assert_allclose(scores[begin], max(scores.values()))
    assert (begin == 0) == (shown == 10_000)


# Errors


def test_what_cannot_be_read_is_refused(tmp_path):
    vocabulary = vocabulary_of("abc")
    net, params = net_of(3)
    tokens = vocabulary.encode("abcabcabca" * 3)

    def refused(message, *, net=net, params=params, tokens=tokens, **options):
        options = {"title": "t", "seed": 0} | SMALL | options
        with pytest.raises(UsageError, match=message) as caught:
            reading.write_page(net, params, vocabulary, tokens, tmp_path, **options)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())

    both, both_params = net_of(3, bidirectional=True)
    refused("bidirectional", net=both, params=both_params)
    refused("the text has 30 characters: a context of 30 needs at least 31", longest=30)
    refused("the text has 0 characters", tokens=[])
    refused("tokens from 0 to 3, the vocabulary those from 0 to 2", tokens=[0, 3] * 20)
    refused("tokens from -1 to 2", tokens=[-1, 2] * 20)
    for name in ("characters", "shown", "units", "top", "shifts", "longest", "positions"):
        refused(f"{name} must be at least 1, got 0", **{name: 0})
    broken = jax.tree.map(lambda a: a * jnp.nan, params)
    refused("not finite", params=broken)
    for call in (
        reading.read,
        lambda *a: context.measure(*a, losses=None, longest=1, positions=1, seed=0),
    ):
        with pytest.raises(UsageError, match="bidirectional"):
            call(both, both_params, tokens)
