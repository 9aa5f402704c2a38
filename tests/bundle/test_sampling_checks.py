"""Options of sampling that are accepted before any work are those that a sampler can follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from monai_histodiff.bundle.running import option_values
from monai_histodiff.bundle.sampling_checks import check_sampling, schedule_of
from monai_histodiff.diffusion.schedules import NoiseSchedule
from monai_histodiff.diffusion.settings import SamplingSettings
from monai_histodiff.diffusion.solvers import SOLVERS
from monai_histodiff.options.docs import config_files
from monai_histodiff.options.option import FLAG, NUMBER, NUMBERS, TEXT, WHOLE, Option
from monai_histodiff.options.sampling import SAMPLING_OPTIONS
from monai_histodiff.options.table import check_values, options_of
from monai_histodiff.utils.weights import save_weights

BUNDLES = Path(__file__).parents[2] / "bundles"
SCHEDULE = NoiseSchedule.named("cosine")
NAMES = {  # of the settings, where they are not those of the options
    **{"solver_steps": "steps", "solver_stop": "stop", "guidance_scale": "scale"},
    **{"guidance_interval": "interval", "guidance_cap": "cap", "guidance_mode": "mode"},
}
FIELDS = {field.name for field in fields(SamplingSettings)}
BETWEEN = (-100.0, -8.999, 0.0, 0.02, 0.3, 0.5, 4.0, 5.04, 11.99, 12.0, 100.0)
COUNTS = (1, 2, 3, 12, 1000)
TRAINED = {"solver": "dpmpp_2m", "eta": 0.0}


def options(config: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a config as it is shipped, and the settings that it takes besides."""
    content = dict(ConfigParser.load_config_files(config_files(BUNDLES, config)))
    return option_values(config, content), content.get("shipped", TRAINED)


def allowed(option: Option) -> list[Any]:
    """Values of an option: both ends of its range, and some within."""
    ends = [v for v in (option.low, option.high) if math.isfinite(v)]
    numbers = [*ends, *BETWEEN, option.low + 1e-9, option.low + 1e-4]
    found = {
        WHOLE: [*ends, *COUNTS],
        NUMBER: numbers,
        NUMBERS: [[v, v + 3.0] for v in BETWEEN] if option.length else [[v] for v in numbers],
        FLAG: [False, True],
        TEXT: list(option.choices),
    }[option.kind]
    return [v for v in [None, *found] if accepted(option.check, v)]


def accepted(check: Callable[..., None], *given: Any) -> bool:
    try:
        check(*given)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("config", "name"),
    [(c, o.name) for o in SAMPLING_OPTIONS for c in ("train", "inference") if c in o.configs],
)
def test_what_is_accepted_can_be_sampled(config: str, name: str) -> None:
    """Each option over its range, at several strengths and stops: a grid that no solver takes, or
    settings that none follows, are refused before any work and not after hours.
    """
    (own, made), tried = options(config), 0
    for value in allowed(options_of(config)[name]):
        for strength in (1e-9, 0.02, 0.1, 0.5, 1.0):
            for stop in (None, -8.999, 0.0, 4.0, 11.99):
                values = {**own, "strength": strength, "solver_stop": stop, name: value}
                if not accepted(check_values, config, values):
                    continue
                if not accepted(check_sampling, values, SCHEDULE, made):
                    continue
                given = {NAMES.get(k, k): v for k, v in values.items() if v is not None}
                chosen = {**made, **given, "stop": values["solver_stop"]}
                s = SamplingSettings(**{k: v for k, v in chosen.items() if k in FIELDS})
                grid = SOLVERS[s.solver].grid(
                    SCHEDULE, s.steps - (s.stop is not None), s.strength, s.stop
                )
                assert bool((grid.diff() < 0).all()), values
                tried += 1
    assert tried


def test_the_schedule_is_that_of_the_weights(tmp_path: Path) -> None:
    own = NoiseSchedule.named("flow", 8.0, -4.0)
    state = {f"schedule.{key}": value for key, value in own.state_dict().items()}
    save_weights(tmp_path / "models" / "model.pt", state)
    found = schedule_of(tmp_path)
    assert torch.equal(found.log_snr_table, own.log_snr_table) and bool(found.is_flow)
    with pytest.raises(ValueError, match="solver_stop must be below 8.00, the log-SNR at which"):
        check_sampling({**options("train")[0], "solver_stop": 9.0}, found)
    save_weights(tmp_path / "models" / "model.pt", {})
    with pytest.raises(ValueError, match="must hold its noise schedule, got none in .*: save the"):
        schedule_of(tmp_path)


def test_inference_is_checked_with_what_the_run_was_made_with() -> None:
    made = {"steps": 12, "stop": 4.0, "strength": 0.5, "solver": "ddim", "eta": 1.0}
    own: dict[str, Any] = dict.fromkeys(options_of("inference"))
    del own["solver_stop"]
    check_sampling(own, SCHEDULE, made)
    with pytest.raises(
        ValueError, match="0.02 at a strength of 0.5, got 0: raise solver_stop, or"
    ):
        check_sampling({**own, "solver_stop": 0.0}, SCHEDULE, made)
    with pytest.raises(ValueError, match="eta must be 0 with the solver dpmpp_2m.*give --eta 0"):
        check_sampling({**own, "solver": "dpmpp_2m"}, SCHEDULE, made)
    check_sampling({**own, "solver_stop": None, "solver_steps": 1}, SCHEDULE, made)


def test_an_interval_matters_only_where_a_guide_acts() -> None:
    own = {**options("train")[0], "guidance_interval": [50.0, 60.0], "exemplar_scale": 0.0}
    for scales in ({"guidance_scale": 0.0}, {"guidance_scales": [0.0]}):
        check_sampling({**own, **scales}, SCHEDULE)
    with pytest.raises(
        ValueError, match="-9.00 to 4.00, or the guide never acts, got .50, 60.: g"
    ):
        check_sampling(own, SCHEDULE)
    check_sampling({**own, "guidance_interval": [4.0, 60.0]}, SCHEDULE)
