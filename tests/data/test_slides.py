"""Tiles of whole slides lie where they say, at the scale they say, without moire, and where there
is tissue.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from monai.data import PatchWSIDataset
from slides_painted import Picture, disc, ramp, shrunk, write_slide

from monai_histodiff.data.slide_files import find_slides
from monai_histodiff.data.slide_reader import open_slide
from monai_histodiff.data.slides import View, cut, overview, plan_tiles, tissue_mask

pytest.importorskip("openslide")
pytest.importorskip("tiffslide")
WIDTH, HEIGHT = 2000, 1501
BOTH = ("openslide", "tiffslide")


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide at 0.5 um with levels of 1, 4 and 16, whose colour tells the place."""
    return write_slide(tmp_path_factory.mktemp("slides") / "painted.tif", ramp(WIDTH, HEIGHT))


def place(tile: Picture) -> tuple[np.ndarray, np.ndarray]:
    """The place on the slide, in pixels of the finest level, that the columns and rows of a tile
    tell by their colour.
    """
    return tile[..., 0].mean(0) / 255 * WIDTH, tile[..., 1].mean(1) / 255 * HEIGHT


# --------------------------------------------------------------------------------- place and scale


@pytest.mark.parametrize("reader", BOTH)
@pytest.mark.parametrize("um", [0.5, 0.51, 0.75, 1.0, 1.3, 2.0, 3.7, 8.0])
def test_tiles_are_at_the_place_and_scale_that_they_say(
    painted: Path, um: float, reader: str
) -> None:
    """For spacings on, between and beyond the levels: the colour of every pixel tells the place of
    its centre.
    """
    slide, size = open_slide(painted, readers=[reader]), 32
    plan = plan_tiles(slide, um, size, tissue=0)
    assert plan.found == int(WIDTH * 0.5 / um) // size * (int(HEIGHT * 0.5 / um) // size) > 0
    scale = um / 0.5
    reach = 4 * max(
        scale, 16
    )  # of the filter and the coarsest level: near the edge it lacks one side
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for tile, pixels in list(cut(slide, plan, um, size))[:: max(1, plan.found // 40)]:
        assert pixels.shape == (size, size, 3) and pixels.dtype == np.uint8
        assert abs(tile.left - tile.x * scale) <= 0.5 and abs(tile.top - tile.y * scale) <= 0.5
        for pairs, told, corner, end in zip(
            found, place(pixels), (tile.x, tile.y), (WIDTH, HEIGHT), strict=True
        ):
            truth = (corner + np.arange(size) + 0.5) * scale
            inner = (truth > reach) & (truth < end - reach)
            pairs.append(np.stack([truth, told])[:, inner])
    for pairs, end in zip(found, (WIDTH, HEIGHT), strict=True):
        truth, told = np.concatenate(pairs, 1)
        assert (
            np.abs(told - truth).max() < 1.15 * end / 255
        )  # a level of grey: rounded in the file and in the tile
        slope, _ = np.polyfit(truth, told, 1)
        assert abs((told - truth).mean()) < 0.2 * scale + 0.2 and abs(slope - 1) < 2e-3


@pytest.mark.parametrize("um", [0.7, 1.3, 5.0])
def test_tiles_meet_without_a_seam(tmp_path: Path, um: float) -> None:
    """A region is the same to a level of grey whether it is read alone, in blocks or with all of
    the slide.
    """
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3)).astype(np.uint8)
    view = View(open_slide(write_slide(tmp_path / "noise.tif", noise)), um)
    width, height = view.size
    whole = view.read(0, 0, width, height).astype(int)
    assert np.abs(overview(view) - whole).max() <= 1
    for x, y, w, h in (
        (0, 0, 20, 30),
        (width // 3, height // 2, 40, 11),
        (width - 17, height - 9, 17, 9),
    ):
        assert np.abs(view.read(x, y, w, h) - whole[y : y + h, x : x + w]).max() <= 1


def test_the_picture_of_a_slide_without_coarse_levels_is_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = open_slide(write_slide(tmp_path / "flat.tif", ramp(WIDTH, HEIGHT), factors=(1,)))
    whole = overview(View(slide, 8.0)).astype(int)
    monkeypatch.setattr("monai_histodiff.data.slides.BLOCK", 256)
    largest = []
    read = slide.read
    monkeypatch.setattr(slide, "read", lambda *at: (largest.append(at[3] * at[4]), read(*at))[1])
    assert np.abs(overview(View(slide, 8.0)) - whole).max() <= 1
    assert len(largest) > 10 and max(largest) < 400 * 400


@pytest.mark.parametrize("um", [0.65, 0.9, 1.0, 1.4])
def test_a_fine_grating_becomes_grey_and_not_moire(tmp_path: Path, um: float) -> None:
    """Lines of one pixel cannot be shown by pixels of 1.3 and more. Picking pixels would give
    stripes of 0 and 255.
    """
    lines = np.zeros((512, 512, 3), np.uint8)
    lines[:, ::2] = 255
    view = View(open_slide(write_slide(tmp_path / "lines.tif", lines, factors=(1,))), um)
    inner = overview(view)[16:-16, 16:-16]
    assert abs(inner.mean() - 127.5) < 1.5
    assert inner.std() < 14  # of 127.5 in the grating
    if um >= 0.9:
        assert inner.std() < 3


def test_pixels_that_are_not_square_become_square(painted: Path) -> None:
    slide = open_slide(painted)
    slide.um_per_px = (0.5, 0.25)
    view = View(slide, 1.0)
    assert view.size == (WIDTH // 2, HEIGHT // 4)
    columns, rows = place(view.read(300, 100, 50, 50))
    assert np.abs(columns - (300.5 + np.arange(50)) * 2).max() < WIDTH / 255
    assert np.abs(rows - (100.5 + np.arange(50)) * 4).max() < HEIGHT / 255


def test_the_coarsest_level_that_is_fine_enough_is_read(painted: Path) -> None:
    slide = open_slide(painted)
    assert [View(slide, um).level for um in (0.48, 0.5, 1.9, 2.0, 7.9, 8.0, 50)] == [
        0,
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    with pytest.raises(
        ValueError,
        match=r"um_per_px must be at least the slide's own, 0.5, got 0.25 for .*painted.tif",
    ):
        View(slide, 0.25)


def test_levels_whose_size_was_rounded_do_not_stretch_the_slide(tmp_path: Path) -> None:
    """1501 rows are 375 of 4: the level's pixels are 4 rows high, not 1501 / 375."""
    slide = open_slide(write_slide(tmp_path / "odd.tif", ramp(1003, 1007)))
    assert View(slide, 2.0).scale == (1.0, 1.0) and View(slide, 10.0).scale == (1.25, 1.25)


# ------------------------------------------------------------------------------------------ tissue


@pytest.mark.parametrize("size", [32, 64])
def test_background_is_left_out_and_tissue_kept(tmp_path: Path, size: int) -> None:
    picture, inside = disc(2000, 1600, 600)
    slide = open_slide(write_slide(tmp_path / "disc.tif", picture))
    plan = plan_tiles(slide, 1.0, size)
    kept = {(tile.x, tile.y) for tile in plan.tiles}
    assert (
        plan.found == (1000 // size) * (800 // size) == len(kept) + plan.background
        and plan.beyond == 0
    )
    for y in range(0, 800 // size * size, size):
        for x in range(0, 1000 // size * size, size):
            share = inside[2 * y : 2 * (y + size), 2 * x : 2 * (x + size)].mean()
            if abs(share - 0.5) > 0.15:
                assert ((x, y) in kept) == (share > 0.5), (x, y, share)


def test_the_mask_follows_the_tissue_to_the_pixel() -> None:
    picture, inside = disc(1600, 1200, 400)
    assert (tissue_mask(shrunk(picture, 4)) == inside[2::4, 2::4]).mean() > 0.99


@pytest.mark.parametrize(
    "colour", [(255, 255, 255), (243, 243, 246), (200, 198, 203), (20, 18, 25), (0, 0, 0)]
)
def test_glass_shadow_and_black_are_no_tissue(colour: tuple[int, int, int]) -> None:
    noise = np.random.default_rng(0).normal(0, 2, (200, 200, 3))
    assert tissue_mask((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).mean() < 0.001


def test_pale_tissue_beside_dark_nuclei_is_tissue() -> None:
    """Otsu's threshold alone would lie between nuclei and pale stroma."""
    picture = np.full((100, 100, 3), (244, 244, 244), np.uint8)
    picture[:, 20:60] = (240, 205, 222)
    picture[:, 60:] = (90, 40, 130)
    assert (tissue_mask(picture)[:, [10, 40, 80]] == [False, True, True]).all()


def test_the_draw_of_tiles_is_the_same_each_time_and_counts_the_rest(tmp_path: Path) -> None:
    slide = open_slide(write_slide(tmp_path / "disc.tif", disc(2000, 1600, 600)[0]))
    every = plan_tiles(slide, 1.0, 32)
    drawn = plan_tiles(slide, 1.0, 32, per_slide=7)
    assert (
        len(drawn.tiles) == 7
        and drawn.beyond == len(every.tiles) - 7
        and set(drawn.tiles) < set(every.tiles)
    )
    assert (
        drawn.tiles
        == plan_tiles(slide, 1.0, 32, per_slide=7).tiles
        != plan_tiles(slide, 1.0, 32, per_slide=7, seed=1).tiles
    )
    assert plan_tiles(slide, 1.0, 32, per_slide=10**6).tiles == every.tiles


def test_the_picture_shows_the_tiles(tmp_path: Path) -> None:
    slide = open_slide(write_slide(tmp_path / "disc.tif", disc(2000, 1600, 600)[0]))
    plan = plan_tiles(slide, 1.0, 64, per_slide=5)
    drawn = (plan.picture == (0, 140, 90)).all(2)
    outline = np.zeros_like(drawn)
    for tile in plan.tiles:
        outline[tile.y // 8, tile.x // 8 : tile.x // 8 + 8] = True
    assert drawn[outline].all() and 5 * 28 * 0.8 <= drawn.sum() <= 5 * 28


# ----------------------------------------------------------------------------------------- readers


@pytest.mark.parametrize("name", ["a.tif", "a.svs", "a.ome.tif"])
@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
def test_both_readers_give_the_same_tiles(tmp_path: Path, name: str, compression: str) -> None:
    """Pixel for pixel where nothing is lost in the file, to a few levels of grey where each
    decodes JPEG its own way.
    """
    picture = disc(1200, 1000, 450)[0]
    path = write_slide(tmp_path / name, picture, compression=compression)
    given = 0.5 if name == "a.ome.tif" else None  # OpenSlide does not read its spacing
    found = []
    for reader in BOTH:
        slide = open_slide(path, given, [reader])
        assert slide.um_per_px == (0.5, 0.5)
        plan = plan_tiles(slide, 0.8, 48, per_slide=20)
        found.append(
            (plan.tiles, np.stack([pixels for _, pixels in cut(slide, plan, 0.8, 48)]).astype(int))
        )
    assert found[0][0] == found[1][0]
    assert np.abs(found[0][1] - found[1][1]).max() <= (0 if compression == "deflate" else 4)


def test_an_ome_tiff_is_read_with_its_levels_and_its_spacing(tmp_path: Path) -> None:
    slide = open_slide(write_slide(tmp_path / "a.ome.tif", ramp(800, 640), um=0.45))
    assert slide.levels == ((800, 640), (200, 160), (50, 40)) and slide.um_per_px == pytest.approx(
        (0.45, 0.45)
    )


def test_a_spacing_is_asked_for_where_a_slide_states_none(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "bare.tif", ramp(300, 300), um=None)
    with pytest.raises(
        ValueError,
        match=(
            r"must state its micrometres per pixel, .* got none in '.*bare.tif': give "
            r"--slide_um_per_px"
        ),
    ):
        open_slide(path)
    assert open_slide(path, 0.25).um_per_px == (0.25, 0.25)
    assert open_slide(
        write_slide(tmp_path / "own.tif", ramp(300, 300), um=0.5), 0.25
    ).um_per_px == (0.5, 0.5)
    screen = write_slide(
        tmp_path / "screen.tif", ramp(300, 300), um=352.8
    )  # 72 pixels per inch: not a microscope's
    with pytest.raises(ValueError, match="got none in"):
        open_slide(screen)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.svs").write_text("not a slide")
    with pytest.raises(
        ValueError,
        match=r"a file that a reader knows, got '.*text.svs' \(openslide: .*; tiffslide: ",
    ):
        open_slide(tmp_path / "text.svs")
    with pytest.raises(FileNotFoundError, match="a slide must exist, got"):
        open_slide(tmp_path / "none.svs")


@pytest.mark.parametrize(
    ("shape", "kind", "axes", "options", "told"),
    [
        ((256, 256, 3), np.uint16, "YXS", {"photometric": "rgb"}, "3 channels of 16 bits in"),
        ((5, 256, 256), np.uint8, "CYX", {"photometric": "minisblack"}, "5 channels of 8 bits, "),
        (
            (3, 256, 256),
            np.uint8,
            "SYX",
            {"photometric": "rgb", "planarconfig": "separate"},
            "3 channels of 8 bits, one after another, in",
        ),
    ],
)
@pytest.mark.parametrize("spacing", [None, 0.5])
def test_pixels_that_readers_would_mistake_are_refused(
    shape: tuple[int, ...],
    kind: type,
    axes: str,
    options: dict[str, str],
    told: str,
    spacing: float | None,
    tmp_path: Path,
) -> None:
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "µm"}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as stream:
        picture, known = np.zeros(shape, kind), {"axes": axes, **size}
        stream.write(picture, tile=(128, 128), metadata=known, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{told}.*a.ome.tif': convert it to 8-bit RGB"):
        open_slide(tmp_path / "a.ome.tif", spacing)


@pytest.mark.parametrize(
    ("colours", "channels", "name"),
    [
        ("miniswhite", 1, "MINISWHITE"),
        ("palette", 1, "PALETTE"),
        ("separated", 4, "SEPARATED"),
        ("cielab", 3, "CIELAB"),
    ],
)
def test_colours_that_readers_would_mistake_are_refused(
    colours: str, channels: int, name: str, tmp_path: Path
) -> None:
    shape = (256, 256) if channels == 1 else (256, 256, channels)
    more = {"colormap": np.zeros((3, 256), np.uint16)} if colours == "palette" else {}
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.full(shape, 99, np.uint8),
        photometric=colours,
        tile=(128, 128),
        **more,  # type: ignore[arg-type]
    )
    with pytest.raises(ValueError, match=f"got {name} in '.*a.tif': convert it to 8-bit RGB"):
        open_slide(tmp_path / "a.tif", 0.5)


@pytest.mark.parametrize("turn", range(2, 9))
def test_an_orientation_is_not_applied(turn: int, tmp_path: Path) -> None:
    """Nor does a reader mirror every block."""
    truth = ramp(512, 300)
    options = {"tile": (128, 128), "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "a.tif", truth, extratags=[(274, "H", 1, turn, True)], **options)  # type: ignore[arg-type]
    slide = open_slide(tmp_path / "a.tif", 0.5)
    assert np.array_equal(slide.read(0, 0, 0, 512, 300), truth)
    with pytest.raises(ImportError, match="slides need a reader, got none of"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "tiffslide", None)
            open_slide(tmp_path / "a.tif", 0.5)


def test_a_missing_reader_is_no_matter_and_two_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_slide(tmp_path / "a.tif", ramp(300, 300))
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    assert open_slide(path).levels[0] == (300, 300)
    monkeypatch.setitem(__import__("sys").modules, "tiffslide", None)
    with pytest.raises(
        ImportError, match=r"slides need a reader, .*pip install 'monai-histodiff\[slides\]'"
    ):
        open_slide(path)


def test_slides_are_found_in_files_and_folders(tmp_path: Path) -> None:
    for name in (
        "in/b.svs",
        "in/a.ome.tif",
        "in/._a.svs",
        "in/notes.txt",
        "one.tif",
        "scan/2.dcm",
        "scan/1.dcm",
        "empty/x.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_slides(
        [tmp_path / "in", tmp_path / "one.tif", tmp_path / "scan", tmp_path / "one.tif"]
    )
    names = {name: path.relative_to(tmp_path).as_posix() for name, path in found.items()}
    assert names == {"a": "in/a.ome.tif", "b": "in/b.svs", "one": "one.tif", "scan": "scan/1.dcm"}
    with pytest.raises(ValueError, match="a folder must hold slides .* got none in '.*empty'"):
        find_slides([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="a slide must exist, got '.*gone.svs'"):
        find_slides([tmp_path / "gone.svs"])
    (tmp_path / "in" / "one.svs").touch()
    with pytest.raises(
        ValueError, match="must have different names, got '.*one.svs' and '.*one.tif': rename one"
    ):
        find_slides([tmp_path / "in", tmp_path / "one.tif"])


def test_files_that_are_not_read_as_slides_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b.qptiff", "c.qptiff", "d.vsi", ".hidden"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"3 other files \(.qptiff 2, .vsi 1\): convert them"):
        find_slides([tmp_path])
    (tmp_path / "a.svs").touch()
    assert list(find_slides([tmp_path])) == ["a"]
    assert f"3 files of '{tmp_path}' (.qptiff 2, .vsi 1) are not read as slides" in caplog.text


def test_slides_deeper_down_are_not_passed_over(tmp_path: Path) -> None:
    for name in ("in/a.svs", "in/deep/b.svs", "in/deep/er/c.svs", "in/.old/d.svs", "in/m/x.dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = tmp_path / "in"
    with pytest.raises(
        ValueError, match="got 2 deeper in '.*in', such as '.*b.svs': give '.*deep' too, and"
    ):
        find_slides([root])
    with pytest.raises(ValueError, match="got 1 deeper in '.*in', such as '.*c.svs'"):
        find_slides([root, root / "deep"])
    assert set(find_slides([root, root / "deep", root / "deep" / "er" / "c.svs"])) == set("abc")
    (root / "a.svs").unlink()
    with pytest.raises(ValueError, match="such as '.*b.svs': give '.*deep' in its place, and"):
        find_slides([root])


# ------------------------------------------------------------------------------------------- MONAI


def test_monai_reads_the_same_patches_from_our_places(tmp_path: Path) -> None:
    """A plan's places are what MONAI's PatchWSIDataset takes; where a level has the spacing, its
    patches are our tiles.
    """
    picture = disc(2000, 1600, 600)[0]
    path = write_slide(tmp_path / "disc.svs", picture)
    slide = open_slide(path)
    plan = plan_tiles(slide, 2.0, 32, per_slide=6)
    places = [
        {"image": str(path), "location": (tile.top, tile.left), "label": 1} for tile in plan.tiles
    ]
    items = PatchWSIDataset(
        places, patch_size=32, patch_level=1, center_location=False, reader="OpenSlide"
    )
    assert len(items) == 6
    for item, (_, pixels) in zip(items, cut(slide, plan, 2.0, 32), strict=True):
        assert item["label"].item() == 1
        assert np.array_equal(np.asarray(item["image"]), pixels.transpose(2, 0, 1))
