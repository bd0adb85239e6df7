"""Values, keys, texts and paths that no run was made for."""

import contextlib
import gzip
import os
import random
import socket
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NUMBERS = (
    *("nan", "inf", "-inf", "0", "-1", "1", "0.5", "1e-320", "1e39", "2147483647", "2147483648"),
    *("1000000000000",),
)
# How a number is read is the same in all tasks.
SPELT = (
    *(
        "-0.0",
        "1e-45",
        "3e38",
        "1e400",
        "1" + 30 * "0",
        "9" * 5000,
        "1_000",
        "0x10",
        "True",
        "None",
    ),
    *("", " 7", "1,5", "\u0661\u0662", "1e3", "--1", "(1,)", "nan nan", "1e-37", "0.999999"),
)
TUPLES = (
    *("()", "(0,)", "(-1,)", "(nan,)", "(1e400,)", "(0.5,)", "(10**9,)", "('a',)", "((1, 2), 3)"),
    *("(1, 2", "(1j,)", "(b'x',)", "({1: 2},)", "({1, 2},)", "(None,)", "(True,)", "[2, [3]]"),
    *("(" * 5000, "(" * 150 + ")" * 150, "-" * 9000 + "1", "(1 is 1,)", "'\\d',", "(2147483648,)"),
    *("(999999999,)", "f'{1}',", "__import__('os')", "(lambda: 1)()", "1", "", "(3, 5)"),
)
WORDS = (
    *(
        "",
        " ",
        "..",
        ".." + "/x",
        "/",
        "/dev/null",
        "/dev/zero",
        "os",
        "__init__",
        "lstm ",
        "LSTM",
        "nan",
    ),
    *("\n", "a\nb", "\x00", "\x1b[2J", "\udc80", "é", "🙂", "x" * 10_000, "True", "0", "%s", "{}"),
    *("uniform", "uniform:", "uniform:nan", "uniform:-1", "uniform:1e400", "normal:inf", "zeros:1"),
    *(
        "spectral:0",
        "identity:1e39",
        "orthogonal:1:2",
        "constant:",
        "python",
        "rnn",
        "gru",
        "[",
        "**",
    ),
    *(
        "~nobody-here/x",
        "rnnlab.tasks.copy",
        "language_model\n",
        "'; import os",
        "$HOME",
        "-",
        "a,b",
    ),
)


def text(draw: random.Random, most: int) -> str:
    """Characters of all kinds; some come as no keyboard sends them."""
    alphabets = (
        string.printable,
        string.ascii_lowercase + "._",
        string.digits + ".eE+-_xnaif",
        "()[]{},'\"\\\n\t \x00\x1b\x7f",
        "".join(map(chr, (0x85, 0xA0, 0x2028, 0x202E, 0xDC80, 0xFEFF, 0xFFFE, 0x1F642, 0x10FFFF))),
    )
    alphabet = draw.choice(alphabets)
    return "".join(draw.choice(alphabet) for _ in range(draw.randrange(most)))


def number(draw: random.Random) -> str:
    kind = draw.randrange(4)
    if kind == 0:
        return str(draw.randrange(-3, 40))
    if kind == 1:
        return repr(draw.choice((1, -1)) * 10.0 ** draw.uniform(-330, 308))
    if kind == 2:
        return repr(draw.random())
    return str(draw.choice((1, -1)) * draw.getrandbits(draw.choice((8, 16, 33, 70, 2000))))


def mutated(draw: random.Random, text: str) -> str:
    """With a character gone, doubled or changed."""
    at, how = draw.randrange(len(text)), draw.randrange(4)
    middle = ("", text[at] * 2, draw.choice(string.printable), text[at].upper())[how]
    return text[:at] + middle + text[at + 1 :]


def mutate(draw: random.Random, tree: dict) -> None:
    """Change one place of nested dicts."""
    while True:
        key = draw.choice([*tree]) if tree else "x"
        if isinstance(tree.get(key), dict) and draw.random() < 0.85:
            tree = tree[key]
            continue
        break
    strange = (
        *(None, True, -1, 0, 1, 2**31, 10**30, 0.5, float("nan"), float("inf"), 1e-320, "", "x"),
        *("8", (), (1, 2), ("a",), [], [1], {}, {"a": 1}, {"a": {"b": []}}, b"x", "\ud800", 3 + 4j),
    )
    how = draw.randrange(4)
    if how == 0:
        tree.pop(key, None)
    elif how == 1:
        tree[draw.choice(("x", "", "a.b", "hidden", "items", "get", "é", "__class__"))] = (
            draw.choice(strange)
        )
    else:
        tree[key] = draw.choice(strange)


def some_bytes(draw: random.Random) -> tuple[str, bytes]:
    """(what it is, a text of random bytes or characters)."""
    count = draw.choice((0, 1, 2, 3, 17, 100, 400, 1000, 3000))
    ranges = ((0, 128), (32, 127), (0, 0xD800), (0x80, 0x110000), (0x1F300, 0x1F400), (97, 98))
    low, high = draw.choice(ranges)
    points = [draw.randrange(low, high) for _ in range(count)]
    text = "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)
    how = draw.randrange(10)
    if how < 3:
        return f"{count} random bytes", draw.randbytes(count)
    if how == 3:
        return "UTF-16", text.encode("utf-16")
    if how == 4:
        return "lone surrogates", (text + "\ud800" + text).encode("utf-8", "surrogatepass")
    if how == 5:
        return "a BOM and CRLF", b"\xef\xbb\xbf" + text.replace(" ", "\r\n").encode()
    if how == 6:
        return "cut in a character", (text + "é").encode()[:-1]
    if how == 7:
        return "NULs", text.encode() + bytes(count)
    return f"{len(text)} of U+{low:X} to U+{high:X}", text.encode()


def once(draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Those of which one is enough."""
    yield "empty", b""
    yield "one character", b"x"
    yield "one line of 10 MB", b"to be or not " * (10_000_000 // 13)
    points = [p for p in range(0x110000) if not 0xD800 <= p < 0xE000]
    yield "every code point", "".join(map(chr, points)).encode()
    yield "a gzip", gzip.compress(draw.randbytes(3000))
    yield "one symbol", b"a" * 5000
    yield "one symbol and another at the end", b"a" * 5000 + b"b"
    yield "overlong UTF-8", b"\xc0\x80" * 1000
    yield "shorter than a window", b"abcdefg" * 3
    yield "NULs alone", bytes(5000)
    yield "a PNG", b"\x89PNG\r\n\x1a\n" + draw.randbytes(3000)


@contextlib.contextmanager
def odd_paths(folder: Path) -> Iterator[list[str]]:
    """Paths that are no usual file; those of Linux where they are."""
    folder.mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "empty").mkdir()
    names = folder / "names"
    names.mkdir()
    for name in ("-rf", "a b", "new\nline", "é", "%s", "x" * 200, "\udcff.txt", "'\"", "CON"):
        (names / name).write_bytes(b"to be or not to be " * 50)
    os.mkfifo(names / "fifo")
    dangling, ring = folder / "dangling", folder / "ring"
    dangling.mkdir()
    (dangling / "gone").symlink_to(folder / "nowhere")
    ring.mkdir()
    (ring / "again").symlink_to(ring)
    (ring / "text").write_bytes(b"to be or not to be " * 100)
    (folder / "self").symlink_to(folder / "self")
    listening = socket.socket(socket.AF_UNIX)
    with contextlib.chdir(folder):  # the name of a socket has 108 characters at most
        listening.bind("socket")
    try:
        yield [
            *map(
                str, (folder / "fifo", folder / "socket", folder / "empty", names, dangling, ring)
            ),
            *map(str, (folder / "self", names / "new\nline", names / "\udcff.txt", names / "-rf")),
            *("/dev/null", "/dev/zero", "/dev/tty", "/proc/self/mem", "/proc/self/environ"),
            *(f"{folder}\x00x", "x" * 5000, "~nobody-here/x", "\x00", "\udcff", f"{folder}/fifo/x"),
        ]
    finally:
        listening.close()


def listed(tree: Any) -> Any:
    """What JSON can spell of it."""
    if isinstance(tree, dict):
        return {str(key): listed(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple | set):
        return [listed(value) for value in tree]
    return tree if isinstance(tree, str | int | float | bool | type(None)) else repr(tree)
