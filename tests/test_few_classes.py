"""Few classes, where rows are lanes: most tiles go a short way (kernels/blocks/near.h), some the long one."""

import math

import numpy as np
import pytest

import crossentropy
from crossentropy import testing

# 1; parts of 16 bytes and their neighbours (2 and 4 lanes); the vectors of each ISA and theirs; the last few-class size
CLASSES = [1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 21, 33, 50, 64]
ROWS = [1, 3, 4, 8, 15, 16, 17, 64, 65, 130]  # whole tiles of each ISA, a group of four, and neighbours
TILE = 16  # rows: whole tiles of each ISA
# Near 0; but for a masked class; with anchors; with logits that the maximum is taken off; and two that go the long way.
KINDS = ["near", "masked", "far", "wide", "beyond", "no maximum", "infinite"]


def logits(kind, rows, classes, rng):
    """Rows of one kind, in float64."""
    x = rng.standard_normal((rows, classes)) * 5
    if kind == "far":
        return x * 0.6 - 100
    if kind == "wide":
        return rng.uniform(-80, 80, x.shape)
    if kind == "beyond":
        return x * 100
    if kind == "masked" and classes > 1:
        x[:, 1::10] = -np.inf
    if kind == "no maximum":
        x[::3] = -np.inf
    if kind == "infinite":
        x[::4, 0], x[1::4, -1] = np.inf, np.nan
    return x


def results(x, targets, **options):
    """All that can be made of logits, row by row."""
    loss, grad = crossentropy.cross_entropy_and_grad(x, targets, reduction="none", **options)
    return {
        "loss": crossentropy.cross_entropy(x, targets, reduction="none", **options),
        "loss of both": loss,
        "gradient": grad,
        "softmax": crossentropy.softmax(x),
        "log-softmax": crossentropy.log_softmax(x),
        "logsumexp": crossentropy.logsumexp(x),
    }


def same(got, expected, name):
    """Bit for bit; NaN for NaN."""
    np.testing.assert_array_equal(np.asarray(got, np.float64), np.asarray(expected, np.float64), err_msg=name)


@pytest.mark.parametrize("classes", CLASSES)
def test_a_row_does_not_depend_on_where_its_neighbours_lie(isa_unit, dtype, classes, rng):
    """Whether they are near 0, far from it, undefined or not counted: which way a tile goes must not show."""
    for rows, kind in [(rows, "near") for rows in ROWS] + [(65, kind) for kind in KINDS[1:5]]:
        x = logits(kind, rows, classes, rng).astype(dtype)
        targets = rng.integers(0, classes, rows)
        alone = results(x, targets)
        strange = np.where(rng.random((rows, classes)) < 0.5, 500.0, -3.0)
        strange[::3], strange[-1] = -np.inf, np.nan
        order = rng.permutation(2 * rows)
        mixed = results(np.concatenate([x, strange.astype(dtype)])[order], np.concatenate([targets, targets])[order])
        place = np.argsort(order)[:rows]
        same(alone["loss of both"], alone["loss"], "the loss alone, and with the gradient")
        for name, found in mixed.items():
            same(found[place], alone[name], f"{name}, {kind}")


@pytest.mark.parametrize("classes", [2, 10, 21, 64])
@pytest.mark.parametrize("options", [{}, {"class_weight": True}, {"ignore_index": 1}, {"sample_weight": True}])
def test_tiles_of_every_kind_follow_each_other(isa_unit, dtype, classes, options, rng):
    """In runs of every length about a group of four, each has the numbers that it has by itself; axis last or not."""
    weight, of_rows = rng.random(classes), rng.integers(0, 3, TILE).astype(np.float64)
    tiles = {kind: logits(kind, TILE, classes, rng).astype(dtype) for kind in KINDS}
    targets = rng.integers(0, classes, TILE)

    def of(kinds):
        given = {"class_weight": weight, "ignore_index": 1, "sample_weight": np.tile(of_rows, len(kinds))}
        x, y = np.concatenate([tiles[kind] for kind in kinds]), np.tile(targets, len(kinds))
        given = {name: given[name] for name in options}
        found = results(x, y, **given)
        beside = crossentropy.cross_entropy(np.ascontiguousarray(x.T), y, axis=0, reduction="none", **given)
        same(beside, found["loss"], "the loss of rows side by side")
        return found

    alone = {kind: of([kind]) for kind in KINDS}
    for length in (1, 2, 3, 4, 5, 8, 9):
        kinds = [kind for kind in rng.permutation(KINDS) for _ in range(length)]
        for name, found in of(kinds).items():
            same(found, np.concatenate([alone[kind][name] for kind in kinds]), f"{name}, runs of {length}")


@pytest.mark.parametrize("classes", [2, 3, 10, 21])
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_of_every_kind(kernels, dtype, classes, kind, rng):
    """Right, that is: as the reference has it, with targets that are masked classes, too."""
    x = logits(kind, 50, classes, rng).astype(dtype)
    targets = rng.integers(0, classes, 50)
    found = results(x, targets)
    with crossentropy.config(backend="reference"):
        expected = results(x.astype(np.float64), targets)  # not rounded to 16 bits
    for name, what in {"loss": "loss", "gradient": "grad", "softmax": "grad", "log-softmax": "log_softmax"}.items():
        testing.within(found[name], expected[name], np.dtype(dtype), what)


@pytest.mark.parametrize("classes", [2, 3, 10, 21])
@pytest.mark.parametrize("options", [{}, {"class_weight": True}, {"ignore_index": 1}, {"sample_weight": True}])
def test_rows_at_the_edge_of_near(kernels, dtype, classes, options, rng):
    """Logits of 60 and just beyond (float64: 300), whose sums have to hold; ties; targets that lead and trail."""
    edge = {2: 60, 4: 60, 8: 300}[np.dtype(dtype).itemsize]
    least = float(np.finfo(np.float32).eps if np.dtype(dtype).itemsize > 2 else 2**-3) * edge
    values = np.array([0, 1, edge, edge + least, -edge, -edge - least])
    x = rng.choice(values, (96, classes)).astype(dtype)
    targets = rng.integers(0, classes, 96)
    given = {name: rng.random(classes if name == "class_weight" else 96) if value is True else value
             for name, value in options.items()}  # fmt: skip
    found = results(x, targets, **given)
    with crossentropy.config(backend="reference"):
        expected = results(x.astype(np.float64), targets, **given)  # not rounded to 16 bits
    for name, what in {"loss": "loss", "gradient": "grad", "softmax": "grad", "log-softmax": "log_softmax"}.items():
        testing.within(found[name], expected[name], np.dtype(dtype), what)


@pytest.mark.parametrize("classes", [2, 3, 10, 20])
def test_large_results_are_those_of_small_calls(isa_unit, classes, rng):
    """From 16 MB on stores bypass the caches where they are aligned; threads share the rows."""
    rows = 2**22 // classes + 7
    x = rng.standard_normal((rows, classes), np.float32)
    targets = rng.integers(0, classes, rows)
    raw = np.empty(x.nbytes + 128, np.uint8)
    for offset in (0, 16):
        start = -raw.ctypes.data % 64 + offset
        out = raw[start : start + x.nbytes].view(np.float32).reshape(x.shape)
        crossentropy.cross_entropy_and_grad(x, targets, reduction="sum", out=out)
        softmax = crossentropy.softmax(x)
        for first in (0, 4096, rows - 100):
            some = slice(first, first + 100)
            _, grad = crossentropy.cross_entropy_and_grad(x[some], targets[some], reduction="sum")
            same(out[some], grad, "gradient")
            same(softmax[some], crossentropy.softmax(x[some]), "softmax")
        assert np.isfinite(out).all()
        np.testing.assert_allclose(out.sum(1), 0, atol=1e-6)
    in_place = x.copy()
    crossentropy.cross_entropy_and_grad(in_place, targets, reduction="sum", out=in_place)
    same(in_place, out, "in place")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("ignore_index", [None, -100, 1])
def test_every_integer_type_is_looked_at_to_its_ends(isa_unit, dtype, ignore_index, rng):
    """One bad target among good ones, wherever it lies in the vectors of the look."""
    x, good = rng.standard_normal((150, 7)), rng.integers(0, 7, 150).astype(dtype)
    loss = crossentropy.cross_entropy(x, good, ignore_index=ignore_index, reduction="none")
    assert ((loss == 0) == (good.astype(object) == ignore_index)).all()
    ends = np.iinfo(dtype)
    for bad in {7, ends.max, ends.min} - {0, ignore_index}:
        for place in (0, 1, 63, 64, 127, 149):
            targets = good.copy()
            targets[place] = bad
            with pytest.raises(IndexError, match=rf"targets\[{place}\] = {bad} is not in \[0, 7\)"):
                crossentropy.cross_entropy(x, targets, ignore_index=ignore_index)
            with crossentropy.config(check=False):
                found = crossentropy.cross_entropy(x, targets, ignore_index=ignore_index, reduction="none")
            assert np.flatnonzero(np.isnan(found)).tolist() == [place]


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.uint8])
@pytest.mark.parametrize("ignore_index", [None, 1, 4, -1])
@pytest.mark.parametrize("classes", [2, 5, 40])  # counted class by class, and target by target
@pytest.mark.parametrize("rows", [5, 70_001])  # of one look, and of two
def test_the_divisor_of_counted_classes(kernels, dtype, ignore_index, classes, rows, rng):
    """Without weights of the rows, classes are counted: the mean is over the sum of the targets' weights."""
    weight = rng.random(classes) * 10.0 ** rng.integers(-20, 20, classes)
    targets = rng.integers(0, classes, rows).astype(dtype)
    if ignore_index is not None and ignore_index >= classes:
        targets[::3] = ignore_index
    x = rng.standard_normal((rows, classes))
    each = crossentropy.cross_entropy(x, targets, class_weight=weight, ignore_index=ignore_index, reduction="none")
    counts = targets.astype(np.int64) != (ignore_index if ignore_index is not None else -100)
    expected = math.fsum(each) / math.fsum(weight[targets[counts]])
    mean = crossentropy.cross_entropy(x, targets, class_weight=weight, ignore_index=ignore_index)
    assert abs(mean - expected) <= 4 * np.spacing(expected)


@pytest.mark.parametrize("power", [0, -30, -39, -41, -50, -60, -70, -80, -90, -100, -120, -499, -501, -600, -650])
@pytest.mark.parametrize("classes", [2, 8, 21])
def test_a_backward_has_the_bits_of_the_short_way(kernels, dtype, classes, power, rng):
    """However small what arrives is: the lanes' room for its product with e^z depends on the way."""
    x, targets = rng.standard_normal((40, classes)).astype(dtype), rng.integers(0, classes, 40)
    found = crossentropy.cross_entropy_and_grad(x, targets, reduction="sum", grad_output=2.0**power).grad
    _, saved = crossentropy.autograd.forward(x, targets, reduction="sum")
    same(found, crossentropy.autograd.backward(saved, 2.0**power), "gradient")
