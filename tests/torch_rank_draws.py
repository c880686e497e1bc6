"""Calls drawn at random from the option table, for torch_ranks.py: spread over ranks and in one process they agree."""

import numpy as np
import torch
from torch_rank_cases import case, gathered, sizes

import crossentropy.torch as ct
from crossentropy import reference
from crossentropy._options import DEFAULTS, EXTRAS, NUMERIC, OPTIONS, TRANSFORMS
from crossentropy.testing import LIMITS, largest_error

DRAWS = 60  # a group
SHORT = (torch.bfloat16, torch.float16)
SPECIAL = (-np.inf, np.inf, np.nan)


def _chosen(rng, name):
    values = (*OPTIONS[name].samples, *OPTIONS[name].draws)
    return values[rng.integers(len(values))]


def _options(rng, n, are_classes):
    """Of the whole call, for both functions."""
    names = [name for name in (*EXTRAS, "label_smoothing") if are_classes or not OPTIONS[name].needs_index]
    found = {name: _chosen(rng, name) for name in names if rng.random() < 0.25}
    found["reduction"] = ("none", "none", "sum", "mean")[rng.integers(4)]
    if found["reduction"] == "mean" and rng.random() < 0.3:
        found["normalizer"] = (3.5, torch.tensor(7), torch.tensor(2.5, dtype=torch.float64))[rng.integers(3)]
    if rng.random() < 0.2:
        v = torch.from_numpy(2 * rng.random(n) * (rng.random(n) > 0.3))
        found["sample_weight"] = v.to((torch.float32, torch.float64, torch.bool)[rng.integers(3)])
    if rng.random() < 0.15:
        found["where"] = torch.from_numpy(rng.random(n) < 0.7)
    if are_classes and rng.random() < 0.2:
        found["ignore_index"] = int(rng.choice([0, 1, -1, 2**40]))
    return found


def _of_classes(rng, classes):
    """(weight, class_prior), each of which may be None."""
    weight = prior = None
    if rng.random() < 0.3:
        weight = torch.from_numpy(rng.random(classes) * (rng.random(classes) > 0.2))
        weight = weight.to((torch.float32, torch.float64)[rng.integers(2)])
    if rng.random() < 0.2:
        prior = np.where(rng.random(classes) < 0.15, -np.inf, rng.standard_normal(classes))
        prior = torch.from_numpy(prior).float()
    return weight, prior


def _call(rng):
    """(logits, target, weight, class_prior, options) of a call as one process makes it."""
    n, classes = int(rng.choice([0, 1, 2, 5, 9])), int(rng.choice([1, 2, 3, 7, 33, 130]))
    x, y = rng.choice([0.1, 3, 30]) * rng.standard_normal((n, classes)), rng.integers(0, classes, n)
    are_classes = rng.random() < 0.8
    options, (weight, prior) = _options(rng, n, are_classes), _of_classes(rng, classes)
    if rng.random() < 0.3:
        x[np.arange(n), y] += np.linspace(0, 110, n)
    counts = np.ones(n, bool)
    if are_classes and rng.random() < 0.5:
        y = np.where(rng.random(n) < 0.3, options.get("ignore_index", -100), y)
        counts = y != options.get("ignore_index", -100)
    for name in options.keys() & {"sample_weight", "where"}:
        counts &= options[name].numpy() != 0
    for row in np.flatnonzero(~counts):
        x[row, rng.integers(classes)] = SPECIAL[rng.integers(3)]
    if n and rng.random() < 0.3:
        row = rng.integers(n)
        x[row, rng.random(classes) < rng.choice([0.5, 1.0])] = -np.inf
        if rng.random() < 0.5:
            x[row, rng.integers(classes)] = SPECIAL[rng.integers(3)]
    if are_classes:
        target = torch.from_numpy(y).to(
            torch.int32 if abs(y).max(initial=0) < 2**31 and rng.random() < 0.3 else torch.int64
        )
    else:
        q = rng.random((n, classes)) * (rng.random((n, classes)) > rng.choice([0, 0.5]))
        target = torch.from_numpy(q).to((torch.float32, torch.float64)[rng.integers(2)])
    x = torch.from_numpy(x).to((torch.float64, torch.float32, *SHORT)[rng.integers(4)])
    return x, target, weight, prior, options


def _cut(rng, classes, size, rank):
    """(the first and last class of this rank, whether to say so)."""
    edges = [classes * i // size for i in range(size + 1)]
    if rng.random() < 0.7:
        edges = [0, *sorted(rng.integers(0, classes + 1, size - 1).tolist()), classes]
    is_said = rng.random() < 0.25
    at = int(rng.permutation(size)[rank]) if is_said else rank
    return edges[at], edges[at + 1], is_said


def _laid_out(rng, x):
    """The same numbers, in other strides."""
    kind = rng.integers(3)
    return x.T.contiguous().T if kind == 1 else torch.nn.functional.pad(x, (1, 2))[:, 1:-2] if kind == 2 else x.clone()


def _spread(rng, call, g, size, rank):
    """(loss, gradient, the classes that this is of)."""
    x, target, weight, prior, options = call
    first, last, is_said = _cut(rng, x.shape[1], size, rank)
    mine = _laid_out(rng, x[:, first:last]).detach().requires_grad_()
    shape, options = (1, len(x), 1) if rng.random() < 0.3 else (len(x),), dict(options)
    for name in options.keys() & {"sample_weight", "where"}:
        options[name] = options[name].reshape(shape)
    target = target[:, first:last] if target.is_floating_point() else target
    loss = ct.vocab_parallel_cross_entropy(
        mine.reshape(*shape, last - first),
        target.reshape(*shape, *target.shape[1:]),
        None if weight is None else weight[first:last],
        class_prior=None if prior is None else prior[first:last],
        group=g,
        vocab_range=(first, last) if is_said else None,
        **options,
    )
    loss.backward(_arriving(loss).reshape(loss.shape))
    return loss.detach().reshape(-1), mine.grad, slice(first, last)


def _arriving(loss):
    g = 0.5 + torch.rand(loss.numel(), generator=torch.Generator().manual_seed(1))
    return g.to(loss.dtype)


def _alone(call):
    """(loss, gradient) of the same in float64, by one process."""
    x, target, weight, prior, options = call
    wide = x.double().requires_grad_()
    target, weight = (t.double() if t is not None and t.is_floating_point() else t for t in (target, weight))
    loss = ct.cross_entropy(wide, target, weight, class_prior=prior, **options)
    loss.backward(_arriving(loss).float().double().reshape(loss.shape))
    return loss.detach().reshape(-1), wide.grad


def _terms(call):
    """The largest term of each entry of the gradient, in whose ulp it is judged, (N, C): of terms of either sign."""
    x, target, weight, prior, options = call
    v = np.ones(len(x))
    for name in options.keys() & {"sample_weight", "where"}:
        v = v * options[name].double().numpy()
    targets = target.double().tolist() if target.is_floating_point() else target.tolist()
    if not target.is_floating_point():
        v[target.numpy() == options.get("ignore_index", -100)] = 0
        targets = [y if v[i] else 0 for i, y in enumerate(targets)]
    numbers = {name: OPTIONS[name].rule(options[name], name) for name in options.keys() & set(NUMERIC)}
    arrays = {"class_weight": weight, "class_prior": prior}
    numbers |= {name: None if t is None else t.double().tolist() for name, t in arrays.items()}
    rows = [reference.Row(v_n, **numbers) for v_n in v.tolist()]
    found = [reference.largest_terms(*row) for row in zip(x.double().tolist(), targets, rows, strict=True)]
    g = _arriving(torch.empty(len(x) if options["reduction"] == "none" else 1)).double().numpy()
    if options["reduction"] == "mean":
        by = float(options.get("normalizer", 0)) or reference.divisor(targets, v.tolist(), numbers["class_weight"])
        g = g / by if by else 0 * g
    return np.array(found).reshape(x.shape) * g.reshape(-1, 1)


def _require_contract(loss, grad, wanted, whole, terms, call):
    """Both within the accuracy contract of what one process finds in float64, which of float64 may be as far off."""
    *_, prior, options = call
    name = str(grad.dtype).removeprefix("torch.")
    is_long = grad.dtype is torch.float64
    changed = prior is not None or any(options.get(o, DEFAULTS[o]) != DEFAULTS[o] for o in (*TRANSFORMS, "focal"))
    times = (2 if is_long else 1) * (4 if is_long and changed else 1)
    cap = 0.5 if name == "float32" and options.get("softcap") else 0.0
    for what, found, other, unit, more in (("loss", loss, wanted, None, 0), ("grad", grad, whole, terms, cap)):
        if found.numel():
            of = str(found.dtype).removeprefix("torch.")
            off = largest_error(found.double().numpy(), other.numpy(), of, unit)
            assert off <= times * LIMITS[name][what] + more + 0.01, f"{what} off by {off} ulp"


@case
def calls_drawn_from_the_option_table(rank):
    for size, g in sizes(rank):
        rng = np.random.default_rng(size)  # the same on every rank
        for turn in range(DRAWS):
            call = _call(rng)
            wanted, whole = _alone(call)
            loss, grad, here = _spread(np.random.default_rng([size, turn]), call, g, size, rank)
            told = f"draw {turn} of {size} ranks: {tuple(call[0].shape)} {call[0].dtype}, {here}, {call[4]}"
            try:
                _require_contract(loss, grad, wanted, whole[:, here], _terms(call)[:, here], call)
            except AssertionError as error:
                raise AssertionError(f"{told}: {error}") from error
            if not turn % 20:
                assert len({other.numpy().tobytes() for other in gathered(loss, g)}) == 1, told
