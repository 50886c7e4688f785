"""Whether intervals cover what they should, and p values what they must."""

import numpy as np
import pytest

from orchestrator.evaluation.paired import holm, paired_estimate, student_quantile, student_within


def difference(rng: np.random.Generator, num_replicates: int, seed_effect: float, row_effect: float) -> np.ndarray:
    """Hits of one objective minus hits of another, equally good on the mean over seeds and rows."""
    num_rows = 200
    easy_N, own_N = rng.normal(0.8, 1.5, num_rows), rng.normal(0, row_effect, num_rows)

    def hits(logit_N: np.ndarray) -> np.ndarray:
        logit_RN = logit_N + rng.normal(0, seed_effect, (num_replicates, 1))
        return rng.random(logit_RN.shape) < 1 / (1 + np.exp(-logit_RN))

    return hits(easy_N + own_N / 2).astype(float) - hits(easy_N - own_N / 2)


@pytest.mark.parametrize(("seed_effect", "row_effect"), [(0.0, 0.0), (0.1, 1.5), (0.5, 0.5)])
@pytest.mark.parametrize("num_replicates", [3, 5])
def test_intervals_cover_as_often_as_they_say(num_replicates, seed_effect, row_effect):
    rng = np.random.default_rng(num_replicates)
    found = [paired_estimate(difference(rng, num_replicates, seed_effect, row_effect)) for _ in range(250)]
    assert 0.92 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.995
    assert np.mean([one.p_value < 0.05 for one in found]) == np.mean([not one.low <= 0 <= one.high for one in found])


def test_scores_alone_give_the_paired_t_test():
    found = paired_estimate(np.array([[0.02], [0.05], [0.05]]))
    assert found.mean == pytest.approx(0.04)
    assert (found.low, found.high) == (pytest.approx(0.04 - 4.302653 * 0.01), pytest.approx(0.04 + 4.302653 * 0.01))
    assert found.p_value == pytest.approx(0.05719096)


def test_rows_that_differ_widen_the_interval():
    rng = np.random.default_rng(0)
    scores_R1 = np.array([[0.01], [0.03], [0.05]])
    rows_RN = scores_R1 + rng.normal(0, 1, 100)  # the same rows are hard for every replicate
    rows_RN += scores_R1.mean() - rows_RN.mean()
    alone, together = paired_estimate(scores_R1), paired_estimate(rows_RN)
    assert together.mean == pytest.approx(alone.mean)
    assert together.high > alone.high
    deviation = rows_RN.mean(axis=0).std(ddof=1) / 10
    reach = np.hypot(alone.high - alone.mean, 1.959964 * deviation)  # nothing is left over here
    assert together.high - together.mean == pytest.approx(reach)


def test_no_spread_at_all_is_no_error():
    assert paired_estimate(np.zeros((3, 10))).p_value == 1
    assert paired_estimate(np.ones((3, 10))).p_value == 0
    assert paired_estimate(np.full((3, 1), 0.1 + 0.2 - 0.3)).p_value == 1  # rounding
    alike = paired_estimate(np.tile(np.arange(4.0), (3, 1)))  # replicates agree, rows do not
    assert 0 < alike.p_value < 0.05
    assert alike.low > 0
    with pytest.raises(ValueError, match="wanted 3 or more"):
        paired_estimate(np.ones((2, 10)))


def test_students_t_is_that_of_the_tables():
    for freedom, two_sided in [(1, 12.706205), (2, 4.302653), (4, 2.776445), (30, 2.042272), (1e6, 1.959966)]:
        assert student_quantile(0.95, freedom) == pytest.approx(two_sided, rel=1e-6)
        assert student_within(two_sided, freedom) == pytest.approx(0.95, abs=1e-7)


def test_holm_corrects_the_smallest_most_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
