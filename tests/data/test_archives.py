"""What is packed comes out piece by piece, capped, and without a name or a pickle being followed."""

import gzip
import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from rnnlab.data import archives, cache
from rnnlab.errors import UsageError


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(archives, "MOST", 1 << 20)
    return 1 << 20


def tarred(entries, mode="w:gz"):
    """A tar archive of (TarInfo or name, content)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:
        for entry, content in entries:
            member = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            if member.isreg():
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    made.seek(0)
    return made


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, str(target)
    return member


def texts(path):
    return path.suffix == ".txt"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_are_read_by_their_names(mode):
    made = tarred([("a/one.txt", b"1"), ("a/two.bin", b"2"), ("b/three.txt", b"3" * 5000)], mode)
    assert archives.members(made, "x", texts) == {"one.txt": b"1", "three.txt": b"3" * 5000}


def test_links_devices_and_names_that_lead_outside_make_no_file(tmp_path, monkeypatch):
    secret, inside = tmp_path / "secret.txt", tmp_path / "inside"
    secret.write_text("secret")
    inside.mkdir()
    monkeypatch.chdir(inside)
    entries = [
        (link("soft.txt", secret), b""),
        (link("hard.txt", secret, tarfile.LNKTYPE), b""),
        (link("device.txt", "", tarfile.CHRTYPE), b""),
        (link("fifo.txt", "", tarfile.FIFOTYPE), b""),
        (".." + "/up.txt", b"up"),
        (f"{tmp_path}/absolute.txt", b"absolute"),
    ]
    found = archives.members(tarred(entries), "x", texts)
    assert found == {"up.txt": b"up", "absolute.txt": b"absolute"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inside", "secret.txt"]
    assert not [*inside.iterdir()]


def bombs(size):
    """name -> what is small, and more than `size` bytes when it is unpacked."""
    zeros = bytes(size + 1)
    several = [(f"{n}.txt", zeros[: size // 4]) for n in range(5)]
    unread = [("large.bin", zeros), ("one.txt", b"1")]
    sparse = tarfile.TarInfo("sparse.txt")
    sparse.pax_headers = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(size * 4),
        "GNU.sparse.numblocks": "1", "GNU.sparse.map": f"{size * 4 - 1},1",
    }  # fmt: skip
    header = tarfile.TarInfo("headed.txt")
    header.pax_headers = {"comment": "x" * (size + 1)}
    return {
        "one member": [("one.txt", zeros)],
        "several members": several,
        "a member that nobody reads": unread,
        "holes of a sparse file": [(sparse, b"1")],
        "a long header": [(header, b"1")],
    }


@pytest.mark.parametrize("kind", [*bombs(4)])
def test_a_tar_bomb_is_told(kind, small):
    made = tarred(bombs(small)[kind])
    assert len(made.getvalue()) < small / 50
    with pytest.raises(UsageError, match="x holds more than 1 MiB when unpacked"):
        archives.members(made, "x", texts)


def test_a_gzip_bomb_is_told(small, tmp_path):
    assert archives.gunzip(io.BytesIO(gzip.compress(bytes(small))), "x") == bytes(small)
    for packed in (gzip.compress(bytes(small + 1)), gzip.compress(bytes(small - 9)) * 3):
        with pytest.raises(UsageError, match="x holds more than 1 MiB when unpacked"):
            archives.gunzip(io.BytesIO(packed), "x")
    (tmp_path / "train.en.gz").write_bytes(packed)
    with pytest.raises(UsageError, match=r"train\.en\.gz holds more than 1 MiB"):
        cache.local(tmp_path, "train.en")


def test_a_zip_bomb_is_told(small, tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text", bytes(small + 1))
        archive.writestr("fits", b"abc")
    with archives.member(path, "fits") as stream:
        assert stream.read() == b"abc"
    with archives.member(path, "text") as stream:
        stream.read(small)
        with pytest.raises(UsageError, match=r"bomb\.zip/text holds more than 1 MiB"):
            stream.read(1)


class Attack:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_an_array_is_an_array(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(archives.array(path), np.arange(6).reshape(2, 3))
    objects = io.BytesIO()
    np.save(objects, np.array([Attack()], object), allow_pickle=True)
    packed = io.BytesIO()
    np.savez(packed, a=np.arange(3))
    huge = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 10**6)}
    np.lib.format.write_array_header_1_0(huge, shape)
    odd = huge.getvalue().replace(b"(1000000000000, 1000000)", b"(__import__('os'),)     ")
    for content in (
        *(objects.getvalue(), pickle.dumps(Attack()), packed.getvalue(), huge.getvalue(), odd),
        *(b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"\x00" * 300, b"[" * 300),
    ):
        path.write_bytes(content)
        with pytest.raises((ValueError, OSError, EOFError)):
            archives.array(path)
    assert not (tmp_path / "executed").exists()
