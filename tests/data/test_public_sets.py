"""Public sets by name: files of their layout, from a server on this machine, become patch sets."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monai_histodiff import PatchSet
from monai_histodiff.commands import fetch
from monai_histodiff.data.download import check_file, fetch_file
from monai_histodiff.data.public_fetch import fetch_public_set
from monai_histodiff.data.public_readers import PATHMNIST
from monai_histodiff.data.public_sets import PUBLIC_SETS, PublicFile, PublicSet


class Server(http.server.ThreadingHTTPServer):
    """Serves bytes by path, with ranges; breaks off where told to, and keeps what it was asked."""

    files: dict[str, bytes]
    ranges = True
    stop_after: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked = {}, []  # type: ignore[var-annotated]
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.stop_after])

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found
        found.shutdown()


def picture(
    seed: int, side: int = 8, form: str = "TIFF", mode: str = "RGB", width: int = 0
) -> bytes:
    pixels = (
        np.random.default_rng(seed).integers(0, 256, (side, width or side, 3)).astype(np.uint8)
    )
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form)
    return stream.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


# ------------------------------------------------------------------------------------- download


def test_a_file_comes_whole_and_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = bytes(range(256)) * 9000
    known = f"sha256:{hashlib.sha256(server.files['/a']).hexdigest()}"
    for _ in range(2):
        fetch_file(f"{server.url}/a", tmp_path / "a", known, len(server.files["/a"]), False)
    assert (tmp_path / "a").read_bytes() == server.files["/a"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and server.asked == [("/a", None)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(server: Server, ranges: bool, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3_000_000)
    server.files["/a"], server.stop_after, server.ranges = content, 1_300_000, ranges
    with pytest.raises(
        ConnectionError, match="could not be had .* try again, it goes on where it"
    ):
        fetch_file(f"{server.url}/a", tmp_path / "a", progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["a.part"]
    server.stop_after = None
    fetch_file(f"{server.url}/a", tmp_path / "a", progress=False)
    assert (tmp_path / "a").read_bytes() == content
    assert server.asked[1] == ("/a", f"bytes={1_300_000}-")
    (tmp_path / "a").rename(tmp_path / "a.part")  # killed between the last byte and the renaming
    fetch_file(f"{server.url}/a", tmp_path / "a", progress=False)
    assert (tmp_path / "a").read_bytes() == content


def test_what_is_not_what_was_meant_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = b"abc"
    md5 = f"md5:{hashlib.md5(b'abd').hexdigest()}"
    with pytest.raises(
        ValueError, match=f"must have the md5 {md5[4:]}, got 900150983cd24fb0d6963f7"
    ):
        fetch_file(f"{server.url}/a", tmp_path / "a", md5, progress=False)
    with pytest.raises(ValueError, match=r"must have 4 bytes, got 3.*what came was removed"):
        fetch_file(f"{server.url}/a", tmp_path / "a", size=4, progress=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").write_bytes(b"abc")
    with pytest.raises(ValueError, match="it is damaged or another version"):
        fetch_file(f"{server.url}/a", tmp_path / "a", md5, progress=False)
    check_file(tmp_path / "a", f"md5:{hashlib.md5(b'abc').hexdigest()}", 3)
    with pytest.raises(ConnectionError, match="404"):
        fetch_file(f"{server.url}/none", tmp_path / "b", progress=False)
    with pytest.raises(ValueError, match="must begin with http:// or https://, got 'file:///etc'"):
        fetch_file("file:///etc", tmp_path / "b", progress=False)


# --------------------------------------------------------------------------------------- layouts


def nct() -> dict[str, bytes]:
    def part(name: str, count: int) -> bytes:
        files = {
            f"{name}/{c}/{c}-{i:04}.tif": picture(i, 14)
            for c in ("ADI", "TUM")
            for i in range(count)
        }
        return zipped({**files, "__MACOSX/x/ADI/ADI-0.tif": b"", f"{name}/ADI/._ADI-0.tif": b""})

    return {
        "NCT-CRC-HE-100K.zip": part("NCT-CRC-HE-100K", 3),
        "CRC-VAL-HE-7K.zip": part("CRC-VAL-HE-7K", 2),
    }


def pathmnist() -> dict[str, bytes]:
    rng, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 600), ("val", 4), ("test", 5)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count)[:, None] % 9).astype(np.uint8)
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return {"pathmnist_64.npz": stream.getvalue()}


def kather() -> dict[str, bytes]:
    top = "Kather_texture_2016_image_tiles_5000"
    names = ("01_TUMOR/10009_CRC-Prim-HE-03_009.tif", "01_TUMOR/100B0_CRC-Prim-HE-09_009.tif")
    names += ("08_EMPTY/10062_CRC-Prim-HE-02_003b.tif",)
    files = {f"{top}/{n}_Row_301_Col_151.tif": picture(i) for i, n in enumerate(names)}
    return {f"{top}.zip": zipped(files)}


def mhist() -> dict[str, bytes]:
    rows = "MHIST_aaa.png,SSA,6,train\nMHIST_aab.png,HP,2,test\n"
    votes = "Number of Annotators who Selected SSA (Out of 7)"
    head = f"Image Name,Majority Vote Label,{votes},Partition\n"
    files = {
        "images/MHIST_aaa.png": picture(0, form="PNG"),
        "images/MHIST_aab.png": picture(1, form="PNG", mode="P"),
    }
    return {"images.zip": zipped(files), "annotations.csv": (head + rows).encode()}


def breakhis() -> dict[str, bytes]:
    stream = io.BytesIO()
    top = "BreaKHis_v1/histology_slides/breast"
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in (
            "benign/SOB/adenosis/SOB_B_A_14-22549AB/40X/SOB_B_A-14-22549AB-40-001.png",
            "benign/SOB/adenosis/SOB_B_A_14-22549AB/40X/._SOB_B_A-14-22549AB-40-001.png",
            "benign/SOB/adenosis/SOB_B_A_14-22549AB/100X/SOB_B_A-14-22549AB-100-001.png",
            "malignant/SOB/ductal_carcinoma/SOB_M_DC_14-2773/40X/SOB_M_DC-14-2773-40-013.png",
        ):
            content = picture(len(name), form="PNG")
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return {"BreaKHis_v1.tar.gz": stream.getvalue()}


def bach() -> dict[str, bytes]:
    files = {
        f"ICIAR2018_BACH_Challenge/Photos/{c}/{c[0].lower()}001.tif": picture(i)
        for i, c in enumerate(("Normal", "Benign"))
    }
    return {
        "ICIAR2018_BACH_Challenge.zip": zipped(
            {**files, "ICIAR2018_BACH_Challenge/WSI/A01.svs": b""}
        )
    }


def lc25000() -> dict[str, bytes]:
    names = (
        "lung_image_sets/lung_aca/lungaca1",
        "lung_image_sets/lung_aca/lungaca2",
        "colon_image_sets/colon_n/colonn1",
    )
    files = {
        f"lung_colon_image_set/{n}.jpeg": picture(i, form="JPEG") for i, n in enumerate(names)
    }
    rows = "stem,filename,label,group_id\nlungaca1,,,743\nlungaca2,,,743\ncolonn1,,,12\n"
    return {"lung_colon_image_set.zip": zipped(files), "lc25000_image_groups.csv": rows.encode()}


def pcam() -> dict[str, bytes]:
    h5py = pytest.importorskip("h5py")
    found = {}
    for k, part in enumerate(("train", "valid", "test")):
        base = f"camelyonpatch_level_2_split_{part}"
        for kind, values in (
            ("x", np.full((3, 6, 6, 3), 50 * k, np.uint8)),
            ("y", np.array([0, 1, 1], np.uint8)[:, None, None, None]),
        ):
            stream = io.BytesIO()
            with h5py.File(stream, "w") as file:
                file[kind] = values
            found[f"{base}_{kind}.h5.gz"] = gzip.compress(stream.getvalue())
        rows = "".join(f",0,0,True,False,camelyon16_{part}_{i // 2}\n" for i in range(3))
        found[f"{base}_meta.csv"] = (
            f",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi\n{rows}".encode()
        )
    return found


Rows = set[tuple[str, str, str]]  # label, split, group
LAYOUTS: dict[str, tuple[Callable[[], dict[str, bytes]], Rows, int]] = {
    "nct": (nct, {("ADI", "train", "train/ADI-0002"), ("TUM", "test", "test/TUM-0001")}, 10),
    "pathmnist_64": (
        pathmnist,
        {
            (PATHMNIST[5], "train", "train_000599"),
            (PATHMNIST[3], "train", "val_000003"),
            (PATHMNIST[4], "test", "test_000004"),
        },
        609,
    ),
    "kather2016": (
        kather,
        {
            ("TUMOR", "", "CRC-Prim-HE-03"),
            ("TUMOR", "", "CRC-Prim-HE-09"),
            ("EMPTY", "", "CRC-Prim-HE-02"),
        },
        3,
    ),
    "mhist": (mhist, {("SSA", "train", "MHIST_aaa"), ("HP", "test", "MHIST_aab")}, 2),
    "breakhis_40x": (
        breakhis,
        {("adenosis", "", "14-22549AB"), ("ductal_carcinoma", "", "14-2773")},
        2,
    ),
    "bach": (bach, {("Normal", "", "n001"), ("Benign", "", "b001")}, 2),
    "lc25000": (lc25000, {("lung_aca", "", "tile_743"), ("colon_n", "", "tile_12")}, 3),
    "pcam": (
        pcam,
        {
            ("no_tumor", "train", "camelyon16_train_0"),
            ("tumor", "train", "camelyon16_valid_1"),
            ("tumor", "test", "camelyon16_test_1"),
        },
        9,
    ),
}


def served(name: str, server: Server, archives: Path) -> dict[str, PublicSet]:
    """A table of one set, with files on the server, and those for hand in their folder."""
    archives.mkdir(exist_ok=True)
    made, files = LAYOUTS[name][0](), []
    assert set(made) == {file.name for file in PUBLIC_SETS[name].files}
    for file in PUBLIC_SETS[name].files:
        content = made[file.name]
        if file.url:
            server.files[f"/{file.name}"] = content
            known = f"sha256:{hashlib.sha256(content).hexdigest()}"
            files.append(PublicFile(file.name, f"{server.url}/{file.name}", known, len(content)))
        else:
            (archives / file.name).write_bytes(content)
            files.append(file)
    return {name: replace(PUBLIC_SETS[name], files=tuple(files))}


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_set_of_that_layout_becomes_a_patch_set(
    name: str, server: Server, tmp_path: Path
) -> None:
    known = served(name, server, tmp_path / "archives")
    folder = fetch_public_set(
        name, tmp_path / "set", tmp_path / "archives", progress=False, known=known
    )
    patches = PatchSet.open(folder)
    rows = {(r.label, r.split, r.group) for r in patches.records}
    assert rows >= LAYOUTS[name][1] and len(patches) == LAYOUTS[name][2]
    assert set(patches.classes) <= set(PUBLIC_SETS[name].classes)
    um = PUBLIC_SETS[name].um_per_px
    assert {r.extra["um_per_px"] for r in patches.records} == {f"{um:.4g}" if um else ""}
    assert len(patches.images()) == len(patches)  # all are RGB and of one size
    told = (folder / "SOURCE.txt").read_text()
    assert PUBLIC_SETS[name].licence in told and PUBLIC_SETS[name].page in told


def test_pictures_keep_their_bytes_or_their_pixels(server: Server, tmp_path: Path) -> None:
    known = served("nct", server, tmp_path / "archives")
    folder = fetch_public_set(
        "nct", tmp_path / "nct", tmp_path / "archives", progress=False, known=known
    )
    assert (folder / "train/TUM/TUM-0002.tif").read_bytes() == picture(2, 14)
    known = served("pathmnist_64", server, tmp_path / "archives")
    folder = fetch_public_set(
        "pathmnist_64", tmp_path / "path", tmp_path / "archives", progress=False, known=known
    )
    patches = PatchSet.open(folder)
    at = {r.path: i for i, r in enumerate(patches.records)}
    with np.load(tmp_path / "archives" / "pathmnist_64.npz") as arrays:
        for part, i in (
            ("train", 0),
            ("train", 256),
            ("train", 599),
            ("test", 4),
        ):  # reads 256 at once
            label = PATHMNIST[int(arrays[f"{part}_labels"][i, 0])]
            found = patches[at[f"{label}/{part}_{i:06}.png"]]["image"].permute(1, 2, 0).numpy()
            assert np.array_equal(found, arrays[f"{part}_images"][i])


def test_a_part_may_be_drawn_shrunk_and_cut(server: Server, tmp_path: Path) -> None:
    known, archives = served("nct", server, tmp_path / "archives"), tmp_path / "archives"

    def fetched(folder: str, **options: Any) -> PatchSet:
        return PatchSet.open(
            fetch_public_set(
                "nct", tmp_path / folder, archives, progress=False, known=known, **options
            )
        )

    drawn = fetched("drawn", per_class=1)
    assert drawn.select("train").counts() == drawn.select("test").counts() == {"ADI": 1, "TUM": 1}
    assert (
        drawn.digest()
        == fetched("again", per_class=1).digest()
        != fetched("other", per_class=1, seed=3).digest()
    )
    shrunk = fetched("shrunk", um_per_px=1.0)
    assert shrunk.images().shape == (10, 3, 7, 7) and shrunk.records[0].extra["um_per_px"] == "1"
    cut = fetched("cut", tile=6)
    whole = np.asarray(Image.open(io.BytesIO(picture(0, 14))))
    assert len(cut) == 10 * 4 and (cut.records[1].path, cut.records[1].group) == (
        "train/ADI/ADI-0000_6_0.png",
        "train/ADI-0000",
    )
    assert np.array_equal(cut[1]["image"].permute(1, 2, 0).numpy(), whole[:6, 6:12])


def test_a_spacing_or_tile_that_leaves_nothing_is_refused(server: Server, tmp_path: Path) -> None:
    known, archives = served("nct", server, tmp_path / "archives"), tmp_path / "archives"
    for options, message in (
        ({"um_per_px": float("nan")}, "um_per_px must be a number of .*, got nan"),
        ({"um_per_px": 500.0}, "got 500.0: if that is in nanometres, write 0.5"),
        ({"tile": 512}, "got 224 x 224 px of 'NCT.*', and tile 512: choose a smaller"),
        ({"tile": 128, "um_per_px": 1.0}, "got 112 x 112 px, from 224 x 224 of"),
    ):
        with pytest.raises(ValueError, match=message):
            fetch_public_set("nct", tmp_path / "set", archives, known=known, **options)  # type: ignore[arg-type]
    assert not server.asked
    with pytest.raises(
        ValueError, match="got 14 x 14 px of 'train/ADI/ADI-0000.tif', and tile 15"
    ):
        fetch_public_set("nct", tmp_path / "set", archives, tile=15, progress=False, known=known)
    assert not (tmp_path / "set").exists()


def test_an_unpacked_file_is_compared_with_its_archive(server: Server, tmp_path: Path) -> None:
    known, archives = served("pcam", server, tmp_path / "archives"), tmp_path / "archives"

    def fetched(name: str) -> PatchSet:
        return PatchSet.open(
            fetch_public_set("pcam", tmp_path / name, archives, progress=False, known=known)
        )

    first = fetched("first")
    assert fetched("second").digest() == first.digest()
    plain = archives / "camelyonpatch_level_2_split_test_x.h5"
    plain.write_bytes(plain.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="_x.h5' must be what '.*h5.gz' holds, .*: remove it"):
        fetched("third")


def test_what_is_wrong_is_told_before_any_download(server: Server, tmp_path: Path) -> None:
    known, archives = served("mhist", server, tmp_path / "archives"), tmp_path / "archives"
    with pytest.raises(ValueError, match="the set must be one of mhist, got 'nct'"):
        fetch_public_set("nct", tmp_path / "set", archives, known=known)
    with pytest.raises(
        ValueError, match="um_per_px must be at least the set's own, unknown, got 1.0"
    ):
        fetch_public_set("mhist", tmp_path / "set", archives, um_per_px=1.0, known=known)
    with pytest.raises(ValueError, match="must be at least the set's own, 0.5, got 0.25"):
        fetch_public_set("nct", tmp_path / "set", archives, um_per_px=0.25)
    with pytest.raises(ValueError, match="per_class and tile must be at least 1, got 0 and None"):
        fetch_public_set("mhist", tmp_path / "set", archives, per_class=0, known=known)
    with pytest.raises(
        FileExistsError, match="must go into a new folder, got '.*archives', not empty"
    ):
        fetch_public_set("mhist", archives, archives, known=known)
    (archives / "images.zip").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=(
            r"MHIST .* must be fetched by hand, got no images.zip in .* form on its "
            r"page.*bmirds"
        ),
    ):
        fetch_public_set("mhist", tmp_path / "set", archives, known=known)
    assert not server.asked and not (tmp_path / "set").exists()


def test_files_that_do_not_fit_each_other_are_refused(server: Server, tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    for name, file, content, message in (
        (
            "mhist",
            "annotations.csv",
            b"Image Name,Majority Vote Label,Partition\n",
            "must list every picture, got none for 'MHIST_aaa.png'",
        ),
        (
            "lc25000",
            "lc25000_image_groups.csv",
            b"stem,group_id\n",
            "table of groups must list every picture, got none for 'colonn1'",
        ),
        (
            "mhist",
            "images.zip",
            zipped({"x.txt": b""}),
            r"the zip must hold files such as .* got none in '.*images.zip'",
        ),
    ):
        known = served(name, server, archives)
        (archives / file).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            fetch_public_set(name, tmp_path / "set", archives, progress=False, known=known)
        assert not (tmp_path / "set").exists()


def test_the_command_tells_and_fetches(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fetch.main(["pcam"])
    assert "licence: CC0 1.0" in capsys.readouterr().out
    monkeypatch.setattr(
        fetch, "PUBLIC_SETS", served("kather2016", server, tmp_path / "set-archives")
    )
    fetch.main(["kather2016", str(tmp_path / "set")])
    out = capsys.readouterr().out
    content = server.files["/Kather_texture_2016_image_tiles_5000.zip"]
    assert f"sha256 {hashlib.sha256(content).hexdigest()}  Kather_texture" in out
    assert out.endswith("no split: 3 patches, 3 groups: {'EMPTY': 1, 'TUMOR': 2}\n")
    with pytest.raises(SystemExit) as stopped:
        fetch.main(["kather2016", str(tmp_path / "set")])
    assert stopped.value.code == 1 and "must go into a new folder" in capsys.readouterr().err


def test_the_table_is_complete() -> None:
    for name, what in PUBLIC_SETS.items():
        assert what.title and what.licence and what.groups and what.notes.endswith("."), name
        assert what.page.startswith("https://") and len(what.classes) >= 2 and what.patches > 0
        assert what.classes == tuple(sorted(what.classes)), name
        for file in what.files:
            assert not file.url or file.url.startswith(
                ("https://zenodo.org/records/", "http://www.inf.ufpr.br/")
            )
            assert re.fullmatch(r"|md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", file.checksum)
