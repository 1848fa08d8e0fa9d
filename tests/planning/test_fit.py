"""Fitting a law: it comes back from synthetic runs, and what cannot be fitted is refused with the reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.planning.fit import CONSTANTS, HUBER, Point, fit, hold_out_largest
from gristmill.planning.law_file import read_law, read_laws, write_law
from gristmill.planning.scaling_laws import BESIROGLU, LAWS, Parametric, numeric_optimum

SIZES = (1e5, 4e5, 1.6e6, 6.4e6, 2.56e7)
TOKENS = (4e6, 2e7, 1e8, 5e8)


def runs(law, noise: float = 0.0, seed: int = 0, sizes=SIZES, tokens=TOKENS) -> list[Point]:
    scatter = np.random.default_rng(seed).normal(0, noise or 1e-300, (len(sizes), len(tokens)))
    return [Point(n, d, float(law(n, d) * math.exp(scatter[i, j])), f"{n:.0e}/{d:.0e}")
            for i, n in enumerate(sizes) for j, d in enumerate(tokens)]


def law_of(E: float, A: float, alpha: float, B: float, beta: float):
    return lambda n, d: E + A / n**alpha + B / d**beta


@given(E=st.floats(0.8, 3.0), alpha=st.floats(0.2, 0.6), beta=st.floats(0.2, 0.6), share=st.floats(0.25, 0.75))
@settings(max_examples=12, deadline=None)
def test_a_law_comes_back_from_exact_runs(E, alpha, beta, share):
    A, B = share * 4 * 1e6**alpha, (1 - share) * 4 * 1e8**beta
    law = law_of(E, A, alpha, B, beta)
    made = fit(runs(law), resamplings=20)
    found = [getattr(made.law, name) for name in CONSTANTS]
    assert found == pytest.approx([E, A, alpha, B, beta], rel=0.05)
    assert made.error < 1e-4
    # A hundred times beyond the largest run.
    assert made.predict(2.56e8, 5e9).expected == pytest.approx(law(2.56e8, 5e9), rel=0.005)


def test_a_law_comes_back_from_noisy_runs_within_its_intervals():
    made = fit(runs(BESIROGLU.loss, noise=0.005, seed=3), resamplings=200)
    for name, value in made.intervals.items():
        assert value.low <= getattr(BESIROGLU, name) <= value.high, name
    assert made.error == pytest.approx(0.005, rel=0.5)
    said = made.predict(1e8, 2e9)
    assert said.low < BESIROGLU.loss(1e8, 2e9) < said.high
    assert (said.high - said.low) / said.expected < 0.15


def test_intervals_hold_what_they_promise():
    """Of 16 noisy sets of runs, the 95 % interval of a larger run's loss holds the truth in nearly all."""
    held = 0
    for seed in range(16):
        said = fit(runs(BESIROGLU.loss, noise=0.01, seed=seed), resamplings=30, seed=seed).predict(1e8, 2e9)
        held += said.low <= BESIROGLU.loss(1e8, 2e9) <= said.high
    assert held >= 13


def test_one_broken_run_does_not_move_the_law():
    """What the Huber loss is for: squared differences would follow the run that failed."""
    points = runs(BESIROGLU.loss, noise=0.001)
    points[7] = Point(points[7].parameters, points[7].tokens, points[7].loss * 1.3, "broken")
    made = fit(points, resamplings=20)
    assert made.predict(1e8, 2e9).expected == pytest.approx(BESIROGLU.loss(1e8, 2e9), rel=0.02)


def test_no_other_optimizer_finds_a_lower_loss():
    """L-BFGS of torch, in double precision, started at the law that we found and at the truth."""
    points = runs(BESIROGLU.loss, noise=0.01, seed=5)
    made = fit(points, resamplings=20)
    x, y, z = (torch.tensor([math.log(getattr(p, n)) for p in points], dtype=torch.float64)
               for n in ("parameters", "tokens", "loss"))

    def huber(theta: torch.Tensor) -> torch.Tensor:
        a, b, e, alpha, beta = theta
        predicted = torch.logsumexp(torch.stack([a - alpha * x, b - beta * y, e.expand_as(x)]), 0)
        return torch.nn.functional.huber_loss(predicted, z, reduction="sum", delta=HUBER) / HUBER**2

    def packed(law: Parametric) -> torch.Tensor:
        return torch.tensor([math.log(law.A), math.log(law.B), math.log(law.E), law.alpha, law.beta],
                            dtype=torch.float64)

    ours = float(huber(packed(made.law)))
    for start in (packed(made.law), packed(BESIROGLU)):
        theta = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([theta], max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-14)

        def closure(theta=theta, optimizer=optimizer):
            optimizer.zero_grad()
            value = huber(theta)
            value.backward()
            return value

        optimizer.step(closure)
        assert ours <= float(huber(theta.detach())) * (1 + 1e-3)


def test_the_same_runs_and_seed_give_the_same_law():
    points = runs(BESIROGLU.loss, noise=0.01)
    assert fit(points, resamplings=20).as_json() == fit(points, resamplings=20).as_json()


def test_the_order_of_the_runs_does_not_matter():
    points = runs(BESIROGLU.loss, noise=0.01)
    one, other = (fit(p, resamplings=20).law for p in (points, points[::-1]))
    assert one.loss(1e8, 2e9) == pytest.approx(other.loss(1e8, 2e9), rel=1e-4)


def test_a_fitted_law_splits_budgets_like_a_published_one():
    made = fit(runs(BESIROGLU.loss), resamplings=20)
    assert made.law.optimum(1e20).parameters == pytest.approx(numeric_optimum(made.law, 1e20).parameters, rel=1e-3)
    assert made.law.optimum(1e18).parameters == pytest.approx(BESIROGLU.optimum(1e18).parameters, rel=0.05)


def test_the_largest_size_is_held_out_and_predicted():
    made, left_out, said = hold_out_largest(runs(BESIROGLU.loss, noise=0.003), resamplings=40)
    assert {p.parameters for p in left_out} == {SIZES[-1]}
    assert max(p.parameters for p in made.points) == SIZES[-2]
    for point, predicted in zip(left_out, said, strict=True):
        assert predicted.expected == pytest.approx(point.loss, rel=0.02)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("points", "says"), [
    (runs(BESIROGLU.loss)[:6], "6 points are too few for a law with five constants"),
    ([], "0 points are too few"),
    (runs(BESIROGLU.loss, sizes=(1e6, 4e6), tokens=TOKENS), "only 2 different sizes"),
    (runs(BESIROGLU.loss, tokens=(1e8, 1.01e8)), "only 1 different numbers of tokens"),
    ([Point(n, 20 * n, BESIROGLU.loss(n, 20 * n)) for n in np.geomspace(1e5, 1e8, 8)], "rise together in all runs"),
    ([Point(n, d, 3.0) for n in SIZES for d in TOKENS], "differ by less than 1 %"),
    ([*runs(BESIROGLU.loss), Point(1e6, 1e7, math.nan, "bad")], "bad has a size, tokens or a loss that is not"),
    ([*runs(BESIROGLU.loss), Point(-1e6, 1e7, 3.0, "bad")], "bad has a size, tokens or a loss that is not"),
])
def test_what_cannot_be_fitted_is_refused(points, says):
    with pytest.raises(UserError, match=says) as caught:
        fit(points)
    assert "fix" in str(caught.value) or caught.value.fix


def test_narrow_runs_are_fitted_with_a_warning():
    made = fit(runs(BESIROGLU.loss, noise=0.002, sizes=(1e6, 1.5e6, 2.2e6), tokens=(1e8, 2e8, 8e8)), resamplings=40)
    assert any("span a factor of 2.2 only" in w for w in made.warnings)


def test_repeated_text_is_warned_of():
    points = [Point(p.parameters, p.tokens, p.loss, p.name, epochs=9.0) for p in runs(BESIROGLU.loss)]
    assert any("20 runs pass more than 4 times" in w for w in fit(points, resamplings=20).warnings)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_law_survives_its_file(tmp_path):
    made = fit(runs(BESIROGLU.loss), resamplings=20)
    write_law(tmp_path / "law.json", made)
    again = read_law(tmp_path / "law.json")
    assert again.loss(1e9, 2e10) == made.law.loss(1e9, 2e10)
    assert again.fitted == made.law.fitted
    assert [law.name for law in read_laws(["kaplan", str(tmp_path / "law.json")])] == ["kaplan", "own"]
    assert read_laws([]) == list(LAWS.values())


@pytest.mark.parametrize(("text", "says"), [
    ("[]", "holds no law"), ('{"law": {"E": 1}}', "A must be a positive number"),
    ('{"law": {"E": -1}}', "E must be a positive number, but it is -1"),
])
def test_a_file_without_a_law_is_refused(tmp_path, text, says):
    (tmp_path / "law.json").write_text(text)
    with pytest.raises(UserError, match=says):
        read_law(tmp_path / "law.json")
