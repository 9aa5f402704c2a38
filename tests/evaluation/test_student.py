from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monai_histodiff.evaluation.student import t_quantile, t_tail

FREEDOM = np.array([1, 1.3, 2, 3.7, 10, 48.5, 400, 19_000])


@pytest.mark.parametrize("t", [0.0, 0.01, 0.5, 1.96, 5.0])
def test_the_tail_is_scipy_s(t: float) -> None:
    np.testing.assert_allclose(t_tail(t, FREEDOM), stats.t.sf(t, FREEDOM), rtol=1e-8)
    assert float(t_tail(t, 2.0)) == pytest.approx(stats.t.sf(t, 2.0))


@pytest.mark.parametrize("upper", [0.5, 0.3, 0.025, 0.005, 1e-4])
def test_the_quantile_is_scipy_s(upper: float) -> None:
    found, wanted = t_quantile(upper, FREEDOM), stats.t.isf(upper, FREEDOM)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-12)
    assert float(t_quantile(upper, 1e9)) == pytest.approx(stats.norm.isf(upper), abs=1e-3)


@pytest.mark.parametrize("upper", [0.0, 0.6, float("nan")])
def test_what_is_no_tail_is_refused(upper: float) -> None:
    with pytest.raises(ValueError, match=f"upper tail must lie in \\(0, 0.5\\], got {upper}"):
        t_quantile(upper, 3.0)
