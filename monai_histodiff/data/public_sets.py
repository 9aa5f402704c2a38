"""Public patch sets by name: where their files are, what they are, and what is known to leak.

Checksums are those that others publish and check against; where none is known the field is empty,
and the command prints what it got.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import monai_histodiff.data.public_readers as readers

__all__ = ["PUBLIC_SETS", "PublicFile", "PublicSet"]

ZENODO = "https://zenodo.org/records"
CC_BY = "CC BY 4.0"
NCT_CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
NO_NAMES = "none known: each patch is its own group, so that intervals are too narrow"


@dataclass(frozen=True)
class PublicFile:
    """One file of a set: an empty ``url`` must be fetched by hand, an empty ``checksum`` is
    unknown.
    """

    name: str
    url: str = ""
    checksum: str = ""
    size: int | None = None


@dataclass(frozen=True)
class PublicSet:
    """What is known of one public set.

    Attributes:
        title: its name in print.
        page: where its authors describe it.
        licence: of the pictures.
        classes: names of its classes.
        patches: number of pictures.
        pixels: their width and height.
        um_per_px: their spacing, or nothing where the authors state none.
        groups: what a group is.
        notes: what is known to leak, and what else to know before use.
        files: what is downloaded, or put there by hand.
        read: see :mod:`~monai_histodiff.data.public_readers`.
    """

    title: str
    page: str
    licence: str
    classes: tuple[str, ...]
    patches: int
    pixels: tuple[int, int]
    um_per_px: float | None
    groups: str
    notes: str
    files: tuple[PublicFile, ...]
    read: readers.Reader


def _nct(name: str, md5: str, size: int | None, notes: str) -> PublicSet:
    record = f"{ZENODO}/1214456"
    test = PublicFile(
        "CRC-VAL-HE-7K.zip",
        f"{record}/files/CRC-VAL-HE-7K.zip",
        "md5:2fd1651b4f94ebd818ebf90ad2b6ce06",
        800_276_929,
    )
    train = PublicFile(f"{name}.zip", f"{record}/files/{name}.zip", f"md5:{md5}", size)
    return PublicSet(
        f"{name} with CRC-VAL-HE-7K (Kather et al. 2018)",
        record,
        CC_BY,
        NCT_CLASSES,
        107_180,
        (224, 224),
        0.5,
        NO_NAMES,
        f"{notes} Test: 50 patients, none of them in training.",
        (train, test),
        readers.read_nct,
    )


def _pathmnist(side: int, md5: str) -> PublicSet:
    url = f"{ZENODO}/10519652/files/pathmnist_{side}.npz"
    return PublicSet(
        f"PathMNIST at {side} px (MedMNIST+, Yang et al. 2023)",
        "https://medmnist.com",
        CC_BY,
        tuple(sorted(readers.PATHMNIST)),
        107_180,
        (side, side),
        0.5 * 224 / side,
        NO_NAMES,
        "NCT-CRC-HE-100K and CRC-VAL-HE-7K, resized. Its validation part is of the patients of "
        "the "
        "training part and joins it here.",
        (PublicFile(f"pathmnist_{side}.npz", url, f"md5:{md5}"),),
        readers.read_pathmnist,
    )


def _breakhis(magnification: int, patches: int) -> PublicSet:
    url = "http://www.inf.ufpr.br/vri/databases/BreaKHis_v1.tar.gz"
    return PublicSet(
        f"BreakHis at {magnification}x (Spanhol et al. 2016)",
        "https://web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis",
        CC_BY,
        tuple(sorted(readers.BREAKHIS.values())),
        patches,
        (700, 460),
        None,
        "patient (82), from the file name",
        "Some classes have as few as 3 patients: leave them out, or no test of them is possible. "
        "Fields of one patient overlap across magnifications: use one.",
        (PublicFile("BreaKHis_v1.tar.gz", url),),
        readers.read_breakhis(magnification),
    )


def _pcam_files() -> tuple[PublicFile, ...]:
    known = {
        "train_x": (
            "d619e741468a7ab35c7e4a75e6821b7e7e6c9411705d45708f2a0efc8960656c",
            6_421_353_462,
        ),
        "train_y": ("b74126d2c01b20d3661f9b46765d29cf4e4fba6faba29c8e0d09d406331ab75a", 21_378),
        "valid_x": (
            "f82ee1670d027b4ec388048d9eabc2186b77c009655dae76d624c0ecb053ccb2",
            805_965_320,
        ),
        "valid_y": ("ce1ae30f08feb468447971cfd0472e7becd0ad96d877c64120c72571439ae48c", 3_038),
        "test_x": (
            "79174c2201ad521602a5888be8f36ee10875f37403dd3f2086caf2182ef87245",
            800_875_929,
        ),
        "test_y": ("0a522005fccc8bbd04c5a117bfaf81d8da2676f03a29d7499f71d0a0bd6068ef", 3_040),
    }
    meta = {
        "train": "5a3dd671e465cfd74b5b822125e65b0a",
        "valid": "3455fd69135b66734e1008f3af684566",
        "test": "67589e00a4a37ec317f2d1932c7502ca",
    }
    base, at = "camelyonpatch_level_2_split_", f"{ZENODO}/2546921/files"
    arrays = [
        PublicFile(f"{base}{part}.h5.gz", f"{at}/{base}{part}.h5.gz", f"sha256:{sha}", size)
        for part, (sha, size) in known.items()
    ]
    tables = [
        PublicFile(f"{base}{part}_meta.csv", f"{at}/{base}{part}_meta.csv", f"md5:{md5}")
        for part, md5 in meta.items()
    ]
    return (*arrays, *tables)


PUBLIC_SETS: Mapping[str, PublicSet] = {
    "nct": _nct(
        "NCT-CRC-HE-100K",
        "6fd702d11df6292bc054397ae038a464",
        11_690_284_003,
        "Training: 86 patients, normalised stain.",
    ),
    "nct_nonorm": _nct(
        "NCT-CRC-HE-100K-NONORM",
        "035777cf327776a71a05c95da6d6325f",
        None,
        "Training: 86 patients, stain as scanned.",
    ),
    "pathmnist_64": _pathmnist(64, "55aa9c1e0525abe5a6b9d8343a507616"),
    "pathmnist_128": _pathmnist(128, "ac42d08fb904d92c244187169d1fd1d9"),
    "pathmnist_224": _pathmnist(224, "2c51a510bcdc9cf8ddb2af93af1eadec"),
    "kather2016": PublicSet(
        "Colorectal textures (Kather et al. 2016)",
        f"{ZENODO}/53169",
        CC_BY,
        ("ADIPOSE", "COMPLEX", "DEBRIS", "EMPTY", "LYMPHO", "MUCOSA", "STROMA", "TUMOR"),
        5_000,
        (150, 150),
        0.495,
        "slide (10), from the file name",
        "No split of its own: groups are drawn. A random split mixes tiles of one slide, as most "
        "published figures do.",
        (
            PublicFile(
                "Kather_texture_2016_image_tiles_5000.zip",
                f"{ZENODO}/53169/files/Kather_texture_2016_image_tiles_5000.zip",
                "sha256:936d0b95ae0f04f1f7b18a2b7e8c55776c3e887d102f645bcee752d1a6626a32",
                258_098_431,
            ),
        ),
        readers.read_kather,
    ),
    "pcam": PublicSet(
        "PatchCamelyon (Veeling et al. 2018)",
        "https://github.com/basveeling/pcam",
        "CC0 1.0",
        ("no_tumor", "tumor"),
        327_680,
        (96, 96),
        0.972,
        "slide, from the table that comes with it",
        "96 px are less than the 128 px of the shipped generator. The label is that of the centre "
        "32 x 32 px. Validation joins training: its slides are others than the test's.",
        _pcam_files(),
        readers.read_pcam,
    ),
    "mhist": PublicSet(
        "MHIST (Wei et al. 2021)",
        "https://bmirds.github.io/MHIST",
        "MHIST Dataset Research Use Agreement",
        ("HP", "SSA"),
        3_152,
        (224, 224),
        None,
        NO_NAMES,
        "Shrunk from a scan at 40x, to about 5x as other harnesses state. Ask for it with the "
        "form on "
        "its page, and put the two files from the answer into the folder of the archives.",
        (PublicFile("images.zip"), PublicFile("annotations.csv")),
        readers.read_mhist,
    ),
    "breakhis_40x": _breakhis(40, 1_995),
    "breakhis_100x": _breakhis(100, 2_081),
    "breakhis_200x": _breakhis(200, 2_013),
    "breakhis_400x": _breakhis(400, 1_820),
    "bach": PublicSet(
        "BACH, microscopy pictures (Aresta et al. 2019)",
        "https://iciar2018-challenge.grand-challenge.org/Dataset",
        "CC BY-NC-ND 4.0",
        ("Benign", "InSitu", "Invasive", "Normal"),
        400,
        (2048, 1536),
        0.42,
        "picture: patients are not named in the file",
        "Several pictures come from one patient; the challenge's page lists some of them. No "
        "derivatives: what is made of the pictures must not be passed on.",
        (
            PublicFile(
                "ICIAR2018_BACH_Challenge.zip",
                f"{ZENODO}/3632035/files/ICIAR2018_BACH_Challenge.zip",
                "md5:8ae1801334aa943c44627c1eef3631b2",
            ),
        ),
        readers.read_bach,
    ),
    "lc25000": PublicSet(
        "LC25000 (Borkowski et al. 2019)",
        "https://arxiv.org/abs/1912.12142",
        "free to use, as its authors say; no formal licence",
        ("colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc"),
        25_000,
        (768, 768),
        None,
        "source tile (1,246), from the table of LC25000-clean",
        "Some 250 tiles of each class, each turned and flipped 20 times: a random split tests on "
        "copies. Put both files into the folder of the archives: the zip as its authors or Kaggle "
        "give it, and kaggle/lc25000_image_groups.csv of github.com/GeorgeBatch/LC25000-clean.",
        (PublicFile("lung_colon_image_set.zip"), PublicFile("lc25000_image_groups.csv")),
        readers.read_lc25000,
    ),
}
