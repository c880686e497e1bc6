"""The reference against 400-digit arithmetic, and against what its docstring says of special rows."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossentropy import reference

mp = pytest.importorskip("mpmath", reason="the reference is checked against mpmath")
mp.mp.dps = 400  # lse - z may be 1e-308 of z, and 60 digits would leave nothing of it

logits = st.floats(-700, 700, allow_subnormal=False)
rows = st.lists(logits, min_size=1, max_size=12)


def ulps(got, exact):
    """Error in ulps of float64 at the exact value."""
    exact = mp.mpf(exact)
    if exact == 0:
        return 0.0 if got == 0 else math.inf
    return float(abs(mp.mpf(got) - exact) / mp.mpf(math.ulp(float(exact))))


def exact_lse(z):
    return mp.log(mp.fsum(mp.e ** mp.mpf(value) for value in z))


@given(rows)
def test_log_softmax_and_softmax_within_2_ulp(z):
    lse = exact_lse(z)
    for got, p, value in zip(reference.log_softmax(z), reference.softmax(z), z, strict=True):
        exact = mp.mpf(value) - lse
        assert ulps(got, exact) <= 2
        assert ulps(p, mp.e**exact) <= 3


@given(rows, st.data())
def test_loss_and_gradient_within_3_ulp(z, data):
    y = data.draw(st.integers(0, len(z) - 1))
    lse = exact_lse(z)
    exact = lse - mp.mpf(z[y])
    assert ulps(reference.cross_entropy(z, y), exact) <= 2
    others = mp.fsum(mp.e ** (mp.mpf(value) - lse) for c, value in enumerate(z) if c != y)
    assert ulps(reference.cross_entropy_grad(z, y)[y], -others) <= 3


# the row, its target, and the loss to 17 digits by mpmath
KNOWN = [
    ([1e8, 1e8 - 8], 1, 8.0003354063728956),  # float32 arithmetic gives 8.0
    ([50.0, 0.0], 0, 1.9287498479639178e-22),  # log-softmax as usually computed gives 0
    ([0.0] * 10, 3, math.log(10)),
    ([-1000.0, -1001.0], 0, 0.31326168751822286),
    ([3e38, -3e38], 1, 6e38),
]


@pytest.mark.parametrize(("z", "y", "loss"), KNOWN)
def test_known_losses(z, y, loss):
    assert reference.cross_entropy(z, y) == pytest.approx(loss, rel=4e-16)


def test_options_against_the_formula():
    z, w, q = [0.3, -1.7, 2.2, 0.0], [0.5, 2.0, 0.0, 1.0], [0.1, 0.7, 0.4, 0.3]
    epsilon, lam, v = 0.15, 0.02, 1.25
    lse = exact_lse(z)
    smooth = [(1 - mp.mpf(epsilon)) * mp.mpf(value) + mp.mpf(epsilon) / 4 for value in q]
    exact = v * (
        mp.fsum(mp.mpf(a) * b * (lse - mp.mpf(c)) for a, b, c in zip(w, smooth, z, strict=True)) + lam * lse**2
    )
    options = reference.Row(v, w, epsilon, lam)
    assert ulps(reference.cross_entropy(z, q, options), exact) <= 4
    index = (1 - mp.mpf(epsilon)) * w[1] * (lse - mp.mpf(z[1]))
    index += mp.mpf(epsilon) / 4 * mp.fsum(mp.mpf(a) * (lse - mp.mpf(c)) for a, c in zip(w, z, strict=True))
    assert ulps(reference.cross_entropy(z, 1, options), v * (index + lam * lse**2)) <= 4


OF_A_ROW = {
    "scale": reference.Row(logit_scale=0.7),
    "softcap": reference.Row(softcap=5.0),
    "prior": reference.Row(class_prior=[-2.0, 0.3, -math.inf, 1e-3]),
    "margin": reference.Row(margin=1.7),
    "focal": reference.Row(focal=2.0),
    "focal below 1": reference.Row(focal=0.3, label_smoothing=0.1),
    "all": reference.Row(1.3, [0.5, 2.0, 0.0, 1.0], 0.1, 0.02, 3.0, 30.0, [0.1, -0.2, 0.0, 0.7], -0.4, 1.5),
}
SPREAD = [
    [0.3, -1.7, 2.2, 0.0],
    [30.0, -1.0, -300.0, 0.5],  # confident
    [2.0] * 4,
    [1e-18, 0, 0, 1],
    [2.5e32] * 4,  # what a prior and a margin add is in the low parts of pairs alone
    [2.5e17, 2.5e17 + 32, 2.5e17 - 32, 2.5e17],
]


def exact_loss(z, target, o):
    """The loss of `reference.cross_entropy` as it is written down there, with mpmath's numbers."""
    z = [o.logit_scale * mp.mpf(value) for value in z]
    if o.softcap:
        z = [o.softcap * mp.tanh(value / o.softcap) for value in z]
    z = [value + b for value, b in zip(z, o.class_prior or [0] * len(z), strict=True)]
    q = [mp.mpf(c == target) if isinstance(target, int) else mp.mpf(target[c]) for c in range(len(z))]
    if isinstance(target, int):
        z[target] -= mp.mpf(o.margin)
    epsilon = mp.mpf(o.label_smoothing)
    t = [w * ((1 - epsilon) * b + epsilon / len(z)) for w, b in zip(o.class_weight or [1] * len(z), q, strict=True)]
    lse = mp.log(mp.fsum(mp.e**value for value in z))
    loss = mp.fsum(t_c * (lse - value) for t_c, value in zip(t, z, strict=True) if t_c)
    if isinstance(target, int):
        loss *= (1 - mp.e ** (z[target] - lse)) ** mp.mpf(o.focal)
    return o.weight * (loss + o.z_loss * lse**2)


@pytest.mark.parametrize("options", OF_A_ROW)
def test_every_option_of_a_row_against_its_formula(options):
    """The gradient, too: as the slope of the formula, by differences of 200 digits."""
    step = mp.mpf(10) ** -100
    for z, target in itertools.product(SPREAD, (0, 3, [0.1, 0.7, 0.0, 0.3])):
        o = OF_A_ROW[options]
        if not isinstance(target, int):
            o = o._replace(margin=0.0, focal=0.0)
        assert ulps(reference.cross_entropy(z, target, o), exact_loss(z, target, o)) <= 5, (z, target)
        units = reference.largest_terms(z, target, o)
        for c, got in enumerate(reference.cross_entropy_grad(z, target, o)):
            up, down = ([*z[:c], z[c] + sign * step, *z[c + 1 :]] for sign in (1, -1))
            exact = (exact_loss(up, target, o) - exact_loss(down, target, o)) / (2 * step)
            allowed = 12 if o.focal else 8  # (1 - p)^gamma has the error of 1 - p gamma times over
            assert abs(got - exact) <= allowed * mp.mpf(math.ulp(units[c])), (z, target, c)


@pytest.mark.parametrize("ratio", [1e-9, 0.3, 1.0, 2.5, 10.0])
def test_a_capped_logit_keeps_its_digits(ratio):
    for cap in (1.0, 30.0, 50.0):
        high, low, slope = reference.capped(ratio * cap, 0.0, cap)
        exact = cap * mp.tanh(mp.mpf(ratio * cap) / cap)
        assert abs(exact - high - mp.mpf(low)) <= mp.mpf(2) ** -100 * abs(exact)
        assert ulps(slope, mp.sech(mp.mpf(ratio * cap) / cap) ** 2) <= 1
    inf = math.inf
    assert reference.capped(-inf, 0.0, 5.0) == (-5.0, 0.0, 0.0)
    assert reference.cross_entropy([inf, 0.0], 0, reference.Row(softcap=5.0)) == reference.cross_entropy([5.0, 0.0], 0)


@given(rows, st.data())
def test_merged_blocks_are_the_whole_row(z, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(z) - 1), max_size=3))) if len(z) > 1 else []
    blocks = [reference.partial(z[a:b]) for a, b in zip([0, *cuts], [*cuts, len(z)], strict=True)]
    merged = blocks[0]
    for block in blocks[1:]:
        merged = reference.merge(merged, block)
    whole = reference.partial(z)
    assert merged.max == whole.max
    assert merged.rest == pytest.approx(whole.rest, rel=2e-15, abs=0)


weights = st.floats(1e-300, 1e300) | st.floats(0.1, 10)


@given(st.lists(st.tuples(logits, weights), min_size=1, max_size=12), st.data())
def test_weighted_logsumexp(terms, data):
    """In ulp of the largest logit or log of a weight; where terms cancel, of the sum of their sizes."""
    z, b = zip(*terms, strict=True)
    unit = math.ulp(max(map(abs, [*z, *map(math.log, b), 1.0])))
    exact = mp.log(mp.fsum(mp.mpf(w) * mp.e ** mp.mpf(value) for value, w in terms))
    log, sign = reference.weighted_logsumexp(z, b)
    assert abs(mp.mpf(log) - exact) <= 3 * unit
    assert sign == 1
    signs = [data.draw(st.sampled_from([1, -1])) for _ in b]
    signed = mp.fsum(mp.mpf(w * s) * mp.e ** mp.mpf(value) for (value, w), s in zip(terms, signs, strict=True))
    log, sign = reference.weighted_logsumexp(z, [w * s for w, s in zip(b, signs, strict=True)])
    lost = mp.mpf(4 * len(z) * 2.0**-53) * mp.e**exact + abs(signed) * 3 * unit
    assert abs(sign * mp.e ** mp.mpf(log) - signed if sign else signed) <= lost


@pytest.mark.parametrize("z", [[0.0, -40.0], [-40.0, 0.0], [3.5], [1e300, -1e300]])
def test_weights_of_1_change_nothing(z):
    assert reference.weighted_logsumexp(z, [1.0] * len(z)) == (reference.logsumexp(z), 1.0)


def test_logsumexp_where_its_terms_cancel(rng):
    """Of log-probabilities what is left is within an ulp and a half of the larger term."""
    for classes in (2, 3, 10, 100):
        for _ in range(20):
            z = reference.log_softmax((rng.standard_normal(classes) * 3).tolist())
            off = abs(mp.mpf(reference.logsumexp(z)) - exact_lse(z))
            assert off <= 1.5 * math.ulp(max(z))


def test_logsumexp_of_infinite_rows():
    inf, nan = math.inf, math.nan
    assert [reference.logsumexp(z) for z in ([], [-inf], [-inf, -inf], [inf, 0.0], [-inf, inf])] == [-inf] * 3 + [
        inf
    ] * 2
    assert all(math.isnan(reference.logsumexp(z)) for z in ([nan], [nan, inf], [inf, nan], [-inf, nan]))


def test_special_rows():
    inf, nan = math.inf, math.nan
    assert reference.cross_entropy([0.0, -inf, 1.0], 0) == reference.cross_entropy([0.0, 1.0], 0)
    assert reference.cross_entropy_grad([0.0, -inf, 1.0], 0)[1] == 0
    assert reference.cross_entropy([0.0, -inf], 1) == inf
    assert reference.cross_entropy([0.0, -inf], 0, reference.Row(label_smoothing=0.1)) == inf
    assert reference.cross_entropy([0.0, -inf], 0, reference.Row(label_smoothing=0.1, class_weight=[1.0, 0.0])) == 0
    for z in ([nan, 0.0], [inf, 0.0], [-inf, -inf]):
        assert math.isnan(reference.cross_entropy(z, 1))
        assert all(map(math.isnan, reference.cross_entropy_grad(z, 1)))
        assert all(map(math.isnan, reference.log_softmax(z)))
        assert reference.cross_entropy(z, 1, reference.Row(weight=0.0)) == 0
        assert reference.cross_entropy_grad(z, 1, reference.Row(weight=0.0)) == [0, 0]


@pytest.mark.parametrize("z", [[414.0, -298.0], [0.0, -720.0, -740.0], [0.0, -746.0], [0.0, -math.inf, -710.0]])
def test_an_entropy_of_subnormal_probabilities(z):
    lse = exact_lse(z)
    log_p = [mp.mpf(value) - lse for value in z if value != -math.inf]
    assert ulps(reference.entropy(z), -mp.fsum(mp.e**value * value for value in log_p)) <= 4


@given(rows, st.data())
def test_entropy_rank_and_their_gradient(z, data):
    """Of any row, also one whose leading class leaves an entropy of 1e-300."""
    y = data.draw(st.integers(0, len(z) - 1))
    lse = exact_lse(z)
    log_p = [mp.mpf(value) - lse for value in z]
    exact = -mp.fsum(mp.e**value * value for value in log_p)
    assert ulps(reference.entropy(z), exact) <= 4
    assert reference.rank(z, y) == sorted(range(len(z)), key=lambda c: (-z[c], c)).index(y)
    assert (reference.largest(z) == y) == (reference.rank(z, y) == 0)
    terms = reference.log_probs_terms(z, y, 1.5, -0.5)
    for c, (got, term) in enumerate(zip(reference.log_probs_grad(z, y, 1.5, -0.5), terms, strict=True)):
        p = mp.e ** log_p[c]
        right = 1.5 * ((c == y) - p) + 0.5 * p * (log_p[c] + exact)
        assert abs(got - right) <= 8 * math.ulp(max(term, 1e-300))
