"""Patches in other hands: a patch set as an ImageFolder, a WebDataset shard, or a Hugging Face
``imagefolder``, each with a card that says what it is.

``LABEL`` is the name of the class; characters that no folder can have everywhere are written as in
web addresses (``3/4`` as ``3%2F4``), and the card says so.

* ``imagefolder``: ``LABEL/NAME.png``, as ``torchvision.datasets.ImageFolder`` reads it, below
  ``train/``, ``val/`` and ``test/`` where a split is recorded.
* ``huggingface``: ``LABEL/NAME.png`` below ``train/``, ``validation/`` and ``test/`` (``train/``
  where no split is recorded), each with ``metadata.jsonl``, in which ``file_name`` names the
  picture, and a ``README.md`` with YAML front matter, as
  ``datasets.load_dataset("imagefolder", data_dir=...)`` reads it.
* ``webdataset``: one tar file of ``NAME.png``, ``NAME.cls`` (index of the class) and ``NAME.json``
  (all that is known of it) for each patch, one after another.

``um_per_px`` is that of the picture as it is written; its PNG has it as resolution, too. The index
of a class is that of the bank or of the candidates that the patches are of, and stands on the
card.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from monai_histodiff.data.patch_files import COLUMNS, SCALE, PatchRecord
from monai_histodiff.data.patch_set import PatchSet
from monai_histodiff.data.scale import INCH, image_scale
from monai_histodiff.data.sealed import COLUMNS as SEALED
from monai_histodiff.data.sealed import HASH, INDEX
from monai_histodiff.data.splits import refuse_partial_split
from monai_histodiff.utils.files import whole_file, whole_folder

__all__ = ["FORMATS", "card", "export_patches"]

FILE = "file_name"  # of the picture, for Hugging Face
FOLDERS = {  # of each part of the split
    "imagefolder": {"": "", "train": "train", "val": "val", "test": "test"},
    "huggingface": {"": "train", "train": "train", "val": "validation", "test": "test"},
}
FORMATS = ("imagefolder", "webdataset", "huggingface")
# what the name of a folder may not hold everywhere
UNSAFE = re.compile(r'[%/\\:*?"<>|\x00-\x1f]|^\.|\.$')
LICENCE = re.compile(r"[a-z0-9][a-z0-9.\-]*")
logger = logging.getLogger(__name__)


def export_patches(
    patches: PatchSet,
    path: str | os.PathLike[str],
    form: str,
    facts: Mapping[str, Any],
    classes: Sequence[str] = (),
) -> Path:
    """Write all patches, as PNG, with a card: all of it, or nothing. A warning, and the card, tell
    where torchvision would number the classes of an ``imagefolder`` otherwise.

    Args:
        patches: labelled patches, such as the accepted ones.
        path: a new folder; for ``webdataset`` a new file that ends in ``.tar``, beside which the
            card is written as ``NAME.md``.
        form: one of :data:`FORMATS`.
        facts: for :func:`card`.
        classes: names, by class index; by default those of the manifest of a bank or of
            candidates (column ``index``), else the set's.

    Returns:
        The path.

    Raises:
        FileExistsError: it, or its card, is there already.
        ValueError: the form is unknown, the set is empty, a patch has no label, a split is
            recorded for some patches only, a column has the name of one of the form's, a class
            has no index or two, or the path does not end as the form needs it.
    """
    if form not in FORMATS:
        raise ValueError(f"a form must be one of {', '.join(FORMATS)}, got '{form}'")
    if not len(patches):
        raise ValueError("an export must hold at least one patch, got none")
    if blind := [r.path for r in patches.records if not r.label]:
        raise ValueError(
            f"every patch must have a label, got {len(blind)} without, such as '{blind[0]}': "
            "leave them out by with_labels()"
        )
    _check_records(patches.records, form)
    target = Path(path).expanduser()
    beside = target.with_suffix(".md") if form == "webdataset" else target
    for there in (target, beside):
        if there.exists():
            raise FileExistsError(
                f"an export must be new, got '{there}', which exists: choose another path"
            )
    if (form == "webdataset") != (target.suffix == ".tar"):
        wanted = "a file that ends in .tar" if form == "webdataset" else "a folder"
        raise ValueError(f"the path of a {form} must be {wanted}, got '{path}': rename it")
    index, text = _indices(patches, classes), card(patches, facts, classes)
    if form == "imagefolder" and (note := _renumbered(patches, index)):
        logger.warning(note)
        text += f"\n## Indices\n\n{note}\n"
    if form != "webdataset" and (odd := {n: _folder(n) for n in index if _folder(n) != n}):
        told = ", ".join(f"`{folder}` holds `{name}`" for name, folder in odd.items())
        rule = "Names that no folder can have everywhere are written otherwise"
        text += f"\n## Folders\n\n{rule}: {told}.\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    if form == "webdataset":
        with whole_file(beside) as draft:
            draft.write_text(text, encoding="utf-8")
            _write_shard(target, patches, index)
        return target
    with whole_folder(target) as draft:
        tables = _write_folders(draft, patches, FOLDERS[form])
        if form == "huggingface":
            _write_tables(draft, tables)
        name = "README.md" if form == "huggingface" else "CARD.md"
        (draft / name).write_text(text, encoding="utf-8")
    return target


def _check_records(records: Sequence[PatchRecord], form: str) -> None:
    """Refuse records of which the export would not tell all."""
    own = {*COLUMNS, *([FILE] if form == "huggingface" else [])}
    taken = own & {column for record in records for column in record.extra}
    if taken:
        raise ValueError(
            f"a column must not have the name of one that the export writes, got"
            f" '{min(taken)}': rename it in the manifest"
        )
    refuse_partial_split([(record.path, record.split) for record in records], "patch")


def _indices(patches: PatchSet, classes: Sequence[str]) -> dict[str, int]:
    """The index of each class, by its name, in their order."""
    sealed = (r for r in patches.records if r.extra.keys() >= {*SEALED, HASH})
    recorded = {(r.label, int(r.extra[INDEX])) for r in sealed}
    if recorded and not classes:
        found = dict(sorted(recorded, key=lambda pair: pair[1]))
    else:
        found = {name: i for i, name in enumerate(classes or patches.classes)}
    wrong = sorted(recorded - found.items())
    if wrong or len(set(found.values())) < len(found):
        raise ValueError(
            f"a class must have one index of its own, got {wrong or found}: export the bank as it"
            " was saved"
        )
    if lost := sorted({r.label for r in patches.records} - found.keys()):
        raise ValueError(
            f"every class must have an index, got none for '{lost[0]}' among {list(found)}: give"
            " the names, or the results, that belong to these patches"
        )
    return found


def _renumbered(patches: PatchSet, index: Mapping[str, int]) -> str:
    """A sentence on a part of the split whose folders torchvision would number otherwise."""
    for part in sorted({r.split for r in patches.records}):
        names = sorted({r.label for r in patches.records if r.split == part}, key=_folder)
        if other := [name for i, name in enumerate(names) if index[name] != i]:
            return (
                f"torchvision numbers the folders of each part anew, and gives '{other[0]}' the"
                f" index {names.index(other[0])}{f' in {part!r}' if part else ''}, which is"
                f" {index[other[0]]} here: map them by the table, or export a webdataset."
            )
    return ""


def card(patches: PatchSet, facts: Mapping[str, Any], classes: Sequence[str] = ()) -> str:
    """The card: Markdown with YAML front matter.

    Args:
        patches: what it is about.
        facts: what is known, in this order: ``title``, ``licence`` (an identifier such as
            ``cc-by-4.0``), ``made_by``, ``made_from``, and ``accepted``, ``copies``, ``verdict``,
            as sentences. What is not given is said not to be known.
        classes: names, by class index; see :func:`export_patches`.

    Raises:
        ValueError: a fact is unknown, the licence is no identifier, or a class has no index or
            two.
    """
    known = ("title", "licence", "made_by", "made_from", "accepted", "copies", "verdict")
    if unknown := sorted(set(facts) - set(known)):
        raise ValueError(f"facts of a card may be {', '.join(known)}, got {', '.join(unknown)}")
    plain = {key: " ".join(str(value).split()) for key, value in facts.items()}
    licence = plain.get("licence", "other").lower()
    if not LICENCE.fullmatch(licence):
        raise ValueError(
            f"a licence must be an identifier such as cc-by-4.0, got '{facts['licence']}': see "
            "spdx.org/licenses; 'other' if there is none"
        )
    title = plain.get("title", "Synthetic histopathology patches")
    scales = ", ".join(sorted({r.extra.get(SCALE) or "not known" for r in patches.records}))
    counts = Counter(r.label for r in patches.records)
    table = "\n".join(
        f"| {name.replace('|', '&#124;')} | {counts[name]} | {i} |"
        for name, i in _indices(patches, classes).items()
    )
    said = {
        "What made them": "made_by",
        "From which data": "made_from",
        "Acceptance": "accepted",
        "Copies": "copies",
        "Verdict": "verdict",
    }
    parts = "\n\n".join(
        f"## {head}\n\n{plain.get(key, 'Not known.')}" for head, key in said.items()
    )
    front = (
        f"---\nlicense: {licence}\npretty_name: {json.dumps(title)}\n"
        "task_categories:\n- image-classification\n"
        "tags:\n- histopathology\n- synthetic\n---\n"
    )
    return (
        f"{front}\n# {title}\n\nThese patches are meant as synthetic ones, no evidence of what "
        "tissue looks like. Whether any is a copy of a patient's tissue is told under Copies. Not "
        f"for diagnosis. Micrometres per pixel: {scales}.\n\n"
        f"| class | patches | index |\n|---|---|---|\n{table}\n\n{parts}\n"
    )


def _folder(name: str) -> str:
    """The folder of a class."""
    return UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", name)


def _names(records: Sequence[PatchRecord]) -> list[str]:
    """A name for each patch, new to the export, in its order."""
    digits = max(6, len(str(len(records))))
    return [f"{i:0{digits}d}" for i in range(len(records))]


def _png(patches: PatchSet, row: int) -> bytes:
    stream, um = io.BytesIO(), image_scale(patches.records[row], patches.um_per_px)
    known = {"dpi": (INCH / um, INCH / um)} if um else {}
    Image.fromarray(patches[row]["image"].permute(1, 2, 0).numpy()).save(stream, "PNG", **known)
    return stream.getvalue()


def _described(patches: PatchSet, row: int) -> dict[str, str]:
    """All that is known of a patch, and of its picture as it is written."""
    record = patches.records[row]
    known = {"label": record.label, "split": record.split, "group": record.group, **record.extra}
    if (um := image_scale(record, patches.um_per_px)) != record.um_per_px:
        known[SCALE] = f"{um:g}"
    return known


def _write_folders(
    draft: Path, patches: PatchSet, folders: Mapping[str, str]
) -> dict[str, list[dict[str, str]]]:
    """Write the pictures; what is known of each, by the folder of its part of the split."""
    names, tables = _names(patches.records), defaultdict(list)
    for i, record in enumerate(patches.records):
        folder, file = folders[record.split], f"{_folder(record.label)}/{names[i]}.png"
        path = draft / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(patches, i))
        tables[folder].append({FILE: file, **_described(patches, i)})
    return tables


def _write_tables(draft: Path, tables: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Lines of JSON in each folder, of the same columns in all: what a table holds is text."""
    empty = {column: "" for rows in tables.values() for row in rows for column in row}
    for folder, rows in tables.items():
        text = "".join(f"{json.dumps({**empty, **r}, ensure_ascii=False)}\n" for r in rows)
        (draft / folder / "metadata.jsonl").write_text(text, encoding="utf-8")


def _write_shard(path: Path, patches: PatchSet, index: Mapping[str, int]) -> None:
    with whole_file(path) as draft, tarfile.open(draft, "w") as shard:
        for name, content in _members(patches, index):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            shard.addfile(member, io.BytesIO(content))


def _members(patches: PatchSet, index: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    for i, (name, record) in enumerate(zip(_names(patches.records), patches.records, strict=True)):
        yield f"{name}.png", _png(patches, i)
        yield f"{name}.cls", str(index[record.label]).encode()
        yield f"{name}.json", json.dumps(_described(patches, i)).encode()
