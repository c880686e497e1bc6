"""Distillation against 80-digit arithmetic and finite differences: what the conformance suite lacks."""

import itertools

import mpmath
import numpy as np
import pytest

import crossentropy
from crossentropy import distillation, reference
from crossentropy.testing.edge_cases.distillation import unit_of

KINDS = list(itertools.product(reference.KINDS, (1.0, 0.7)))


def softmax(z, temperature):
    terms = [mpmath.exp(mpmath.mpf(value) / mpmath.mpf(temperature)) for value in z]
    total = mpmath.fsum(terms)
    return [term / total for term in terms]


def divergence(p, q):
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True) if a)


def exact(student, teacher, kind, temperature, beta, digits=80):
    """Loss and gradient in so many digits, by the definitions."""
    with mpmath.workdps(digits):
        s, t = softmax(student, temperature), softmax(teacher, temperature)
        size, share = mpmath.mpf(temperature), mpmath.mpf(beta)
        if kind == "forward":
            return size**2 * divergence(t, s), [size * (a - b) for a, b in zip(s, t, strict=True)]
        if kind == "reverse":
            kl = divergence(s, t)
            return size**2 * kl, [size * a * (mpmath.log(a / b) - kl) for a, b in zip(s, t, strict=True)]
        m = [share * b + (1 - share) * a for a, b in zip(s, t, strict=True)]
        kl = divergence(s, m)
        grad = [size * (1 - share) * a * (mpmath.log(a / b) - kl) for a, b in zip(s, m, strict=True)]
        return size**2 * (share * divergence(t, m) + (1 - share) * kl), grad


@pytest.mark.parametrize("noise", [1e-13, 1e-7, 1e-3, 0.3, 3, 30])
@pytest.mark.parametrize(("kind", "temperature"), KINDS)
def test_the_reference(kind, temperature, noise, rng):
    """Nearly equal rows, up to a constant, keep their digits; the reference rounds z / T once."""
    teacher = rng.standard_normal(9) * 3
    student = teacher + 7 + noise * rng.standard_normal(9)
    loss, grad = exact(student.tolist(), teacher.tolist(), kind, temperature, 0.3)
    got = reference.distillation(student.tolist(), teacher.tolist(), kind, temperature, 0.3)
    assert abs(got - loss) < 1e-13 * loss
    slopes = reference.distillation_grad(student.tolist(), teacher.tolist(), kind, temperature, 0.3)
    most = max(map(abs, grad)) if noise < 0.1 else 1  # far from each other: as p_s and p_t are
    assert max(abs(a - b) for a, b in zip(slopes, grad, strict=True)) < 4e-14 * most


@pytest.mark.parametrize("temperature", [1e-3, 0.02])
@pytest.mark.parametrize("kind", reference.KINDS)
def test_the_reference_at_small_temperatures(kind, temperature, rng):
    """Neither z / T, which is 3e6, nor differences of classes without any probability are rounded into a result."""
    for offset, spread, noise in itertools.product((0, 3000), (1, 4e-3), (1, 3e-3)):
        teacher = offset + spread * rng.standard_normal(9)
        student = teacher + 700 + noise * rng.standard_normal(9)
        student[2] += 2
        given = student.tolist(), teacher.tolist(), kind, temperature, 0.3
        loss, grad = exact(*given, digits=900)
        assert abs(reference.distillation(*given) - loss) <= 2e-15 * loss
        slopes, unit = np.array(reference.distillation_grad(*given)), unit_of(*given)
        assert (np.abs(slopes - np.array(grad, float)) <= 4e-15 * (unit + abs(loss)) + 1e-300).all()


@pytest.mark.parametrize(("kind", "temperature"), KINDS)
def test_against_exact_arithmetic(kernels, kind, temperature, rng):
    """float32, of which every row goes another way: near, far, equal, masked, with an offset, beyond the anchor."""
    for classes, noise, offset in itertools.product((3, 65), (1e-5, 0.02, 0.5, 2.5), (0, 9.5, 600)):
        teacher = (rng.standard_normal(classes) * 2).astype(np.float32)
        student = (teacher + offset + noise * rng.standard_normal(classes)).astype(np.float32)
        loss, grad = exact(student.tolist(), teacher.tolist(), kind, temperature, 0.5)
        got = distillation(student, teacher, kind=kind, temperature=temperature)
        assert abs(got.loss - loss) <= 4 * 2.0**-23 * loss, (classes, noise, offset)
        most = float(max(*map(abs, grad), loss if loss > 0.1 else 0))  # d - KL, of which one p may be near 1
        assert np.abs(got.grad - np.array(grad, float)).max() <= 16 * 2.0**-23 * most, (classes, noise, offset)


@pytest.mark.parametrize("classes", [16, 63, 2048, 2049, 4100])
def test_sizes_by_code_path(kernels, classes, rng):
    """A vector, one short of several, a block, one past it; exponentials that are kept."""
    beside_float64(classes, reference.KINDS, rng)


def test_rows_whose_exponentials_are_too_many_to_keep(isa_unit, rng):
    beside_float64(170_000, reference.KINDS[:2], rng)


def beside_float64(classes, kinds, rng):
    teacher = rng.standard_normal((2, classes)).astype(np.float32)
    student = np.stack([rng.standard_normal(classes), teacher[1] + 0.1 * rng.standard_normal(classes)]).astype(
        np.float32
    )
    teacher[:, classes // 3] = student[:, classes // 3] = -np.inf
    for kind in kinds:
        got = distillation(student, teacher, kind=kind, reduction="none")
        want = distillation(student.astype(float), teacher.astype(float), kind=kind, reduction="none")
        np.testing.assert_allclose(got.loss, want.loss, rtol=1e-6)
        np.testing.assert_allclose(got.grad, want.grad, rtol=0, atol=2e-6 * np.abs(want.grad).max())


@pytest.mark.parametrize("kind", reference.KINDS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_teacher_and_a_student_that_are_not_alike(kernels, kind, temperature, rng):
    """A sharp row beside a blunt one, and rows whose first block is not as the rest, masked classes there or behind: by
    where the base and the anchors come from."""
    blunt = rng.standard_normal((5, 4100))
    sharp, near = 6 * blunt, blunt + 0.05 * rng.standard_normal((5, 4100))
    far = 3 * rng.standard_normal((5, 4100))
    where, late = np.arange(4100) < 2048, np.arange(4100) > 4000
    pairs = [
        (blunt, sharp),
        (blunt + 40, 2 * sharp - 30),
        (2 * sharp, blunt),
        (np.where(where, near, far), blunt),
        (np.where(where, far, near), blunt),
        (np.where(where, near - 60, near + 60), np.where(where, blunt - 60, blunt + 60)),
        (np.where(where, far - 60, far + 60), np.where(where, blunt - 60, blunt)),
        (np.where(where, far, near + 60), np.where(where, -60, blunt + 60)),
        (np.where(where, -np.inf, far), np.where(where, -np.inf, blunt)),
        (np.where(where, far, -np.inf), np.where(where, 9 * blunt, -np.inf)),
        (np.where(late, -np.inf, far), np.where(late, -np.inf, blunt)),
        (np.where(late, -np.inf, far), blunt),
        (far, np.where(late, -np.inf, blunt)),
    ]
    for number, (student, teacher) in enumerate(pairs):
        student, teacher = student.astype(np.float32), teacher.astype(np.float32)
        options = {"kind": kind, "temperature": temperature, "reduction": "none"}
        got = distillation(student, teacher, **options)
        want = distillation(student.astype(float), teacher.astype(float), **options)
        np.testing.assert_allclose(got.loss, want.loss, rtol=6e-7, err_msg=str(number))
        assert (np.isnan(got.grad) == np.isnan(want.grad)).all(), number
        if np.isfinite(want.loss).all():
            size = np.maximum(np.abs(want.grad).max(axis=1), np.where(want.loss > 0.1, want.loss, 0))[:, None]
            assert (np.abs(got.grad - want.grad) <= 2e-6 * size).all(), number


def test_gradients_where_few_classes_differ_by_much(kernels):
    """Each entry to 6 ulps of the larger of its two probabilities: an error of a row's normalisation is in them all."""
    rng = np.random.default_rng(3)
    for noise in (4, 8):
        teacher = rng.standard_normal((100, 300)) * np.linspace(1, 5, 100)[:, None]
        teacher[::2, 100] += 5
        student = teacher + 3 + noise * rng.standard_normal((100, 300)) * (rng.random((100, 300)) < 0.02)
        student, teacher = student.astype(np.float32), teacher.astype(np.float32)
        got = distillation(student, teacher, reduction="sum").grad
        want = distillation(student.astype(float), teacher.astype(float), reduction="sum").grad
        p_s, p_t = (crossentropy.softmax(z.astype(float)) for z in (student, teacher))
        unit = np.spacing(np.maximum(p_s, p_t).astype(np.float32))
        assert (np.abs(got - want) <= 6 * unit).all(), (np.abs(got - want) / unit).max()


def test_rows_do_not_depend_on_their_batch_or_threads(kernels, rng):
    student, teacher = rng.standard_normal((2, 40, 3000)).astype(np.float32)
    student[::3] = teacher[::3] + np.float32(0.01) * student[::3]
    student[5, 7] = teacher[5, 7] = -np.inf
    with crossentropy.config(threads=1):
        loss, grad = distillation(student, teacher, reduction="none")
    with crossentropy.config(threads=3):
        again = distillation(student, teacher, reduction="none")
    np.testing.assert_array_equal(again.loss, loss)
    np.testing.assert_array_equal(again.grad, grad)
    for n in (0, 5, 39):
        alone = distillation(student[n : n + 1], teacher[n : n + 1], reduction="none")
        np.testing.assert_array_equal(alone.loss, loss[n : n + 1])
        np.testing.assert_array_equal(alone.grad, grad[n : n + 1])


@pytest.mark.parametrize(("kind", "temperature"), KINDS)
def test_against_central_differences(backend, kind, temperature, rng):
    student, teacher, direction = rng.standard_normal((3, 4, 6))
    options = {"kind": kind, "temperature": temperature, "beta": 0.3, "sample_weight": [1.0, 2.0, 0.0, 0.5]}
    step = 1e-5
    up, down = (distillation(student + h * direction, teacher, **options).loss for h in (step, -step))
    slope = (distillation(student, teacher, **options).grad * direction).sum()
    np.testing.assert_allclose((up - down) / (2 * step), slope, atol=1e-9)


def test_what_must_hold(kernels, rng):
    """No loss is negative, js is at most log 2 and symmetric, gradients of a row add up to 0."""
    student, teacher = rng.standard_normal((2, 30, 12)) * np.geomspace(1e-4, 30, 30)[:, None]
    for kind in reference.KINDS:
        loss, grad = distillation(student, teacher, kind=kind, reduction="none")
        assert (loss > 0).all()
        np.testing.assert_allclose(grad.sum(axis=1), 0, atol=1e-14 * np.abs(grad).max())
    np.testing.assert_allclose(loss, distillation(teacher, student, kind="js", reduction="none").loss, rtol=1e-11)
    assert (loss <= np.log(2) * (1 + 1e-15)).all()
    forward = distillation(teacher, student, reduction="none").loss
    np.testing.assert_allclose(
        forward, distillation(student, teacher, kind="reverse", reduction="none").loss, rtol=1e-11
    )


def test_large_and_small_gradients_arrive(kernels, rng):
    student, teacher = rng.standard_normal((2, 3, 20)).astype(np.float32)
    for kind in reference.KINDS:
        grad = distillation(student, teacher, kind=kind, reduction="sum").grad.astype(float)
        for size in (1e-38, 1e-20, 1e20, 1e36):
            got = distillation(student, teacher, kind=kind, reduction="sum", grad_output=size).grad
            np.testing.assert_allclose(
                got, grad * size, rtol=2e-5, atol=max(2.0**-148, 1e-6 * size * np.abs(grad).max())
            )
