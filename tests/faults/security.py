"""Hostile run folders, archives, pictures and addresses.

A run folder is a stranger's: beside its files lie ones that would run if anything in it were taken for
code - launch.py, rnnlab, jax.py, sitecustomize.py, a .pth, matplotlibrc, pickles by the names of the
run's own files - each of which leaves a sentinel when it does. Every verb is run on it, from inside and
from outside the folder. Survived: no sentinel appears, no file outside the folder changes, and the verb
ends with its code and no traceback. Bombs hold more than may come out of a file: survived is one clear
line, with no more memory taken than the cap. Members of archives that lead outside, and redirects to
what is not https, are survived if nothing is written and nothing is asked.
"""

import contextlib
import gzip
import http.server
import io
import json
import os
import pickle
import shutil
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from rnnlab.data import archives, cache, media
from rnnlab.errors import RnnlabError, UsageError
from rnnlab.tasks.language_model import corpora
from tests.faults import _driver
from tests.faults.lab import Done, Lab, Tally
from tests.support import ROOT

SHORT = 0.02
VERBS = ("evaluate", "sample", "show", "diagnose", "compile", "report", "sweep", "train")
CAP = 1 << 22  # bytes, in this process; the whole campaign has a bomb for the real cap too
MEMORY = 1 << 28  # bytes that unpacking a bomb of CAP may take


def _code(sentinel: Path) -> str:
    return f"open({str(sentinel)!r}, 'a').write(__file__ + chr(10))\n"


class _Attack:
    """What a pickle of it does when it is loaded."""

    def __init__(self, sentinel: Path):
        self.sentinel = sentinel

    def __reduce__(self) -> Any:
        return os.mkdir, (f"{self.sentinel}.pickle",)


def _poisoned(run: Path, target: Path, sentinel: Path) -> None:
    """A copy of the run with files beside its own that want to be run."""
    shutil.copytree(run, target)
    code = _code(sentinel)
    modules = (
        *(
            "launch",
            "config",
            "rnnlab",
            "jax",
            "numpy",
            "flax",
            "optax",
            "json",
            "re",
            "sitecustomize",
        ),
        *(
            "usercustomize",
            "conftest",
            "setup",
            "default",
            "experiments",
            "ml_collections",
            "hostile",
        ),
        *("matplotlib", "PIL", "rich", "orbax", "logging", "__main__", "__init__"),
    )
    for name in modules:
        (target / f"{name}.py").write_text(code)
        if name in ("rnnlab", "experiments", "jax"):
            (target / f"{name}_folder").mkdir()
    for name in ("rnnlab.pth", "a.pth", "site-packages.pth"):
        (target / name).write_text(f"import os; {code}")
    (target / "matplotlibrc").write_text("backend: module://hostile\n")
    (target / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "-p hostile"\n')
    (target / "checkpoints" / "hook.py").write_text(code)
    for name in ("state.pkl", "metrics.pkl", "optimizer.pt", "params.joblib"):
        (target / name).write_bytes(pickle.dumps(_Attack(sentinel)))
    said = json.loads((target / "config.json").read_text())
    said["config"] = str(target / "config.py")  # some look for one
    del said["checksum"]  # as older versions wrote it
    (target / "config.json").write_text(json.dumps(said))


def _pickles(target: Path, sentinel: Path) -> dict[str, Callable[[], None]]:
    """name -> puts a pickle in the place of a file of the run."""
    attack = pickle.dumps(_Attack(sentinel))
    objects = io.BytesIO()
    np.save(objects, np.array([_Attack(sentinel)], object), allow_pickle=True)
    packed = io.BytesIO()
    np.savez(packed, a=np.array([_Attack(sentinel)], object))
    files = sorted(p for p in target.rglob("*") if p.is_file() and not p.name.startswith("."))
    own = ("valid.npy", "config.json", "vocabulary.json", "run.json", "metrics.jsonl")
    chosen = [p for p in files if p.name in own or "checkpoints" in p.parts]
    contents = {"a pickle": attack, "an array of objects": objects.getvalue()}
    contents["an npz of objects"] = packed.getvalue()

    def put(path: Path, content: bytes) -> Callable[[], None]:
        def write() -> None:
            path.write_bytes(content)

        return write

    return {
        f"{path.relative_to(target)} as {what}": put(path, content)
        for path in chosen
        for what, content in contents.items()
    }


def _executed(sentinel: Path) -> str:
    there = sorted(p.name for p in sentinel.parent.glob(f"{sentinel.name}*"))
    said = sentinel.read_text().split() if sentinel.exists() else []
    return f"it was run: {there} {said[:3]}" if there else ""


def _arguments(verb: str, target: Path) -> list[str]:
    more = {"sample": ["--length=5"], "diagnose": ["--window=4"], "sweep": ["--executor=local"]}
    return [verb, f"--workdir={target}", *more.get(verb, [])]


def folders(lab: Lab, share: float) -> Iterator[Tally]:
    """Every verb on a run folder full of code, as processes, from inside it and from outside."""
    sentinel, target = lab.place("sentinel"), lab.place("hostile")
    _poisoned(lab.straight, target, sentinel)
    outside = lab.place("outside")
    outside.mkdir()
    # What is not run here does run, if it is asked for.
    control = lab.run("x", program=(str(target / "config.py"),))
    assert _executed(sentinel), control.err
    sentinel.unlink()
    row = Tally("a run folder full of code: every verb, from inside and outside it")
    places = [(verb, where) for verb in VERBS for where in (target, outside)]
    # The short set starts one process; what differs between the verbs is tried in this one.
    for verb, where in places[: lab.many(len(places), share)]:
        done = lab.run(*_arguments(verb, target), cwd=where, environment={"PYTHONPATH": ""})
        problem = _executed(sentinel) or _wrong(done)
        row.count(f"exit {done.code}", problem and f"{verb}: {problem}")
    with contextlib.chdir(target):
        for verb in VERBS:
            if verb in ("train", "diagnose") and share < 1:
                continue
            said = _driver.call(*_arguments(verb, target), seconds=300)
            problem = _executed(sentinel)
            if said.code not in (0, 2):
                problem = problem or f"code {said.code}: {said.error} {said.line}"
            row.count(f"exit {said.code}", problem and f"{verb}: {problem}")
    yield row

    row = Tally("a pickle in the place of a file of a run")
    kept = {p: p.read_bytes() for p in target.rglob("*") if p.is_file()}
    attacks = [*_pickles(target, sentinel).items()]
    chosen = sorted(lab.random.sample(range(len(attacks)), lab.many(len(attacks), share)))
    for number in chosen:
        name, put = attacks[number]
        put()
        for verb in ("evaluate", "sample"):
            said = _driver.call(*_arguments(verb, target))
            problem = _executed(sentinel)
            if said.code in (2, 4):
                problem = problem or _driver.whole(said.line)
            elif said.code != 0:
                problem = problem or f"code {said.code}: {said.error!r} {said.line}"
            row.count(f"exit {said.code}", problem and f"{verb}, {name}: {problem}")
        for path, content in kept.items():
            if path.is_file() and path.read_bytes() != content:
                path.write_bytes(content)
    yield row


def _wrong(done: Done) -> str:
    if done.traceback or done.code not in (0, 2):
        return f"code {done.code}: {done.err.strip()[-300:]}"
    return ""


def links(lab: Lab, share: float) -> Iterator[Tally]:
    """Links in a run folder to a file of the user's, where a verb would write."""
    row = Tally("a link in a run folder to another file")
    mine = lab.place("mine")
    names = (
        *(
            ".lock",
            "metrics.jsonl",
            "samples.txt",
            "summary.json",
            ".config.json.writing",
            "curves.png",
        ),
        *(
            ".curves.png.writing",
            "tensorboard/events.out.tfevents.000001",
            "diagnosis/.diagnosis.md.writing",
        ),
        *(
            "diagnosis/diagnosis.md",
            "shown/x.png",
            "latex/latex.md",
            ".valid.npy.writing",
            "vocabulary.json",
        ),
    )
    target = lab.place("linked")
    shutil.copytree(lab.straight, target)
    chosen = names if share >= 0.2 else lab.random.sample(names, 2)
    for name in chosen:
        mine.write_text("mine")
        path, kept = target / name, None
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            kept = path.read_bytes()
            path.unlink()
        path.symlink_to(mine)
        for verb in ("train", "diagnose", "compile", "show"):
            said = _driver.call(*_arguments(verb, target), begin=True, seconds=60)
            problem = "" if mine.read_text() == "mine" else "the other file was written"
            if verb == "train" and name.partition("/")[0] in ("diagnosis", "shown", "latex"):
                row.count("not its to write", problem and f"{verb}, {name}: {problem}")
                continue
            if said.code != 2 or "is a link" not in said.line:
                problem = problem or f"code {said.code}: {said.error!r} {said.line}"
            row.count("refused in one line", problem and f"{verb}, {name}: {problem}")
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)
    yield row


# ---- archives


def _tar(*entries: tuple[tarfile.TarInfo | str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for entry, content in entries:
            member = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def _bombs(size: int) -> dict[str, tuple[bytes, str]]:
    """name -> (what is small, of what kind), more than `size` bytes of it come out."""
    zeros = bytes(size + 1)
    header = tarfile.TarInfo("texts/headed.txt")
    header.pax_headers = {"comment": "x" * (size + 1)}
    sparse = tarfile.TarInfo("texts/sparse.txt")
    sparse.pax_headers = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(size * 4),
        "GNU.sparse.numblocks": "1", "GNU.sparse.map": f"{size * 4 - 1},1",
    }  # fmt: skip
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text", zeros)
    several = [(f"texts/{n}.txt", bytes(size // 4)) for n in range(5)]
    return {
        "gzip": (gzip.compress(zeros), "gz"),
        "gzip of many members": (gzip.compress(bytes(size // 8)) * 9, "gz"),
        "tar, one member": (_tar(("texts/one.txt", zeros)), "tar"),
        "tar, several members": (_tar(*several), "tar"),
        "tar, a member that nobody reads": (_tar(("x.bin", zeros), ("texts/a.txt", b"a")), "tar"),
        "tar, a sparse file": (_tar((sparse, b"1")), "tar"),
        "tar, a long header": (_tar((header, b"1")), "tar"),
        "zip": (packed.getvalue(), "zip"),
    }


@contextlib.contextmanager
def _registered(name: str, content: bytes, kind: str) -> Iterator[None]:
    """A corpus "bomb" at an address that sends `content`; its digest is known to be right."""
    import hashlib

    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    with _server({"/x": content}) as (address, _):
        file, folder = ("x.zip" if kind == "zip" else "x"), ("texts" if kind == "tar" else "")
        member = "text" if kind == "zip" else ""
        url = f"{address}/x" + (".gz" if kind == "gz" else "")
        remote = cache.Remote(file, url, digest, folder=folder, member=member)
        with mock.patch.dict(corpora.REMOTES, {name: (remote,)}):
            yield


@contextlib.contextmanager
def _server(pages: dict[str, bytes | str]) -> Iterator[tuple[str, list[str]]]:
    """(address, the paths asked for); a page that is a str is where it redirects to."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            page = pages.get(self.path.removesuffix(".gz"), b"")
            self.send_response(302 if isinstance(page, str) else 200)
            if isinstance(page, str):
                self.send_header("Location", page)
                page = b""
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def _refused(row: Tally, what: str, call: Callable[[], object], *told: str) -> None:
    """Count a call that must raise one line with these words, and take no more than MEMORY."""
    try:
        with _driver.limits(memory=MEMORY):
            call()
        problem = "it was taken"
    except RnnlabError as error:
        line = str(error)
        problem = "" if all(word in line for word in told) and "\n" not in line else line[:300]
    except BaseException as error:
        problem = f"{type(error).__name__} {error}"
    row.count("one line", problem and f"{what}: {problem}")


def bombs(lab: Lab, share: float) -> Iterator[Tally]:
    """What unpacks to more than it may, at every place that unpacks."""
    row = Tally("bombs: gzip, tar, zip, pictures, arrays")
    with (
        mock.patch.object(archives, "MOST", CAP),
        mock.patch.dict(os.environ, {"RNNLAB_CACHE": str(lab.place("cache"))}),
    ):
        for what, (content, kind) in _bombs(CAP).items():

            def load() -> None:
                corpora.load(corpus="bomb", path="", level="byte", glob="")

            with _registered("bomb", content, kind):
                _refused(row, f"a corpus: {what}", load, "holds more than 4 MiB")
            # Nothing of it stays, but for the zip file, which is not unpacked and is what it says it is.
            there = [p for p in cache.folder().iterdir() if not p.name.endswith(".zip")]
            if there:
                row.lost.append(f"{what} has left {there}")
        folder = lab.place("packed")
        folder.mkdir()
        (folder / "train.en.gz").write_bytes(gzip.compress(bytes(CAP + 1)))
        _refused(row, "a file of a user's", lambda: cache.local(folder, "train.en"), "train.en.gz")
    row_of_pictures(lab, row)
    yield row
    if share < 1:
        return
    row = Tally("a gzip of 4 GiB in the place of a file of a user's, in a process")
    with gzip.open(folder / "train.en.gz", "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(1 << 26))
    flags = [f"--config={ROOT / 'experiments' / 'translation.py'}", f"--workdir={lab.place('gz')}"]
    done = lab.run("train", *flags, f"--config.data.path={folder}")
    row.count("exit 2: one line", done.wrong(2, "train.en.gz", "holds more than 1024 MiB"))
    yield row


def row_of_pictures(lab: Lab, row: Tally) -> None:
    """A picture and an array whose headers say that they are huge."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    path = lab.place("picture")
    for side in (12_000, 60_000, 2**31 - 1):
        head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        body = (
            chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
        )
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        with contextlib.suppress(ImportError):
            import PIL.Image

            assert PIL.Image
            _refused(row, f"a picture of {side} pixels", lambda: media.image(path, 16), str(path))
    shape: dict[str, Any] = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**5)}
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(made, shape)
    path.write_bytes(made.getvalue())

    def array() -> None:
        try:
            archives.array(path)
        except (ValueError, OSError) as error:
            raise UsageError(str(error)) from None

    _refused(row, "an array of 800 TB", array)


def strangers(lab: Lab, share: float) -> Iterator[Tally]:
    """Members of an archive that lead outside, and redirects."""
    row = Tally("archives with links, devices and names that lead outside")
    secret = lab.place("secret.txt")
    secret.write_text("secret")
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    up = ".." + "/texts/"
    names = (
        "texts/a.txt",
        up + "a.txt",
        f"{lab.folder}/texts/a.txt",
        up * 9 + "a.txt",
        "texts/\x1b[2J.txt",
    )
    empty = lab.place("empty")
    empty.mkdir()
    before = sorted(map(str, lab.folder.rglob("*")))
    with contextlib.chdir(empty):
        for name in names:
            for kind in (tarfile.REGTYPE, *kinds):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, str(secret)
                content = _tar((member, b"content"), ("texts/b.txt", b"b"))
                found = archives.members(
                    io.BytesIO(content), "x", lambda path: path.suffix == ".txt"
                )
                problem = (
                    "" if b"secret" not in b"".join(found.values()) else "the link was followed"
                )
                row.count("nothing is written", problem and f"{name}: {problem}")
    if sorted(map(str, lab.folder.rglob("*"))) != before:
        row.lost.append("an archive has made files")
    yield row

    row = Tally("redirects to what is not https, and addresses that are not")
    targets = (
        *("http://example.invalid/x", "ftp://example.invalid/x", f"file://{secret}", "gopher://x/"),
        *("HTTP://EXAMPLE.INVALID/", "//example.invalid/x", "http://127.0.0.1.example.invalid/"),
    )
    with _server({f"/{n}": target for n, target in enumerate(targets)}) as (address, asked):
        for number, target in enumerate(targets):
            url = f"{address}/{number}"
            _refused(row, f"to {target}", lambda url=url: [*cache._received(url)], "could not")
        if len(asked) != len(targets):
            row.lost.append(f"asked for {asked}")
    for target in (*targets[:2], "http://localhost.invalid/x", "data:,x", "x", ""):
        _refused(row, target, lambda t=target: [*cache._received(t)], "only https")
    yield row


def campaign(lab: Lab, share: float) -> Iterator[Tally]:
    """All of the above."""
    if sys.platform != "linux":
        return
    for part in (strangers, bombs, links, folders):
        yield from part(lab, share)
    _driver.free()
