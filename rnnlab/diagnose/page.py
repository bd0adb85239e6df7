"""The page of `reading`: a text coloured by the units of a model, in one HTML file.

It needs nothing but itself: no network, no fonts, no libraries. The text, the table and the figure
are there without JavaScript, which adds the colours. An address that ends in #layer-1-h-unit-37, or
in #inside-double-quotes/layer-1-h-unit-37, opens with that unit.
"""

import base64
import json
import re
import unicodedata
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

# Of -1, 0 and 1. The colour-blind tell blue from orange, and black text can be read on all between.
NEGATIVE, ZERO, POSITIVE = (84, 153, 219), (255, 255, 255), (245, 146, 51)
LEVELS = 255  # a value is one of 256, from the smallest of its unit to the largest
ROWS = 3  # units a label in the table


class Page(NamedTuple):
    """What the page shows."""

    title: str
    about: Sequence[str]  # of model and text, a paragraph each
    sentences: Sequence[str]
    begin: int  # the number of the first character shown
    pieces: Sequence[str]  # [N] what each token shows of the text, "" where it ends no character
    marks: dict[str, np.ndarray]  # label -> bool [N]
    units: Sequence[Any]  # [U] a `reading.Unit` each
    values: np.ndarray  # [N, U], of these units
    columns: dict[int, int]  # the column of a ranking -> that of `values`
    rankings: Sequence[Any]  # `ranking.Ranking`
    names: Sequence[Any]  # the unit of every column of a ranking
    chance: str  # what chance is, in words
    figure: bytes  # a PNG
    caption: str


def html(page: Page) -> str:
    """The file's text. Everything of the caller's is escaped."""
    data = json.dumps(_data(page), separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":  # nothing in it may end the element that holds it
        data = data.replace(character, f"\\u{ord(character):04x}")
    parts = {
        "title": escape(page.title),
        "about": "\n".join(f"<p>{escape(line)}</p>" for line in page.about),
        "sentences": "\n".join(f"<li>{escape(line)}</li>" for line in page.sentences),
        "text": "".join(
            f"<i>{_shown(piece)}</i>" + "\n" * (piece == "\n") for piece in page.pieces
        ),
        "table": _table(page),
        "chance": escape(page.chance),
        "figure": base64.b64encode(page.figure).decode(),
        "caption": escape(page.caption),
        "data": data,
        "style": STYLE.replace("NEGATIVE", _css(NEGATIVE)).replace("POSITIVE", _css(POSITIVE)),
        "script": SCRIPT,
    }
    # In one go: what is put in is not looked into.
    return re.sub(r"\{(\w+)\}", lambda found: parts[found[1]], TEMPLATE)


def slug(text: Any) -> str:
    """Letters, digits and hyphens, for an address: "unit 37 of layer 1 (h)" has "layer-1-h-unit-37"."""
    if hasattr(text, "layer"):
        text = f"{text.layer} {text.part} unit {text.number}"
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-")


def _shown(piece: str) -> str:
    """A piece of the text where all can be seen: newlines, tabs, controls, what has no width."""
    if not piece:
        return "<b>·</b>"
    return "".join(_visible(character) for character in piece)


def _visible(character: str) -> str:
    kind = unicodedata.category(character)
    if character == "\n":
        return "<b>↵</b>"
    if character == "\t":
        return "<b>→</b>\t"
    if kind in ("Mn", "Me"):
        return f"◌{escape(character)}"
    if kind in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"):
        return f"<b>{ord(character):02X}</b>"
    return escape(character)


def _css(colour: tuple[int, int, int]) -> str:
    return f"rgb{colour}".replace(" ", "")


def _data(page: Page) -> dict[str, Any]:
    low, high = page.values.min(axis=0), page.values.max(axis=0)
    step = np.where(high > low, high - low, 1.0)
    levels = np.rint((page.values - low) / step * LEVELS).astype(np.uint8)
    layers = list(dict.fromkeys(unit.layer for unit in page.units))
    return {
        "colours": [NEGATIVE, ZERO, POSITIVE],
        "begin": page.begin,
        "length": len(page.pieces),
        "layers": layers,
        "units": [[layers.index(unit.layer), unit.part, unit.number] for unit in page.units],
        "slugs": [slug(unit) for unit in page.units],
        "low": [float(f"{x:.4g}") for x in low],
        "high": [float(f"{x:.4g}") for x in high],
        "values": base64.b64encode(levels.T.tobytes()).decode(),
        "labels": [
            {
                "name": ranking.label,
                "slug": slug(ranking.label),
                "follows": ranking.follows,
                "best": f"{ranking.best:.2f}",
                "beyond": _reach(ranking, ranking.best) - _reach(ranking, ranking.chance)
                if ranking.follows
                else 0.0,
                "chance": f"{ranking.chance:.2f}",
                "measure": "AUC" if ranking.binary else "correlation",
                "top": [
                    [page.columns[column], _measure(ranking, i), _direction(ranking, i)]
                    for i, column in enumerate(ranking.columns)
                    if column in page.columns
                ],
                "marks": _bits(page.marks[ranking.label]) if ranking.binary else "",
            }
            for ranking in page.rankings
        ],
    }


def _bits(marks: np.ndarray) -> str:
    return base64.b64encode(np.packbits(marks).tobytes()).decode()


def _measure(ranking: Any, index: int) -> str:
    value = ranking.values[index]
    return f"{max(value, 1 - value):.2f}" if ranking.binary else f"{value:+.2f}"


def _reach(ranking: Any, value: float) -> float:
    """From 0 for no relation to 1 for a perfect one, whatever the measure."""
    return abs(2 * value - 1) if ranking.binary else abs(value)


def _direction(ranking: Any, index: int) -> str:
    if ranking.binary:
        return "high" if ranking.values[index] > 0.5 else "low"
    return "rises" if ranking.values[index] > 0 else "falls"


def _table(page: Page) -> str:
    rows = []
    for ranking in page.rankings:
        count = min(ROWS, len(ranking.columns))
        share = f"{100 * ranking.share:.1f}%" if ranking.binary else ""
        head = f"<th scope=row rowspan={max(count, 1)}>{escape(ranking.label)}</th>"
        head += f"<td rowspan={max(count, 1)}>{share}</td>"
        if not count:
            rows.append(f"<tr class=not>{head}<td colspan=5>too rare in this text</td></tr>")
        for i in range(count):
            column, value = ranking.columns[i], ranking.values[i]
            name, address = str(page.names[column]), slug(page.names[column])
            if column in page.columns:
                name = f"<a href='#{slug(ranking.label)}/{address}'>{escape(name)}</a>"
            reach, chance = _reach(ranking, value), _reach(ranking, ranking.chance)
            bar = f"<span class=bar style='--v:{100 * reach:.0f}%;--c:{100 * chance:.0f}%'></span>"
            measure = "AUC" if ranking.binary else "ρ"
            right = f"{100 * ranking.accuracies[i]:.0f}%" if ranking.binary else ""
            beats = "" if reach > chance else " class=not"
            rows.append(
                f"<tr{beats}>{head}<td>{name}</td><td>{bar}{measure} {_measure(ranking, i)}</td>"
                f"<td>{_direction(ranking, i)}</td><td>{right}</td><td>{ranking.chance:.2f}</td></tr>"
            )
            head = ""
    return "\n".join(rows)


TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<header>
<h1>{title}</h1>
{about}
<p><a href="#findings">What follows from it</a> · <a href="#ranking">which unit follows what</a> ·
<a href="#memory">how far back it remembers</a></p>
</header>
<nav aria-label="What colours the text" hidden>
<div><label>Label <select id="label"></select></label> <span id="top"></span></div>
<div><label>Layer <select id="layer"></select></label>
<label id="parted">part <select id="part"></select></label>
<label>unit <input id="number" type="number" min="0" step="1"></label>
<label>Colours <select id="scale"><option value="fixed">fixed, -1 to 1</option>
<option value="own">stretched to its range</option></select></label>
<label><input id="mark" type="checkbox" checked> underline where the label holds</label>
<button id="next" type="button">next such place</button></div>
<div id="state"><span id="said" role="status"></span>
<span class="scale"><span id="low"></span><span id="ramp"></span><span id="high"></span></span>
<span id="under"></span></div>
</nav>
<pre id="text">{text}</pre>
<h2 id="findings">What follows from it</h2>
<ul>
{sentences}
</ul>
<h2 id="ranking">Which unit follows what</h2>
<table>
<thead><tr><th scope=col>label</th><th scope=col>holds at</th><th scope=col>unit</th>
<th scope=col>measure</th><th scope=col>where it holds</th><th scope=col>balanced accuracy</th>
<th scope=col>chance</th></tr></thead>
<tbody>
{table}
</tbody>
</table>
<p class="note">{chance}</p>
<h2 id="memory">How far back it remembers</h2>
<figure><img alt="{caption}" src="data:image/png;base64,{figure}"><figcaption>{caption}</figcaption></figure>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</html>
"""

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 76rem; padding: 0 1.25rem 3rem; background: #fff; color: #1a1a1a;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 1.2rem 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h2, pre { scroll-margin-top: 9rem; }
header p { margin: .3rem 0; max-width: 60rem; }
nav { position: sticky; top: 0; background: #fff; padding: .5rem 0; border-bottom: 1px solid #bbb;
  font-size: .9rem; z-index: 1; }
nav[hidden] { display: none; }
nav div { display: flex; flex-wrap: wrap; gap: .3rem .9rem; align-items: center; margin: .2rem 0; }
select, input, button { font: inherit; color: inherit; }
#number { width: 5rem; }
#top { display: inline-flex; flex-wrap: wrap; gap: .3rem; }
button { border: 1px solid #999; border-radius: 4px; background: #f6f6f6; cursor: pointer;
  padding: .05rem .45rem; }
#top button[aria-pressed=true] { background: #1a1a1a; color: #fff; border-color: #1a1a1a; }
:focus-visible { outline: 3px solid #0b57d0; outline-offset: 1px; }
#state { min-height: 1.6rem; }
.scale { display: inline-flex; align-items: center; gap: .4rem; font-variant-numeric: tabular-nums; }
#ramp { width: 9rem; height: .9rem; border: 1px solid #bbb;
  background: linear-gradient(to right, NEGATIVE, #fff, POSITIVE); }
#under { color: #555; font-variant-numeric: tabular-nums; min-width: 9rem; }
pre { font: 14px/1.65 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; tab-size: 8;
  white-space: pre-wrap; overflow-wrap: anywhere; direction: ltr; unicode-bidi: bidi-override; }
pre i { font-style: normal; padding: .12em 0; }
pre b { font-weight: normal; color: #555; font-size: .8em; }
pre i.on { border-bottom: 2px solid #1a1a1a; }
pre i.here { outline: 2px solid #1a1a1a; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0;
  border-top: 1px solid #ddd; font-variant-numeric: tabular-nums; }
thead th { border-top: 0; border-bottom: 1px solid #888; vertical-align: bottom; }
tbody th { font-weight: 600; }
tr.not td:not([rowspan]) { color: #666; }
a { color: #0b57d0; }
.bar { display: inline-block; width: 6rem; height: .7rem; margin-right: .5rem; border: 1px solid #bbb;
  background: linear-gradient(#1a1a1a, #1a1a1a) var(--c) 0 / 2px 100% no-repeat,
    linear-gradient(POSITIVE, POSITIVE) 0 0 / var(--v) 100% no-repeat; }
.note, figcaption { color: #444; font-size: .9rem; max-width: 60rem; }
figure { margin: 0; }
figure img { max-width: min(100%, 44rem); height: auto; }
"""

SCRIPT = r"""
"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const bytes = s => Uint8Array.from(atob(s), c => c.charCodeAt(0));
const values = bytes(D.values), spans = $("text").children;
const marks = D.labels.map(l => bytes(l.marks));
const nameOf = u => `unit ${D.units[u][2]} of ${D.layers[D.units[u][0]]}` +
  (D.units[u][1] && ` (${D.units[u][1]})`);
let label = 0, unit = 0, here = -1;

function option(select, value, text) {
  const o = document.createElement("option");
  o.value = value; o.textContent = text; select.append(o);
}
const level = (u, t) => values[u * D.length + t];
const valueAt = (u, q) => D.low[u] + (D.high[u] - D.low[u]) * q / 255;

// The values that are wholly blue and wholly orange.
function range(u) {
  if ($("scale").value == "fixed") {
    const limit = Math.max(1, Math.abs(D.low[u]), Math.abs(D.high[u]));
    return [-limit, limit];
  }
  const q = Array.from(values.subarray(u * D.length, (u + 1) * D.length)).sort((a, b) => a - b);
  const at = share => valueAt(u, q[Math.round(share * (q.length - 1))]);
  return at(.01) < at(.99) ? [at(.01), at(.99)] : [at(0) - 1e-3, at(1) + 1e-3];
}
const holds = t => marks[label][t >> 3] >> (7 - t % 8) & 1;
function colour(x) {  // from -1 to 1
  const t = Math.min(1, Math.abs(x)), end = D.colours[x < 0 ? 0 : 2];
  return "rgb(" + D.colours[1].map((z, i) => Math.round(z + (end[i] - z) * t)) + ")";
}
function paint() {
  const [low, high] = range(unit), l = D.labels[label];
  const table = Array.from({length: 256}, (_, q) =>
    colour((valueAt(unit, q) - low) / (high - low) * 2 - 1));
  const under = $("mark").checked && l.marks;
  $("next").disabled = $("mark").disabled = !l.marks;
  for (let t = 0; t < D.length; t++) {
    spans[t].style.backgroundColor = table[level(unit, t)];
    spans[t].classList.toggle("on", Boolean(under && holds(t)));
  }
  $("low").textContent = low.toFixed(2); $("high").textContent = high.toFixed(2);
}
function show() {
  const l = D.labels[label], [layer, part, number] = D.units[unit];
  $("label").value = label; $("layer").value = layer; $("part").value = part;
  $("number").value = number; $("number").setCustomValidity("");
  $("top").replaceChildren(...l.top.map(([u, measure, direction]) => {
    const b = document.createElement("button"), [where, state, n] = D.units[u];
    b.textContent = (D.layers.length > 1 ? D.layers[where] + " " : "") + `${state} ${n}`.trim() +
      " · " + measure;
    b.title = `${nameOf(u)}: ${l.measure} ${measure}, ${direction}`;
    b.setAttribute("aria-pressed", u == unit);
    b.onclick = () => go(label, u);
    return b;
  }));
  const found = l.top.find(([u]) => u == unit);
  let said = nameOf(unit);
  if (found) {
    said += `: ${l.measure} ${found[1]} for “${l.name}”, ` + (l.marks ? `${found[2]} where it holds` :
      `${found[2]} with it`) + ` (chance: ${l.chance})` + (l.follows ? "" : ", not beyond chance");
  } else {
    said += l.top.length ? `: not among the first for “${l.name}”` : `: “${l.name}” is too rare here`;
  }
  $("said").textContent = said;
  paint();
}
function go(l, u) {
  const address = "#" + D.labels[l].slug + "/" + D.slugs[u];
  if (location.hash == address) return arrive();
  location.hash = address;
}
function arrive() {
  const words = location.hash.slice(1).split("/"), u = D.slugs.indexOf(words.at(-1));
  const l = D.labels.findIndex(each => each.slug == words[0]);
  if (l >= 0) { label = l; if (u < 0 && D.labels[l].top.length) unit = D.labels[l].top[0][0]; }
  if (u >= 0) {
    unit = u;
    if (l < 0) {
      const first = D.labels.findIndex(each => each.top.some(([v]) => v == u));
      if (first >= 0) label = first;
    }
  }
  show();
}
function pick() {
  const layer = +$("layer").value, number = $("number").valueAsNumber;
  const has = D.units.some(([a, p]) => a == layer && p == $("part").value);
  const part = has ? $("part").value : D.units.find(([a]) => a == layer)[1];
  const u = D.units.findIndex(([a, p, n]) => a == layer && p == part && n == number);
  if (u >= 0) return go(label, u);
  $("said").textContent = `this page has no unit ${$("number").value} of ${D.layers[layer]}`;
}

const best = l => l.follows ? `${l.measure} ${l.best}` :
  l.top.length ? "not beyond chance" : "too rare";
D.labels.forEach((l, i) => option($("label"), i, `${l.name}: ${best(l)}`));
D.layers.forEach((name, i) => option($("layer"), i, name));
const parts = [...new Set(D.units.map(u => u[1]))];
parts.forEach(p => option($("part"), p, p == "c" ? "c, as tanh(c)" : p));
$("parted").hidden = parts.length == 1;
$("number").max = Math.max(...D.units.map(u => u[2]));
$("label").onchange = () => {
  const l = +$("label").value;
  go(l, D.labels[l].top.length ? D.labels[l].top[0][0] : unit);
};
for (const id of ["layer", "part", "number"]) $(id).onchange = pick;
for (const id of ["scale", "mark"]) $(id).onchange = paint;
$("text").onpointerover = event => {
  const t = Array.prototype.indexOf.call(spans, event.target.closest("i"));
  $("under").textContent = t < 0 ? "" : `at ${D.begin + t}: ${valueAt(unit, level(unit, t)).toFixed(3)}`;
};
$("next").onclick = () => {
  for (let i = 1; i <= D.length; i++) {
    const t = (here + i) % D.length;
    if (!holds(t) || (t && holds(t - 1))) continue;
    if (here >= 0) spans[here].classList.remove("here");
    here = t;
    spans[t].classList.add("here");
    return spans[t].scrollIntoView({block: "center"});
  }
  $("under").textContent = "it holds nowhere in the part shown";
};
document.querySelector("table").onclick = event => {
  if (event.target.tagName == "A") $("text").scrollIntoView();
};
window.onhashchange = arrive;
// First comes the label whose best unit is furthest beyond chance; a number only where there is no other.
const rank = l => l.follows ? l.beyond + (l.marks ? 1 : 0) : 0;
label = D.labels.reduce((best, l, i) => rank(l) > rank(D.labels[best]) ? i : best, 0);
if (D.labels[label].top.length) unit = D.labels[label].top[0][0];
document.querySelector("nav").hidden = false;
arrive();
"""
