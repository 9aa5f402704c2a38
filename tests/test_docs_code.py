"""The Python of the documentation runs as it stands; only numbers of samples are made smaller."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.utils import set_determinism

from monai_histodiff import (
    BankRefresher,
    GuidedSampler,
    LatentClassifier,
    LatentDiffusion,
    LiveBank,
    PatchClassifier,
    PatchEncoder,
    PatchSet,
    SyntheticAugmentd,
    SyntheticBank,
    pretrained_sampler,
)
from monai_histodiff.diffusion import Sources, encode_latents

ROOT = Path(__file__).resolve().parents[1]
API = sorted((ROOT / "docs" / "api").glob("*.md"))
LDM = ROOT / "bundles" / "histopathology_ldm"
GUIDANCE = ROOT / "bundles" / "histopathology_guidance"


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)


def run(code: str, names: dict[str, Any], page: str) -> dict[str, Any]:
    exec(compile(code, page, "exec"), names)
    return names


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the bundles, a patch set and the models of a run lie where pages look."""
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    shutil.copy(GUIDANCE / "data" / "demo.zip", tmp_path / "my_patches.zip")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "models").symlink_to(GUIDANCE / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", API, ids=lambda path: path.stem)
def test_the_api_pages(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    try:
        for code in blocks(f"docs/api/{page.name}"):
            run(code, names, page.name)
    finally:
        set_determinism(None)
    if page.stem == "evaluation":
        assert names["results"]["claims"]["G-C"]["claim"] == "inconclusive"
    if page.stem == "data":
        assert names["few"].counts() == {"normal": 5, "tumour": 5}
        assert len(names["train"]) + len(names["test"]) == len(names["patches"]) == 24


@pytest.mark.slow  # samples of the shipped generator
def test_sampling(place: Path) -> None:
    first, student, exemplars, stored, of_sources, own_critic = blocks("docs/sampling.md")
    model, guide = LatentDiffusion.from_bundle(LDM), LatentClassifier(24, 2).eval()
    found = run(first, {"model": model, "guide": guide}, "sampling.md")
    assert found["patches"].shape == (3, 3, 128, 128)
    demo = PatchSet.open("my_patches.zip").few(2)
    names = {"GuidedSampler": GuidedSampler, "LatentDiffusion": LatentDiffusion}
    names |= {"PatchEncoder": PatchEncoder, "patches": demo.images()[:2]}
    names |= run(exemplars, names, "sampling.md")
    assert names["samples"].shape == (2, 3, 128, 128) and names["exemplars"].shape == (2, 523)
    names |= run(stored.replace("16", "2"), {**names, "Sources": Sources}, "sampling.md")
    assert names["samples"].shape == (2, 3, 128, 128)
    names |= {"encode_latents": encode_latents, "dataset": demo}
    names |= run(of_sources, {**names, "Sources": Sources}, "sampling.md")
    assert names["samples"].shape == (4, 3, 128, 128)
    rows = names["sampler"].origins([0, 0, 1, 2], seeds=range(4))
    assert demo.labels[rows].tolist() == [0, 0, 1, 2]
    names |= {"pretrained_sampler": pretrained_sampler}
    names |= run(student.replace("16", "2"), names, "sampling.md")
    assert names["samples"].shape == (2, 3, 128, 128)
    names |= {"classifier": PatchClassifier(3, 8), "groups": ["a", "b"]}
    names["samples"] = names["patches"][[0, 1, 1]] / 255
    assert len(run(own_critic, names, "sampling.md")["found"].reasons) == 3


def test_the_transform(place: Path) -> None:
    line, live, of_a_run = blocks("docs/transform.md")
    names = run(of_a_run, {}, "transform.md")
    assert names["bank"].classes == ("lung_aca", "lung_n", "lung_scc")
    sampler, selector = names["sampler"], names["selector"]

    empty = torch.zeros(1, 128, 128, 3, dtype=torch.uint8).numpy()
    SyntheticBank.from_arrays({0: empty}, ["tumour"], um_per_px=1.0).save("out/bank")
    known = {"LiveBank": LiveBank, "BankRefresher": BankRefresher}
    known |= {"SyntheticAugmentd": SyntheticAugmentd, "sampler": sampler, "selector": selector}
    run(line, dict(known), "transform.md")
    made = run(live, {**known, "classes": names["classes"]}, "transform.md")
    assert isinstance(made["transform"], SyntheticAugmentd) and made["bank"].refreshes == 0


@pytest.mark.slow  # samples of the shipped generator
def test_the_readmes(place: Path) -> None:
    patches = PatchSet.open("my_patches.zip").few(1).images()[:2]
    (code,) = [block for block in blocks("README.md") if "pretrained_sampler" in block]
    found = run(code, {"patches": patches}, "README.md")
    assert found["samples"].shape == (2, 3, 128, 128)
    first, second = blocks("bundles/histopathology_ldm/docs/README.md")
    assert "range(16)" in first
    names = run(first.replace("range(16)", "range(1)"), {}, "histopathology_ldm")
    assert names["patches"].shape == (1, 3, 128, 128)
    names = run(second, {**names, "images": patches}, "histopathology_ldm")
    assert names["patches"].shape == (2, 3, 128, 128)


def test_the_critic_as_a_classifier(place: Path) -> None:
    (code,) = blocks("docs/verdict.md")
    assert "my_patches.zip" in code
    demo = PatchSet.open("my_patches.zip")
    test = demo.select("test").few(10)
    test.write(place / "some")
    names = run(code.replace("my_patches.zip", "some"), {}, "verdict.md")
    found = names["probabilities"]
    assert found.shape == (30, 3) and torch.allclose(found.sum(1), torch.ones(30))
    right = found.argmax(1) == torch.as_tensor(names["patches"].labels)
    assert names["patches"].classes == demo.classes and right.float().mean() > 0.85
    images = names["patches"].images(128)
    assert torch.allclose(names["critic"](images / 255), found, atol=1e-4)  # one crop is all


def test_the_plan_of_the_evidence(place: Path) -> None:
    """The two sets are not at hand: the demonstration set stands for both."""
    demo = PatchSet.open("my_patches.zip")
    for name in ("lung_lc25000_128.zip", "crc5_adenoma_224.zip"):
        demo.with_split(0.3, seed=5).write(place / name)
    (code,) = blocks("docs/evidence-plan.md")
    run(code, {}, "evidence-plan.md")
    lung, part = PatchSet.open(place / "lung"), PatchSet.open(place / "crc5r")
    assert len(lung) == len(demo) and len(part) == len(
        demo.with_split(0.3, seed=5).select("train")
    )
    for found in (lung, part):
        train, test = found.select("train"), found.select("test")
        assert not set(train.groups) & set(test.groups) and found.classes == demo.classes
        assert 0.2 < len(test) / len(found) < 0.4


def test_every_block_says_what_it_is() -> None:
    """Else Python without its name would be read, and never run."""
    known = {"python", "bash", "text", "bibtex"}
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("bundles/*/docs/README.md")]
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *pages):
        fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), flags=re.M)
        assert not any(fences[1::2]), f"{page}: what ends a block names nothing"
        for name in fences[::2]:
            assert name in known or name.startswith("{"), f"{page}: ```{name}"


def test_every_page_with_python_is_tried() -> None:
    tried = {"README.md", "data.md", "evidence-plan.md", "generators.md", "sampling.md"}
    tried |= {"transform.md", "tutorial.md", "verdict.md"}
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    pages += [ROOT / "CONTRIBUTING.md", *ROOT.glob("bundles/*/docs/README.md")]
    found = {path.name for path in pages if blocks(str(path.relative_to(ROOT)))}
    assert found == tried, (
        "a page with code needs its test above, or in test_docs, test_generators_page"
    )
