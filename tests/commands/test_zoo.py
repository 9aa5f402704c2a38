from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser
from warm import python_m

from monai_histodiff import LatentDiffusion
from monai_histodiff.commands.zoo import LARGE, check_bundle, main, package_bundle
from monai_histodiff.utils.weights import save_weights

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "bundles" / name for name in ("histopathology_ldm", "histopathology_guidance")]
METADATA, INFERENCE, WEIGHTS = "configs/metadata.json", "configs/inference.json", "models/model.pt"

NETWORK = {
    "_target_": "monai_histodiff.LatentDiffusion",
    "autoencoder": {
        "_target_": "monai_histodiff.PatchAutoencoder",
        "channels": [32, 32],
        "num_res_blocks": [1, 1],
        "latent_channels": 4,
        "stem": 2,
    },
    "unet": {
        "_target_": "monai.networks.nets.DiffusionModelUNet",
        "spatial_dims": 2,
        "in_channels": 4,
        "out_channels": 4,
        "channels": [32, 32],
        "attention_levels": [False, False],
        "num_res_blocks": 1,
        "num_head_channels": 32,
    },
    "patch_size": 32,
}


def tensor(channels: int, side: int, **more: Any) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "magnitude",
        "num_channels": channels,
        "spatial_shape": [side, side],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {str(i): f"channel {i}" for i in range(channels)},
        **more,
    }


def metadata() -> dict[str, Any]:
    return {
        "schema": "https://project-monai.github.io/schema/meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": "first release"},
        "monai_version": "1.6.1",
        "pytorch_version": "2.13.0",
        "numpy_version": "2.4.6",
        "required_packages_version": {"monai-histodiff": "0.1.0"},
        "supported_apps": {},
        "task": "a test",
        "description": "a tiny latent diffusion model",
        "authors": "nobody",
        "copyright": "none",
        "references": [],
        "network_data_format": {
            "inputs": {"image": tensor(4, 8)},
            "outputs": {"pred": tensor(3, 32, value_range=[0, 1])},
        },
    }


def edit(bundle: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((bundle / name).read_text())
    change(content)
    (bundle / name).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles") / "tiny_ldm"
    for folder in ("configs", "docs", "models"):
        (root / folder).mkdir(parents=True)
    (root / "LICENSE").write_text("a licence")
    (root / "docs" / "README.md").write_text("# tiny")
    (root / METADATA).write_text(json.dumps(metadata()))
    config = {
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/output'",
        "dataset_dir": "data",
        "device": "cpu",
        "network_def": NETWORK,
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
    }
    (root / INFERENCE).write_text(json.dumps(config))
    torch.manual_seed(0)
    network = ConfigParser({"network_def": NETWORK}).get_parsed_content("network_def")
    network.latent_mean.normal_()
    network.latent_std.uniform_(0.5, 2)
    save_weights(root / WEIGHTS, network.state_dict())
    return root


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "tiny_ldm"))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL, on the loopback interface, that serves it."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_valid_bundle_has_no_problems_and_its_metadata_tells_the_truth(bundle: Path) -> None:
    assert check_bundle(bundle) == []
    monai.bundle.verify_net_in_out(
        "network_def",
        meta_file=str(bundle / METADATA),
        config_file=str(bundle / INFERENCE),
        device="cpu",
    )


def test_zip_holds_the_bundle_and_nothing_else_and_is_the_same_anywhere(
    bundle: Path, tmp_path: Path
) -> None:
    expected = sorted(
        f"tiny_ldm/{p.relative_to(bundle).as_posix()}" for p in bundle.rglob("*") if p.is_file()
    )
    first = package_bundle(bundle, tmp_path / "a")
    for extra in (
        "output/diffusion/log.txt",
        "models/__pycache__/x.pyc",
        ".hidden",
        "docs/.cache/y",
        "models/.model.pt.part",
    ):
        (bundle / extra).parent.mkdir(parents=True, exist_ok=True)
        (bundle / extra).write_text("no part of the bundle")
    for path in bundle.rglob("*"):
        os.utime(path, (1e9, 1e9))
    (bundle / "LICENSE").chmod(0o600)
    second = package_bundle(
        shutil.copytree(bundle, tmp_path / "elsewhere" / "tiny_ldm"), tmp_path / "b"
    )
    assert first.name == second.name == "tiny_ldm_v0.1.0.zip"
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == expected
        assert archive.read(f"tiny_ldm/{WEIGHTS}") == (bundle / WEIGHTS).read_bytes()
    assert [p.name for p in first.parent.iterdir()] == [first.name]


def test_packaged_bundle_downloads_and_loads_with_monai(
    bundle: Path, tmp_path: Path, serve: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = serve
    path = package_bundle(bundle, folder)
    place = tmp_path / "user"
    place.mkdir()
    options = [
        "--name",
        "tiny_ldm",
        "--url",
        f"{url}/{path.name}",
        "--bundle_dir",
        "models_dir",
        "--progress",
        "False",
    ]
    run = python_m("monai.bundle", "download", *options, cwd=place, no_proxy="127.0.0.1")
    assert run.returncode == 0, run.stderr
    assert check_bundle(place / "models_dir" / "tiny_ldm") == []

    monkeypatch.chdir(place)
    with pytest.warns(UserWarning, match="config_file"):  # MONAI: only load configs that you trust
        network = monai.bundle.load(
            "tiny_ldm", bundle_dir="models_dir", workflow_type="inference", device="cpu"
        )
    assert isinstance(network, LatentDiffusion)
    saved = torch.load(bundle / WEIGHTS, weights_only=True)
    loaded = network.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[key], saved[key].to(loaded[key].dtype)) for key in saved)
    noise = torch.randn(2, *network.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network.eval()(noise), LatentDiffusion.from_bundle(bundle)(noise))


def test_command_prints_path_and_hash(bundle: Path, tmp_path: Path) -> None:
    words = (str(bundle), str(tmp_path / "dist"))
    run = python_m("monai_histodiff.commands.zoo", *words, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    path = tmp_path / "dist" / "tiny_ldm_v0.1.0.zip"
    assert run.stdout.splitlines() == [
        str(path),
        f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}",
    ]


def test_command_names_problems_and_fails(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "LICENSE").unlink()
    for folder, message in (
        (bundle, "a bundle must hold 'LICENSE'"),
        (tmp_path / "none", "bundle_dir must be a folder"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([str(folder), str(tmp_path / "dist")])
        assert stop.value.code == 1
        shown = capsys.readouterr()
        assert message in shown.err and not shown.out


def test_no_such_folder(tmp_path: Path) -> None:
    for call in (check_bundle, partial(package_bundle, output_dir=tmp_path)):
        with pytest.raises(FileNotFoundError, match="bundle_dir must be a folder, got '.*none'"):
            call(tmp_path / "none")


def test_invalid_bundle_is_not_packaged_and_all_problems_are_listed(
    bundle: Path, tmp_path: Path
) -> None:
    (bundle / "LICENSE").unlink()
    edit(bundle, METADATA, lambda m: m.pop("task"))
    with pytest.raises(
        ValueError,
        match="(?s)'tiny_ldm' must be valid, got 2 problem.*hold 'LICENSE'.*must have 'task'",
    ):
        package_bundle(bundle, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_zip_must_not_land_in_the_bundle(bundle: Path) -> None:
    for inside in (bundle, bundle / "dist"):
        with pytest.raises(ValueError, match="output_dir must lie outside the bundle"):
            package_bundle(bundle, inside)


def test_failed_writing_leaves_the_old_zip(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = package_bundle(bundle, tmp_path / "dist")
    before = path.read_bytes()
    (bundle / "docs" / "README.md").write_text("# changed")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OSError, match="no space left"):
        package_bundle(bundle, tmp_path / "dist")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def network_tensor(
    meta: dict[str, Any], side: str = "inputs", name: str = "image"
) -> dict[str, Any]:
    return meta["network_data_format"][side][name]


IMAGE = "metadata 'network_data_format#inputs#image"
METADATA_FAULTS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    *(
        (lambda m, k=key: m.pop(k), f"metadata must have '{key}', got ['")
        for key in metadata()
        if key not in ("supported_apps", "references")
    ),
    (lambda m: m.update(monai_version=1.6), "'monai_version' must be of type string, got 1.6"),
    (
        lambda m: m.update(required_packages_version=["einops"]),
        "'required_packages_version' must be of type object, got ['einops']",
    ),
    (
        lambda m: m.update(references="a paper"),
        "'references' must be of type array, got 'a paper'",
    ),
    (lambda m: m.update(supported_apps=None), "'supported_apps' must be of type object, got None"),
    (lambda m: m.update(version=["0.1.0"]), "'version' must be of type string, got ['0.1.0']"),
    (
        lambda m: m.update(version="0.2.0"),
        "the changelog must name the version '0.2.0', got ['0.1.0']",
    ),
    (
        lambda m: m.update(version="../0", changelog={"../0": ""}),
        "'version' must be like '0.1.0', got '../0'",
    ),
    (
        lambda m: m["network_data_format"].pop("outputs"),
        "'network_data_format' must have 'outputs', got ['inputs']",
    ),
    (
        lambda m: m["network_data_format"]["inputs"].pop("image"),
        "'network_data_format#inputs' must have 'image', got []",
    ),
    (
        lambda m: m["network_data_format"]["outputs"].update(pred="patch"),
        "'network_data_format#outputs#pred' must be of type object, got 'patch'",
    ),
    (
        lambda m: m["network_data_format"]["inputs"].update(t=[0]),
        "'network_data_format#inputs#t' must be of type string or number, got [0]",
    ),
    (
        lambda m: m["network_data_format"].update(post_processed_outputs={"pred": {}}),
        "#post_processed_outputs#pred' must have 'type', got []",
    ),
    (
        lambda m: m.update(guide_data_format={"inputs": {"z": {}}, "outputs": {}}),
        "'guide_data_format#inputs#z' must have 'dtype', got []",
    ),
    *(
        (lambda m, k=key: network_tensor(m).pop(k), f"{IMAGE}' must have '{key}', got ['")
        for key in ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range")
    ),
    *(
        (lambda m, k=key, v=value: network_tensor(m).update({k: v}), f"{IMAGE}#{key}{rule}")
        for key, value, rule in (
            ("type", 1, "' must be of type string, got 1"),
            ("format", None, "' must be of type string, got None"),
            ("num_channels", 0, "' must be at least 1, got 0"),
            ("num_channels", True, "' must be of type integer, got True"),
            ("spatial_shape", 16, "' must be of type array, got 16"),
            ("spatial_shape", [16, 0], "#1' must be as the schema says, got 0"),
            ("dtype", "float31", "' must be a dtype of torch, got 'float31'"),
            ("dtype", "nn", "' must be a dtype of torch, got 'nn'"),
            ("value_range", [0], "' must be as the schema says, got [0]"),
            ("value_range", ["0", "1"], "#0' must be of type number, got '0'"),
            ("is_patch_data", "no", "' must be of type boolean, got 'no'"),
            ("channel_def", ["red"], "' must be of type object, got ['red']"),
        )
    ),
]


@pytest.mark.parametrize(
    ("change", "problem"), METADATA_FAULTS, ids=[f[1] for f in METADATA_FAULTS]
)
def test_metadata_fault_is_named(
    bundle: Path, change: Callable[[dict[str, Any]], Any], problem: str
) -> None:
    edit(bundle, METADATA, change)
    found = check_bundle(bundle)
    assert any(problem in text for text in found), found


CONFIG_FAULTS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    *(
        (lambda c, k=key: c.pop(k), f"'{INFERENCE}' must define '{key}'")
        for key in ("bundle_root", "output_dir", "dataset_dir", "device", "network_def", "inferer")
    ),
    (
        lambda c: c["inferer"].update(_target_="scripts.inferer.Inferer"),
        "full paths in monai, monai_histodiff, torch, ignite",
    ),
    (lambda c: c["inferer"].update(_target_="SimpleInferer"), "as _target_, got 'SimpleInferer'"),
    (
        lambda c: c["inferer"].update(_target_="torchvision.models.resnet18"),
        "as _target_, got 'torchvision.models.resnet18'",
    ),
    (
        lambda c: c["inferer"].update(_target_=["monai.inferers.SimpleInferer"]),
        "as _target_, got ['monai.inferers.SimpleInferer']",
    ),
    (
        lambda c: c["inferer"].update(_target_="monai.inferers.NoInferer"),
        "be imported as _target_, got 'monai.inferers.NoInferer'",
    ),
    (
        lambda c: c["inferer"].update(_target_="monai.inferers"),
        "be imported as _target_, got 'monai.inferers'",
    ),
    (
        lambda c: c.update(deep=[{"x": [{"_target_": "os.system"}]}]),
        "as _target_, got 'os.system'",
    ),
]


@pytest.mark.parametrize(("change", "problem"), CONFIG_FAULTS, ids=[f[1] for f in CONFIG_FAULTS])
def test_config_fault_is_named(
    bundle: Path, change: Callable[[dict[str, Any]], Any], problem: str
) -> None:
    edit(bundle, INFERENCE, change)
    found = check_bundle(bundle)
    assert len(found) == 1 and problem in found[0], found


def test_every_config_is_checked(bundle: Path) -> None:
    (bundle / "configs" / "train.json").write_text(
        '{"bundle_root": ".", "output_dir": "o", "device": "cpu", "run": []}'
    )
    assert check_bundle(bundle) == ["'configs/train.json' must define 'dataset_dir'"]
    (bundle / "configs" / "train.json").write_text('{"steps": 3}')
    assert check_bundle(bundle) == [], "a config without steps lies over another"


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_yaml_is_read(bundle: Path, suffix: str) -> None:
    path = bundle / "configs" / f"train.{suffix}"
    path.write_text("run:\n  - {_target_: monai.inferers.NoInferer}\n")
    name = f"'configs/train.{suffix}'"
    assert check_bundle(bundle) == [
        *(f"{name} must define '{k}'" for k in ("bundle_root", "output_dir", "dataset_dir")),
        f"{name} must define 'device'",
        f"{name} must name something that can be imported as _target_, got "
        "'monai.inferers.NoInferer'",
    ]
    for text, problem in (
        ("a: [", f"{name} must be YAML, got"),
        ("- a", "a YAML object, got list"),
    ):
        path.write_text(text)
        found = check_bundle(bundle)
        assert len(found) == 1 and problem in found[0]


@pytest.mark.parametrize("name", ["LICENSE", METADATA, INFERENCE, WEIGHTS])
def test_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert check_bundle(bundle) == [f"a bundle must hold '{name}'"]


@pytest.mark.parametrize("name", [METADATA, INFERENCE])
def test_unreadable_json_is_named(bundle: Path, name: str) -> None:
    for content, problem in (
        (b"{", f"'{name}' must be JSON"),
        (b"\xff", f"'{name}' must be JSON"),
        (b"[]", "object, got list"),
    ):
        (bundle / name).write_bytes(content)
        found = check_bundle(bundle)
        assert len(found) == 1 and problem in found[0], found


def test_own_scripts_are_refused(bundle: Path) -> None:
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "net.py").touch()
    assert ["scripts/" in problem for problem in check_bundle(bundle)] == [True]


class Foreign:
    pass


def test_weights_that_do_not_load_are_named(bundle: Path) -> None:
    whole = (bundle / WEIGHTS).read_bytes()
    for content in (b"", b"no weights", whole[: len(whole) // 2]):
        (bundle / WEIGHTS).write_bytes(content)
        found = check_bundle(bundle)
        assert len(found) == 1 and f"'{WEIGHTS}' must load with weights_only=True" in found[0], (
            found
        )
    torch.save({"network": Foreign()}, bundle / WEIGHTS)
    found = check_bundle(bundle)
    assert len(found) == 1 and f"'{WEIGHTS}' must load with weights_only=True" in found[0], found
    torch.save(torch.zeros(3), bundle / WEIGHTS)
    assert check_bundle(bundle) == [f"'{WEIGHTS}' must be a state_dict, got Tensor"]
    (bundle / WEIGHTS).write_bytes(whole)
    (bundle / "models" / "encoder.pt").write_bytes(whole[:20])
    found = check_bundle(bundle)
    assert (
        len(found) == 1 and "'models/encoder.pt' must load with weights_only=True" in found[0]
    ), found


def test_large_files_must_be_listed(bundle: Path) -> None:
    def grow(name: str, size: int) -> None:
        with (bundle / name).open("wb") as file:
            file.truncate(size)

    grow("models/bank.bin", LARGE)
    assert check_bundle(bundle) == []
    grow("models/bank.bin", LARGE + 1)
    problem = "files over 25 MB must be in 'large_files.yml', got 'models/bank.bin' of 25.0 MB"
    assert check_bundle(bundle) == [problem]
    listing = bundle / "large_files.yml"
    listing.write_text(
        'large_files:\n# - path: "models/bank.bin"\n  - path: "models/other.bin"\n    url: "https://models/bank.bin"\n'
    )
    assert check_bundle(bundle) == [problem]
    for entry in (
        '  - path: "models/bank.bin"',
        "  - path: models/bank.bin",
        "  - url: x\n    path: 'models/bank.bin'",
    ):
        listing.write_text(f"large_files:\n{entry}\n    url: https://example.org\n")
        assert check_bundle(bundle) == []
    listing.unlink()
    (bundle / "large_files.json").write_text(
        '{"large_files": [{"path": "models/bank.bin", "url": "https://example.org"}]}'
    )
    assert check_bundle(bundle) == []


TENSOR_SCHEMA = {
    "type": "object",
    "required": [
        "type",
        "format",
        "num_channels",
        "spatial_shape",
        "dtype",
        "value_range",
        "is_patch_data",
        "channel_def",
    ],
    "properties": {
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
        "dtype": {"const": "float32"},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "minProperties": 1},
    },
}
NAMES = "schema task description name authors copyright data_source data_type intended_use".split()
VERSIONS = "version monai_version pytorch_version numpy_version".split()
SCHEMA = {
    "type": "object",
    "required": [
        *NAMES,
        *VERSIONS,
        "changelog",
        "required_packages_version",
        "supported_apps",
        "references",
        "network_data_format",
    ],
    "properties": {
        **{key: {"type": "string", "minLength": 5} for key in NAMES},
        **{key: {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"} for key in VERSIONS},
        "changelog": {"type": "object", "minProperties": 1},
        "required_packages_version": {
            "type": "object",
            "required": ["monai-histodiff", "fire", "einops", "nibabel", "pytorch-ignite"],
        },
        "supported_apps": {"type": "object"},
        "references": {
            "type": "array",
            "items": {"type": "string", "pattern": r"https://arxiv\.org/abs/\d{4}\.\d{5}$"},
            "minItems": 3,
        },
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {
                "inputs": {
                    "type": "object",
                    "required": ["image"],
                    "additionalProperties": TENSOR_SCHEMA,
                },
                "outputs": {
                    "type": "object",
                    "required": ["pred"],
                    "additionalProperties": TENSOR_SCHEMA,
                },
            },
        },
    },
}


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: path.name)
def test_shipped_metadata_follows_the_schema(shipped: Path) -> None:
    meta = json.loads((shipped / METADATA).read_text())
    jsonschema.validate(meta, SCHEMA)
    for described in (
        *meta["network_data_format"]["inputs"].values(),
        *meta["network_data_format"]["outputs"].values(),
    ):
        assert list(described["channel_def"]) == [str(i) for i in range(described["num_channels"])]


def test_licences_are_one_text() -> None:
    assert len({(folder / "LICENSE").read_bytes() for folder in (ROOT, *SHIPPED)}) == 1


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_bundle_is_valid(shipped: Path) -> None:
    assert check_bundle(shipped) == []


@pytest.mark.parametrize("shipped", SHIPPED[:1])
def test_shipped_ldm_metadata_tells_the_truth(shipped: Path) -> None:
    meta = json.loads((shipped / METADATA).read_text())["network_data_format"]
    network = LatentDiffusion.from_bundle(shipped)
    image, pred = meta["inputs"]["image"], meta["outputs"]["pred"]
    assert network.latent_shape == (image["num_channels"], *image["spatial_shape"])
    with torch.no_grad():
        patch = network(torch.randn(1, *network.latent_shape))
    assert patch.shape == (1, pred["num_channels"], *pred["spatial_shape"])
    assert pred["value_range"][0] <= patch.min() and patch.max() <= pred["value_range"][1]
