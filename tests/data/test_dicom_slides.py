"""A slide in DICOM is a slide like any other: levels, spacing, places and pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_painted import write_dicom
from slides_painted import disc, ramp, write_slide

from monai_histodiff.data.slide_files import find_slides
from monai_histodiff.data.slide_reader import open_slide
from monai_histodiff.data.slides import cut, plan_tiles

openslide = pytest.importorskip("openslide")
if tuple(map(int, openslide.__library_version__.split(".")[:2])) < (4, 0):
    pytest.skip("OpenSlide reads DICOM from 4.0 on", allow_module_level=True)


def test_its_tiles_are_those_of_the_same_slide_as_tiff(tmp_path: Path) -> None:
    picture = disc(1200, 1000, 450)[0]
    found = find_slides([write_dicom(tmp_path / "P7", picture)])
    assert list(found) == ["P7"]
    paths = (found["P7"], write_slide(tmp_path / "a.tif", picture, factors=(1, 4)))
    slides = [open_slide(path) for path in paths]
    assert [slide.um_per_px for slide in slides] == [(0.5, 0.5)] * 2
    assert [slide.levels for slide in slides] == [((1200, 1000), (300, 250))] * 2
    for um in (0.8, 2.0):
        plans = [plan_tiles(slide, um, 48) for slide in slides]
        assert plans[0].tiles == plans[1].tiles and plans[0].tiles
        first, second = (
            np.stack([pixels for _, pixels in cut(slide, plan, um, 48)])
            for slide, plan in zip(slides, plans, strict=True)
        )
        assert np.array_equal(first, second)


def test_without_a_spacing_one_is_asked_for(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "bare", ramp(300, 260), um=None) / "level0.dcm"
    with pytest.raises(ValueError, match="got none in '.*level0.dcm': give --slide_um_per_px"):
        open_slide(path)
    assert open_slide(path, 0.25).um_per_px == (0.25, 0.25)


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "cut", ramp(300, 260), factors=(1,)) / "level0.dcm"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ValueError, match="a file that a reader knows, got '.*level0.dcm'"):
        open_slide(path)
