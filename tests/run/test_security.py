"""What is data stays data: no pickle, no code of a run folder, no archive unpacked by name, https alone."""

import ast
import http.server
import io
import re
import shutil
import threading

import pytest

from rnnlab.data import cache
from rnnlab.errors import UsageError
from rnnlab.run.folder import lock
from rnnlab.tasks import mnist
from rnnlab.tasks.language_model import corpora
from rnnlab.tasks.translation import texts
from tests.support import ROOT

SOURCES = [ROOT / "launch.py", *sorted((ROOT / "rnnlab").rglob("*.py"))]
# Modules that run what they read, and the places that may have them.
CODE = ("pickle", "cloudpickle", "marshal", "shelve", "dill", "joblib", "runpy", "code")
ALLOWED = {
    ("rnnlab/sweep/slurm.py", "cloudpickle"): "what submitit hands to the job that it submits",
    (
        "rnnlab/run/config_file.py",
        "exec_module",
    ): "the config file that the user names, which is Python",
}
# Calls that do more than they seem to.
CALLS = (
    *(
        "eval",
        "exec",
        "compile",
        "__import__",
        "exec_module",
        "import_module",
        "extractall",
        "extract",
    ),
    *("unpack_archive", "system", "popen", "urlopen", "urlretrieve", "unsafe_load", "full_load"),
)
IMPORTS = {  # modules of the package by name, which is one of those that there are
    *("rnnlab/cells/__init__.py", "rnnlab/tasks/__init__.py", "rnnlab/data/optional.py"),
    *("rnnlab/bench/worker.py", "rnnlab/bench/contenders/torch_nn.py"),
    *("rnnlab/__init__.py", "rnnlab/diagnose/report.py"),
}


def uses(tree):
    """(what a module does that could run data as code, its line)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            for name in names:
                if name.partition(".")[0] in (*CODE, "yaml"):
                    yield name.partition(".")[0], node.lineno
        if not isinstance(node, ast.Call):
            continue
        bare = isinstance(node.func, ast.Name)
        name = node.func.id if bare else getattr(node.func, "attr", "")  # type: ignore
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in ("eval", "exec", "compile", "__import__") and not bare:
            continue  # a method of that name: re.compile, model.eval
        if name in CALLS:
            yield name, node.lineno
        if name == "load" and ast.unparse(node.func) in ("np.load", "numpy.load"):
            yield ("np.load", node.lineno)
        if keywords.get("allow_pickle", "False") != "False":
            yield "allow_pickle", node.lineno
        if keywords.get("shell", "False") != "False":
            yield "shell", node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_runs_what_it_reads(path):
    text, place = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    for name, line in uses(ast.parse(text)):
        known = (place, name) in ALLOWED
        known |= name == "import_module" and place in IMPORTS
        known |= name == "np.load" and place == "rnnlab/data/archives.py"
        known |= (
            name == "compile" and place == "rnnlab/tasks/language_model/latex.py"
        )  # its own: a document
        assert known, f"{place}:{line} has {name}"
    addresses = re.findall(r"http://[^\s\"'<>]+", text)
    assert [a for a in addresses if not a.startswith("http://127.0.0.1")] == []


def test_the_scan_sees_what_it_looks_for():
    code = (
        "import pickle\nfrom marshal import loads\nimport yaml\neval('1')\nnp.load(p)\n"
        "np.load(p, allow_pickle=True)\nrun(c, shell=True)\nt.extractall()\nm.eval()\nre.compile('')\n"
        "urllib.request.urlopen(x)\nimportlib.import_module(x)\n"
    )
    found = sorted(name for name, _ in uses(ast.parse(code)))
    assert found == [
        *("allow_pickle", "eval", "extractall", "import_module", "marshal", "np.load", "np.load"),
        *("pickle", "shell", "urlopen", "yaml"),
    ]


# Downloads


def test_every_address_is_https_and_has_a_digest(monkeypatch):
    asked = [remote for remotes in corpora.REMOTES.values() for remote in remotes]

    def fetch(remote):
        asked.append(remote)
        raise UsageError("not now")

    monkeypatch.setattr(cache, "fetch", fetch)
    for archive, digest, _ in texts.MULTI30K.values():
        with pytest.raises(UsageError, match="not now"):
            texts._member(archive, digest, "x")
    for name, digest in [*mnist.FILES.items()]:
        monkeypatch.setattr(mnist, "FILES", {name: digest})
        mnist.load.cache_clear()
        with pytest.raises(UsageError, match="not now"):
            mnist.load("")
    assert len(asked) >= 10
    for remote in asked:
        assert remote.address.startswith("https://"), remote
        assert re.fullmatch("sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", remote.digest), remote


@pytest.fixture
def server():
    """One that redirects to the path it is asked for, without the slash."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", self.path[1:])
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("target", ["http://example.invalid/x", "ftp://example.invalid/x"])
def test_a_redirect_to_what_is_not_https_is_refused(server, target):
    with pytest.raises(UsageError, match=re.escape(f"it leads to {target}, which is not https")):
        [*cache._received(f"{server}/{target}")]


def test_a_redirect_to_a_file_is_refused(server, tmp_path):
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(UsageError, match="could not fetch"):
        [*cache._received(f"{server}/{(tmp_path / 'secret').as_uri()}")]


def test_what_is_encrypted_stays_so():
    request = cache.urllib.request.Request("https://example.invalid/x")
    answer = io.BytesIO()
    with pytest.raises(cache.urllib.error.URLError, match="not https"):
        cache._Redirects().redirect_request(request, answer, 302, "", {}, "http://127.0.0.1/x")
    assert answer.closed
    assert cache._Redirects().redirect_request(
        request, None, 302, "", {}, "https://example.invalid/y"
    )


@pytest.mark.parametrize("address", ["http://example.invalid/x", "ftp://x.invalid/y", "data:,x"])
def test_an_address_that_is_not_https_is_not_asked(address):
    with pytest.raises(UsageError, match="only https addresses"):
        [*cache._received(address)]


# Links in a run folder


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", ".config.json.writing", "curves.png"])
def test_no_file_is_written_through_a_link(name, tmp_path):
    other, workdir = tmp_path / "other", tmp_path / "run"
    other.write_text("mine")
    workdir.mkdir()
    (workdir / name).symlink_to(other)
    with pytest.raises(UsageError, match="is a link"), lock(workdir):
        pass
    assert other.read_text() == "mine"


def test_a_link_to_a_folder_may_be_in_a_run(tmp_path):
    """Checkpoints on a larger disk, say; and the run's folder may be a link itself."""
    for name in ("disk", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with lock(tmp_path / "link"):
        pass
    shutil.rmtree(tmp_path / "run")
