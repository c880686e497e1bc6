"""What ranks do together and find right, for torch_ranks.py: each case is a function of the rank that all four run."""

import datetime
import functools
import re
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import crossentropy.torch as ct
from crossentropy.testing import dtypes, sweep, within
from crossentropy.testing.ulps import refuses

RANKS = 4
TIMEOUT = datetime.timedelta(seconds=15)
CASES = {}
OF_TWO = {}  # those that two ranks go through, beside the others: compilers take their time
SLOW = {"dtensors_compiled", "a_compiled_layer", "every_cut_of_log_probabilities"}


def case(function):
    """A function that raises where something is wrong."""
    CASES[function.__name__] = function
    return function


def case_of_two(function):
    """The same for two ranks, which are all that there are."""
    OF_TWO[function.__name__] = function
    return function


@functools.cache
def groups():
    """The first so many ranks, by their number; made by all of them, in one order."""
    some = {n: dist.new_group(list(range(n)), timeout=TIMEOUT) for n in (2, 3)}
    return {**some, RANKS: dist.group.WORLD}


def sizes(rank):
    """(size, group) of those groups that the rank is in."""
    return [(size, g) for size, g in groups().items() if rank < size]


def cuts(kind, classes, size):
    """Where each rank's classes begin, and the end."""
    if kind == "even":
        return [classes * i // size for i in range(size + 1)]
    if kind == "uneven":
        return [0, *(1 + (classes - 1) * i // (size - 1) for i in range(size))]
    return [0, 0, *(classes * (i + 1) // (size - 1) for i in range(size - 1))]  # none on the first


CUTS = ("even", "uneven", "empty")


def data(rows, classes, seed=0, dtype=torch.float32, scale=3.0, ahead=0):
    g = torch.Generator().manual_seed(seed)
    x, y = scale * torch.randn(rows, classes, generator=g), torch.randint(0, classes, (rows,), generator=g)
    if ahead:
        x[torch.arange(rows), y] += torch.linspace(0, ahead, rows)
    return x.to(dtype), y


def gathered(t, g):
    """The parts of all ranks."""
    parts = [None] * dist.get_world_size(g)
    dist.all_gather_object(parts, t, group=g)
    return parts


def whole_gradient(part, g):
    return torch.cat(gathered(part, g), -1)


def of_rank(t, edges, rank):
    return None if t is None else t[..., edges[rank] : edges[rank + 1]]


def compare(x, y, g, rank, edges, *, weight=None, prior=None, atol=2e-6, **options):
    """The loss and gradient of spread logits, and those of one process."""
    lo, hi = edges[rank], edges[rank + 1]
    mine = x[..., lo:hi].clone().requires_grad_()
    before = mine.detach().clone()
    loss = ct.vocab_parallel_cross_entropy(
        mine,
        of_rank(y, edges, rank) if y.is_floating_point() else y,
        of_rank(weight, edges, rank),
        group=g,
        class_prior=of_rank(prior, edges, rank),
        **options,
    )
    arriving = torch.rand(loss.shape, generator=torch.Generator().manual_seed(5)).to(loss.dtype)
    loss.backward(arriving)
    assert torch.equal(mine.detach().nan_to_num(7), before.nan_to_num(7)), "the logits were written to"
    losses, grads = zip(*gathered((loss.detach(), mine.grad), g), strict=True)
    for other in losses:
        assert torch.equal(other.nan_to_num(-1.0), losses[0].nan_to_num(-1.0)), "other bits on another rank"
    grad = torch.cat(grads, -1)
    alone = x.clone().requires_grad_()
    shape = x.shape
    flat = alone.reshape(-1, shape[-1])
    y_flat = y.reshape(-1, shape[-1]) if y.is_floating_point() else y.reshape(-1)
    beside = {k: v.reshape(-1) if isinstance(v, torch.Tensor) and v.dim() else v for k, v in options.items()}
    beside = {"reduction": "none", **beside}
    wanted = ct.cross_entropy(flat, y_flat, weight, class_prior=prior, dtype=loss.dtype, **beside)
    wanted = wanted.reshape(loss.shape)
    wanted.backward(arriving)
    torch.testing.assert_close(loss, wanted, rtol=2e-6, atol=atol, equal_nan=True)
    tight = {"rtol": 1e-5, "atol": 1e-6} if x.itemsize > 2 else {"rtol": 1e-2, "atol": 1e-4}
    torch.testing.assert_close(grad, alone.grad, equal_nan=True, **tight)
    return loss


@case
def every_cut_of_every_dtype(rank):
    for size, g in sizes(rank):
        for kind in CUTS:
            for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
                x, y = data(7, 37, dtype=dtype)
                y[2] = -100
                compare(x, y, g, rank, cuts(kind, 37, size))


@case
def options_of_the_table(rank):
    w = torch.rand(37, generator=torch.Generator().manual_seed(3)) + 0.1
    w[5] = 0
    v = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 1.0, 3.0])
    chosen = (
        {"label_smoothing": 0.1},
        {"label_smoothing": 1.0, "weight": w},
        {"weight": w},
        {"weight": w, "label_smoothing": 0.3, "z_loss": 0.01, "reduction": "mean"},
        {"z_loss": 1e-3},
        {"sample_weight": v, "reduction": "mean"},
        {"where": v > 0, "weight": w, "reduction": "sum"},
        {"reduction": "mean"},
        {"reduction": "mean", "normalizer": 11.0},
        {"reduction": "mean", "normalizer": torch.tensor(11)},
        {"logit_scale": 0.3},
        {"softcap": 5.0, "label_smoothing": 0.1},
        {"prior": w - 0.5},
        {"margin": 0.7, "logit_scale": 2.0},
        {"focal": 2.0, "reduction": "mean"},
        {"focal": 0.5, "weight": w, "label_smoothing": 0.3, "softcap": 5.0, "sample_weight": v},
    )
    for size, g in sizes(rank):
        for i, options in enumerate(chosen):
            if i % 2 != size % 2 and size < RANKS:  # two ranks have one half of them, three the other
                continue
            x, y = data(7, 37, seed=i)
            y[3], y[4] = -100, 5
            compare(x, y, g, rank, cuts(CUTS[i % 3], 37, size), **options)


@case
def probabilities_spread_like_the_logits(rank):
    for size, g in sizes(rank):
        for kind in CUTS:
            x, _ = data(6, 20)
            q = torch.softmax(torch.randn(6, 20, generator=torch.Generator().manual_seed(9)), -1)
            w = torch.rand(20, generator=torch.Generator().manual_seed(3))
            for options in ({}, {"label_smoothing": 0.2}, {"weight": w, "reduction": "mean"}, {"z_loss": 0.1}):
                compare(x, q, g, rank, cuts(kind, 20, size), **options)


@case
def rows_of_any_number_of_axes(rank):
    for size, g in sizes(rank):
        edges = cuts("uneven", 11, size)
        x, y = data(24, 11)
        compare(x.reshape(2, 3, 4, 11), y.reshape(2, 3, 4), g, rank, edges)
        compare(x[0], y[0], g, rank, edges)
        strided = x.T.contiguous().T.reshape(4, 6, 11).transpose(0, 1)
        compare(strided, y.reshape(6, 4), g, rank, edges)
        wide = torch.empty(24, 40)[:, 3:14].copy_(x)  # columns of a larger matrix
        compare(wide, y, g, rank, edges)


@case
def fewer_classes_than_ranks(rank):
    for size, g in sizes(rank):
        for classes in (1, 2):
            x, y = data(5, classes)
            compare(x, y, g, rank, [min(i, classes) for i in range(size + 1)])


@case
def no_rows(rank):
    for size, g in sizes(rank):
        x, y = data(0, 9)
        edges = cuts("even", 9, size)
        assert compare(x, y, g, rank, edges).shape == (0,)
        assert compare(x, y, g, rank, edges, reduction="sum") == 0
        assert compare(x, y, g, rank, edges, reduction="mean").isnan()


@case
def rows_that_do_not_count(rank):
    for size, g in sizes(rank):
        x, y = data(6, 12)
        y[1] = y[4] = -100
        x[1], x[4, 3] = float("nan"), float("inf")
        for kind in CUTS:
            edges = cuts(kind, 12, size)
            compare(x, y, g, rank, edges, reduction="mean", label_smoothing=0.1)
            mine = x[:, edges[rank] : edges[rank + 1]].clone().requires_grad_()
            loss = ct.vocab_parallel_cross_entropy(mine, torch.full_like(y, -100), group=g, reduction="mean")
            loss.backward()
            assert loss.isnan()
            assert not mine.grad.any()


@case
def infinities(rank):
    for size, g in sizes(rank):
        edges = cuts("even", 12, size)
        for masked in range(size):  # a rank of nothing but -inf, which may have some targets
            x, y = data(6, 12)
            x[:, edges[masked] : edges[masked + 1]] = -float("inf")
            compare(x, y, g, rank, edges)
            compare(x, y, g, rank, edges, z_loss=0.1)
        x, y = data(6, 12)
        x[0], x[1, 5], x[2, 7] = -float("inf"), float("inf"), float("nan")
        x[3, y[3]], x[4, y[4]] = float("inf"), float("nan")
        compare(x, y, g, rank, edges)
        compare(x, y, g, rank, edges, label_smoothing=0.1)


@case
def targets_on_one_rank_and_on_boundaries(rank):
    for size, g in sizes(rank):
        edges = cuts("even", 12, size)
        for owner in range(size):
            x, _ = data(6, 12)
            lo, hi = edges[owner], edges[owner + 1]
            compare(x, torch.full((6,), lo), g, rank, edges)
            compare(x, torch.full((6,), hi - 1, dtype=torch.uint8), g, rank, edges)
        x, _ = data(2 * size, 12)
        y = torch.tensor([c for i in range(size) for c in (edges[i], edges[i + 1] - 1)])
        compare(x, y, g, rank, edges, weight=torch.arange(12.0))


@case
def within_the_contract(rank, at_least=2):
    """No loss that is not 0 comes out as 0, and none off by more than in one process."""
    for size, g in sizes(rank):
        if size < at_least:
            continue
        rng = np.random.default_rng(size)  # the same on every rank
        for dtype, real in ((torch.float32, np.float64), (torch.float64, np.longdouble), (torch.bfloat16, np.float64)):
            for n, classes in ((400, 30), (60, 1000)):
                x, y = sweep.rows(rng, n, classes)
                x = torch.from_numpy(x).to(dtype)
                edges = cuts(CUTS[(size + n) % 3], classes, size)
                mine = x[:, edges[rank] : edges[rank + 1]].clone().requires_grad_()
                loss = ct.vocab_parallel_cross_entropy(mine, torch.from_numpy(y), group=g)
                loss.sum().backward()
                grad = whole_gradient(mine.grad, g)
                name = {torch.float32: "float32", torch.float64: "float64"}.get(dtype, "bfloat16")
                truth = sweep.truth(x.double().numpy(), y, real)
                of = dtypes()[name]
                assert not ((loss.detach().double().numpy() == 0) & (truth["loss"].astype(np.float32) > 0)).any()
                within(loss.detach().double().numpy(), truth["loss"], of, "loss")
                within(grad.double().numpy(), truth["grad"], of, "grad")


LOG_PROB_OPTIONS = ({}, {"ignore_index": -1}, {"logit_scale": 0.5, "softcap": 4.0}, {"class_prior": 1})


@case
def every_cut_of_log_probabilities(rank):
    log_probabilities_and_entropies(rank, CUTS, (torch.float32, torch.float64, torch.bfloat16))


@case
def log_probabilities_and_entropies(rank, kinds=("uneven",), dtypes=(torch.float32,)):
    for size, g in sizes(rank):
        for kind in kinds:
            for dtype in dtypes:
                for options in LOG_PROB_OPTIONS:
                    x, y = data(8, 21, dtype=dtype, ahead=60)
                    y[3] = -1 if "ignore_index" in options else y[3]
                    edges = cuts(kind, 21, size)
                    x[5, edges[1] : edges[2]] = -float("inf")
                    x[5, y[5]] = 1.0
                    here, alone = dict(options), dict(options)
                    if "class_prior" in options:
                        alone["class_prior"] = torch.linspace(-2, 2, 21)
                        here["class_prior"] = of_rank(alone["class_prior"], edges, rank)
                    mine = of_rank(x, edges, rank).clone().requires_grad_()
                    found = ct.vocab_parallel_log_probs_and_entropy(mine, y, group=g, **here)
                    ref = x.clone().requires_grad_()
                    want = ct.token_log_probs_and_entropy(ref, y, **alone)
                    for a, b in zip(found, want, strict=True):
                        torch.testing.assert_close(a, b, rtol=3e-7 if dtype is not torch.float64 else 3e-15, atol=0)
                    u = torch.rand(8, generator=torch.Generator().manual_seed(2))
                    ((found.log_prob * u).sum() - found.entropy.sum()).backward()
                    ((want.log_prob * u).sum() - want.entropy.sum()).backward()
                    grad = whole_gradient(mine.grad, g)
                    loose = {"rtol": 1e-2, "atol": 1e-5} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-7}
                    torch.testing.assert_close(grad, ref.grad, **loose)
        x, y = data(8, 21)
        edges = cuts("even", 21, size)
        mine = of_rank(x, edges, rank).clone().requires_grad_()
        ct.vocab_parallel_entropy(mine, group=g).sum().backward()
        ref = x.clone().requires_grad_()
        ct.entropy(ref).sum().backward()
        torch.testing.assert_close(whole_gradient(mine.grad, g), ref.grad)
        with torch.no_grad():
            torch.testing.assert_close(
                ct.vocab_parallel_log_probs(mine, y, group=g), ct.token_log_probs(x, y), rtol=3e-7, atol=0
            )


@case
def in_pytorchs_operations(rank):
    """What logits on a device go by, as far as it can be told without one: the same functions, on these."""
    from crossentropy.torch import shard_composed

    needed, shard_composed.is_needed = shard_composed.is_needed, lambda x: True
    try:
        w = torch.rand(12, generator=torch.Generator().manual_seed(3))
        for options in (
            {"reduction": "mean"},
            {"label_smoothing": 0.2, "weight": w},
            {"softcap": 3.0, "logit_scale": 0.7, "margin": 0.4, "prior": w},
            {"z_loss": 0.1, "sample_weight": torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 3.0])},
            {"focal": 2.0, "label_smoothing": 0.2, "weight": w, "z_loss": 0.1, "softcap": 5.0},
        ):
            x, y = data(6, 12, ahead=30)
            x[2], y[2] = float("nan"), -100
            if "sample_weight" not in options:
                x[4, :7] = -float("inf")
            compare(x, y, dist.group.WORLD, rank, cuts("uneven", 12, RANKS), **options)
        x, _ = data(6, 12)
        compare(x, torch.softmax(x + 1, -1), dist.group.WORLD, rank, cuts("empty", 12, RANKS), label_smoothing=0.1)
        within_the_contract(rank, at_least=RANKS)
        log_probabilities_and_entropies(rank)
    finally:
        shard_composed.is_needed = needed


class LikeADevice:
    """The functions of a device for blocks of classes, of tensors on the host by the native kernels."""

    @staticmethod
    def _block(x, target, start, classes, options):
        from crossentropy import blocks
        from crossentropy.torch.bridge import array

        options = {name: array(v) if isinstance(v, torch.Tensor) else v for name, v in options.items()}
        return blocks._block(array(x), array(target), start, classes, options)

    def forward_block(self, x, target, start, classes, **options):
        from crossentropy import native

        b, found = self._block(x, target, start, classes, options), np.empty((len(x), 5))
        native.forward_block(b.call.x, b.given, b.options, found)
        return torch.from_numpy(found)

    def backward_block(self, x, target, statistics, start, classes, *, grad_output, out, **options):
        from crossentropy import native
        from crossentropy.torch.bridge import array

        assert grad_output.dtype is (torch.float64 if x.dtype is torch.float64 else torch.float32)
        assert statistics.dtype is torch.float64
        b = self._block(x, target, start, classes, options)
        native.backward(b.call.x, b.given, statistics.numpy(), b.options, grad_output.double().numpy(), array(out))


@case
def by_the_kernels_of_a_device(rank):
    """What goes to them and comes of it, as far as it can be told without one: they are held to blocks elsewhere."""
    from crossentropy._backends import registry
    from crossentropy.torch import shard_device

    there = shard_device.serves, registry.device_backend
    shard_device.serves, registry.device_backend = lambda x: True, LikeADevice
    try:
        w = torch.rand(12, generator=torch.Generator().manual_seed(3))
        v = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 3.0])
        for i, options in enumerate(
            (
                {"reduction": "mean"},
                {"label_smoothing": 0.2, "weight": w, "sample_weight": v},
                {"softcap": 3.0, "logit_scale": 0.7, "margin": 0.4, "prior": w, "z_loss": 0.1},
                {"focal": 2.0, "label_smoothing": 0.2, "weight": w, "sample_weight": v, "z_loss": 0.1, "softcap": 5.0},
            )
        ):
            x, y = data(6, 12, ahead=30, dtype=(torch.float32, torch.float64, torch.bfloat16)[i % 3])
            x[2], y[2] = float("nan"), -100
            compare(x, y, dist.group.WORLD, rank, cuts(CUTS[i % 3], 12, RANKS), **options)
        x, _ = data(6, 12)
        compare(x, torch.softmax(x + 1, -1), dist.group.WORLD, rank, cuts("even", 12, RANKS), label_smoothing=0.1)
    finally:
        shard_device.serves, registry.device_backend = there


@case
def one_collective(rank):
    """Counted where PyTorch counts them, and by the function that sends."""
    from torch.distributed.tensor.debug import CommDebugMode

    from crossentropy.torch import private, shards

    g, edges = groups()[RANKS], cuts("even", 20, RANKS)
    x, y = data(6, 20)
    mine = of_rank(x, edges, rank).clone().requires_grad_()
    calls, sent = [], private.all_gather

    def counted(every, own, group):
        calls.append(own.numel())
        sent(every, own, group)

    private.all_gather = counted
    try:
        with torch.no_grad():
            for _ in range(shards.LATEST):  # after which no longer message is remembered
                ct.vocab_parallel_cross_entropy(mine, y, group=g)
        calls.clear()
        ct.vocab_parallel_cross_entropy(mine, y + 0, group=g).sum().backward()
        assert calls == [16 * 6 + 80]
        ct.vocab_parallel_cross_entropy(mine[:4], y[:4], group=g)  # fewer rows have room in such a message, too
        ct.vocab_parallel_cross_entropy(mine, y, group=g)
        assert calls == [16 * 6 + 80] * 3
        calls.clear()
        found = ct.vocab_parallel_log_probs_and_entropy(mine, y, group=g)
        (found.log_prob + found.entropy).sum().backward()
        assert calls == [16 * 6 + 80]
    finally:
        private.all_gather = sent
    with CommDebugMode() as counts:
        loss = ct.vocab_parallel_cross_entropy(mine, y, group=g)
    assert counts.get_total_counts() == 1, counts.get_comm_counts()
    with CommDebugMode() as counts:
        loss.sum().backward()
    assert counts.get_total_counts() == 0


@case
def results_outlive_the_next_message(rank):
    """Whose memory is the same: of other logits, other rows, another kind of loss."""
    for size, g in sizes(rank):
        edges, found = cuts("uneven", 12, size), []
        for i, n in enumerate((6, 6, 4, 6)):
            x, y = data(n, 12, seed=i, dtype=torch.float64 if i == 3 else torch.float32)
            mine = of_rank(x, edges, rank).clone().requires_grad_()
            with torch.no_grad():
                loss = ct.vocab_parallel_cross_entropy(mine, y, group=g)
                both = ct.vocab_parallel_log_probs_and_entropy(mine, y, group=g)
            later = ct.vocab_parallel_cross_entropy(mine, y, group=g)
            found.append((x, y, mine, loss, both, later))
        for x, y, mine, loss, both, later in found:
            later.sum().backward()
            whole = x.clone().requires_grad_()
            expected = ct.cross_entropy(whole, y, reduction="none")
            expected.sum().backward()
            tight = {"rtol": 1e-6, "atol": 0}
            torch.testing.assert_close(loss, expected, **tight)
            torch.testing.assert_close(both.log_prob, -expected, **tight)
            assert torch.equal(later, loss)
            torch.testing.assert_close(mine.grad, of_rank(whole.grad, edges, rank))


@case
def an_option_of_minus_zero_is_one_of_zero(rank):
    for _, g in sizes(rank):
        edges, (x, y) = cuts("even", 12, dist.get_world_size(g)), data(6, 12)
        for margin in (-0.0, 0.0) if rank else (0.0, 0.0):
            compare(x, y, g, rank, edges, margin=margin, z_loss=0.1)


@case
def memory_made_in_inference_mode_or_beside_a_default_device_serves_all(rank):
    for mode, rows in ((torch.inference_mode(), 700), (torch.device("meta"), 900)):  # more than any message before
        for _, g in sizes(rank):
            edges, (x, y) = cuts("even", 12, dist.get_world_size(g)), data(rows, 12)
            mine = x[:, edges[rank] : edges[rank + 1]]
            with mode:
                ct.vocab_parallel_cross_entropy(mine, y, group=g)
            compare(x, y, g, rank, edges)


def _peak():
    """Bytes of memory that this process had at most since the peak was forgotten."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status).group(1))


@case
def no_memory_but_the_gradient(rank):
    if not Path("/proc/self/clear_refs").exists():
        return
    rows, classes = 256, 16384
    x, y = torch.randn(rows, classes), torch.arange(rows)
    size = x.nbytes
    loss_of = functools.partial(ct.vocab_parallel_cross_entropy, group=dist.group.WORLD, label_smoothing=0.1)
    loss_of(x[:, :64], y)  # what is imported and made once
    x.requires_grad_()
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    loss = loss_of(x, y)
    assert _peak() - before < size / 4, f"{_peak() - before} bytes in the forward, of logits of {size}"
    loss.sum().backward()
    assert _peak() - before < size * 1.25, f"{_peak() - before} bytes with the gradient of {size}"


@case
def shards_that_change(rank):
    """Vocabularies of other sizes in turn, of which some ranks have as many classes as before."""
    g = groups()[RANKS]
    for classes in (10, 11, 10, 12, 11):
        x, y = data(5, classes)
        edges = [min(3 * i, classes) for i in range(RANKS)] + [classes]  # as DTensor cuts them
        compare(x, y, g, rank, edges)
    x, y = data(5, 12)
    order = [6, 0, 9, 3]  # a rank need not have the classes that its number says
    first = order[rank]
    mine = x[:, first : first + 3].clone().requires_grad_()
    loss = ct.vocab_parallel_cross_entropy(mine, y, group=meshes()[0], vocab_range=(first, first + 3))
    torch.testing.assert_close(loss, ct.cross_entropy(x, y, reduction="none"))
    two = [ct.vocab_parallel_cross_entropy(mine, y, group=g, vocab_range=(first, first + 3)) for _ in range(2)]
    two[0].sum().backward()
    full = x.clone().requires_grad_()
    ct.cross_entropy(full, y, reduction="sum").backward()
    torch.testing.assert_close(mine.grad, full.grad[:, first : first + 3])


@case
def refusals_that_leave_everything_as_it_is(rank):
    g, edges = groups()[RANKS], cuts("even", 20, RANKS)
    x, y = data(6, 20)
    mine = of_rank(x, edges, rank)
    bad = (
        (IndexError, "target[3] must be a class in [0, 20)", {"target": torch.where(torch.arange(6) == 3, 20, y)}),
        (ValueError, "target must have the shape of the rows", {"target": y[:, None].expand(6, 2)}),
        (ValueError, "weight must be", {"weight": torch.ones(3)}),
        (ValueError, "reduction must be", {"reduction": "average"}),
        (ValueError, "label_smoothing must be in [0, 1]", {"label_smoothing": 2.0}),
        (TypeError, "did you mean 'z_loss'", {"zloss": 2.0}),
        (ValueError, "vocab_range must be the 5 classes of this rank", {"vocab_range": (0, 4)}),
        (TypeError, "group must be a process group", {"group": "WORLD"}),
        (TypeError, "target must be", {"target": [1, 2]}),
        (ValueError, "focal must be finite and not negative", {"focal": -2.0}),
    )
    for error, words, given in bad:
        given = {"target": y, "group": g, **given}
        with refuses(error, words):
            ct.vocab_parallel_cross_entropy(mine, given.pop("target"), **given)
    compare(x, y, g, rank, edges)


@case
def a_mean_over_nothing(rank):
    """Where all that counts weighs 0: NaN, and a gradient of 0, whatever smoothing and z-loss have left."""
    for size, g in sizes(rank):
        edges = cuts("even", 12, size)
        x, _ = data(6, 12)
        x[2, 3], w = float("nan"), torch.ones(12)
        w[:3] = 0
        for options in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"sample_weight": torch.zeros(6)}):
            loss = compare(x, torch.arange(6) % 3, g, rank, edges, weight=w, reduction="mean", **options)
            assert loss.isnan()


@case
def a_mean_in_float64(rank):
    """Its divisor, which is a sum of weights, has all digits in the gradient."""
    for size, g in sizes(rank):
        edges, (x, y) = cuts("uneven", 12, size), data(6, 12, dtype=torch.float64)
        w = torch.rand(12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        mine, whole = of_rank(x, edges, rank).clone().requires_grad_(), x.clone().requires_grad_()
        ct.vocab_parallel_cross_entropy(mine, y, of_rank(w, edges, rank), group=g, reduction="mean").backward()
        ct.cross_entropy(whole, y, w).backward()
        torch.testing.assert_close(whole_gradient(mine.grad, g), whole.grad, rtol=1e-13, atol=1e-16)


@case
def a_power_of_what_is_below_any_float32(rank):
    """A focal loss of targets so far ahead that all others' probability is none in float32, and the loss is."""
    for size, g in sizes(rank):
        edges = cuts("even", 12, size)
        x, y = data(60, 12, ahead=110)
        w = torch.linspace(0.5, 1, 12)
        for options in ({}, {"label_smoothing": 1e-9}, {"label_smoothing": 1e-9, "weight": w}, {"weight": w}):
            here = {**options, "weight": of_rank(options.get("weight"), edges, rank)}
            with torch.no_grad():
                loss = ct.vocab_parallel_cross_entropy(of_rank(x, edges, rank), y, group=g, focal=0.5, **here)
                wanted = ct.cross_entropy(x.double(), y, reduction="none", focal=0.5, **options).float()
            torch.testing.assert_close(loss, wanted, rtol=3e-7, atol=1.5e-45)


@case
def what_one_rank_refuses_is_an_error_on_every_rank(rank):
    """Whatever is wrong with the arguments of one rank, the others hear of it at once, and all may go on."""
    y = torch.arange(6)
    x, q, one = torch.zeros(6, 4), torch.rand(6, 4), torch.ones(4)
    for size, g in sizes(rank):
        place = {"target": y, "group": g}
        losses = (
            (TypeError, "vocab_parallel_logits must be a tensor", {"vocab_parallel_logits": [1.0]}),
            (TypeError, "vocab_parallel_logits must be float32", {"vocab_parallel_logits": torch.ones(6, 4).int()}),
            (ValueError, "got a scalar", {"vocab_parallel_logits": torch.ones(())}),
            (Exception, "", {"vocab_parallel_logits": x.to_sparse()}),
            (TypeError, "target must be a tensor", {"target": [1, 2]}),
            (TypeError, "integer dtype", {"target": y.bool()}),
            (ValueError, "the shape of the rows", {"target": y[:4]}),
            (IndexError, "target[5] must be a class", {"target": y + 1000 * (y == 5)}),
            (Exception, "", {"target": y.to_sparse()}),
            (ValueError, "margin is for class targets", {"target": q, "margin": 1.0}),
            (ValueError, "must not require a gradient", {"weight": torch.ones(4, requires_grad=True)}),
            (ValueError, "weight must be floating of shape", {"weight": torch.ones(3)}),
            (ValueError, "finite and not negative", {"weight": -one}),
            (TypeError, "class_prior must be a tensor", {"class_prior": [0.0]}),
            (ValueError, "class_prior", {"class_prior": one / 0}, {"class_prior": one}),
            (ValueError, "sample_weight must be real", {"sample_weight": one}),
            (TypeError, "where must be boolean", {"where": y}),
            (ValueError, "finite and not negative", {"sample_weight": -y.float()}),
            (ValueError, "label_smoothing must be in [0, 1]", {"label_smoothing": 1.5}),
            (ValueError, "ignore_index must be", {"ignore_index": 2**80}),
            (ValueError, "reduction must be one of", {"reduction": "average"}),
            (ValueError, "normalizer goes with", {"normalizer": 3}),
            (ValueError, "normalizer must be", {"normalizer": -3, "reduction": "mean"}),
            (ValueError, "z_loss must be", {"z_loss": -1.0}),
            (TypeError, "did you mean 'focal'", {"focol": 1.0}),
            (ValueError, "vocab_range must be the 4 classes", {"vocab_range": (0, 5)}),
            (TypeError, "vocab_range must be (first, last)", {"vocab_range": "all"}),
        )
        _refused_by_one(rank, size, g, ct.vocab_parallel_cross_entropy, {"vocab_parallel_logits": x, **place}, losses)
        log_probs = (
            (TypeError, "vocab_parallel_logits must be a tensor", {"vocab_parallel_logits": None}),
            (TypeError, "index must be a tensor", {"index": 3}),
            (ValueError, "index must have the shape of the rows", {"index": y[:2]}),
            (IndexError, "index[0] must be a class", {"index": y - 1}),
            (ValueError, "ignore_index must be", {"ignore_index": "none"}),
            (ValueError, "softcap must be", {"softcap": -1.0}),
            (ValueError, "class_prior must be floating", {"class_prior": y}),
            (ValueError, "class_prior", {"class_prior": one / 0}, {"class_prior": one}),
            (ValueError, "vocab_range must be the 4 classes", {"vocab_range": (-2, 2)}),
        )
        given = {"vocab_parallel_logits": x, "index": y, "group": g}
        _refused_by_one(rank, size, g, ct.vocab_parallel_log_probs_and_entropy, given, log_probs)
        _refused_by_one(rank, size, g, ct.vocab_parallel_log_probs, given, log_probs[2:5])
        del given["index"]
        _refused_by_one(rank, size, g, ct.vocab_parallel_entropy, given, log_probs[-4:-3])
        layers = (
            (TypeError, "input must be a tensor", {"input": 1.0}),
            (RuntimeError, "linear_weight must have shape (V, H)", {"linear_weight": torch.ones(4, 7)}),
            (
                ValueError,
                "group goes with a linear_weight",
                {"linear_weight": torch.ones(4, 6, 3), "target": y.expand(6, 6)},
            ),
            (RuntimeError, "linear_bias must have shape", {"linear_bias": torch.ones(3)}),
            (ValueError, "target must have shape", {"target": y[:4]}),
            (IndexError, "target[5] must be a class", {"target": y + 1000 * (y == 5)}),
            (RuntimeError, "integer dtype", {"target": y.bool()}),
            (RuntimeError, "weight must be real of shape", {"weight": torch.ones(3)}),
            (ValueError, "finite and not negative", {"weight": -one}),
            (ValueError, "weight must not require a gradient", {"weight": torch.ones(4, requires_grad=True)}),
            (ValueError, "sample_weight must be real", {"sample_weight": one}),
            (ValueError, "rows must be at least 1", {"rows": 0}),
            (TypeError, "shift must be True or False", {"shift": 1}),
            (TypeError, "options must be None or", {"options": 1}),
            (RuntimeError, "label_smoothing must be", {"label_smoothing": -1.0}),
            (ValueError, "reduction", {"reduction": "average"}),
            (TypeError, "did you mean 'z_loss'", {"zloss": 1.0}),
            (ValueError, "vocab_range must be the 4 classes", {"vocab_range": (0, 5)}),
        )
        given = {"input": torch.ones(6, 3), "linear_weight": torch.ones(4, 3), **place}
        _refused_by_one(rank, size, g, ct.linear_cross_entropy, given, layers)


def _refused_by_one(rank, size, g, function, given, bad):
    """One rank of a group passes something bad, in turn another one, and then nobody does."""
    function(**given)
    _refused_in_turn(rank, size, function, given, bad)
    found = function(**given)
    found = torch.stack(found if isinstance(found, tuple) else [found])
    assert all(torch.equal(found, other) for other in gathered(found, g))


def _refused_in_turn(rank, size, function, given, bad):
    """(The error, its words, what is bad of one rank, what the others pass for it)."""
    for i, (error, words, arguments, *others) in enumerate(bad):
        one = i % size
        if rank == one:
            with refuses(error, words):
                function(**{**given, **arguments})
        else:
            with refuses(RuntimeError, f"another rank refused its arguments: [{one}]"):
                function(**given, **(others[0] if others else {}))


@case
def second_derivatives(rank):
    """Of a penalty on the gradient, which mixes all classes; beside PyTorch's own of one process in float64."""
    w = torch.rand(12, generator=torch.Generator().manual_seed(3)).double() + 0.1
    v = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 3.0]).double()
    chosen = (
        {},
        {"reduction": "mean"},
        {"reduction": "mean", "label_smoothing": 0.2, "weight": w},
        {"z_loss": 0.1, "logit_scale": 0.7, "sample_weight": v},
        {"softcap": 3.0, "prior": w, "margin": 0.4, "reduction": "sum"},
        {"focal": 2.0, "label_smoothing": 0.1, "weight": w, "reduction": "mean", "normalizer": 5.0},
    )
    for size, g in sizes(rank):
        for i, options in enumerate(chosen):
            edges = cuts(CUTS[(i + size) % 3], 12, size)
            x, y = data(6, 12, dtype=torch.float64, seed=i)
            y[4], x[4, 2] = -100, float("nan")
            if "label_smoothing" not in options:
                x[5, (y[5] + 1) % 12] = -float("inf")
            _second(x, y, g, rank, edges, **options)
        x, y = data(6, 12, dtype=torch.float64)
        x[0] = -float("inf")  # but for the target
        x[torch.arange(3), y[:3]] = torch.tensor([3.0, 60.0, 900.0]).double()
        for focal in (0.5, 1.5):
            _second(x, y, g, rank, cuts("uneven", 12, size), focal=focal)
        _second(x[:3], y[:3], g, rank, cuts("even", 12, size), weight=0 * w, reduction="mean", z_loss=0.1)
        x, _ = data(6, 12, dtype=torch.float64)
        _second(x, torch.softmax(x + 1, -1), g, rank, cuts("uneven", 12, size), label_smoothing=0.1, z_loss=0.1)


def _second(x, y, g, rank, edges, weight=None, prior=None, **options):
    """The derivative of a penalty on the gradient, on the logits and on what arrives at the losses."""
    from torch.nn import functional as F

    from crossentropy.torch import private

    here = functools.partial(of_rank, edges=edges, rank=rank)
    mine = here(x).clone().requires_grad_()
    whole = torch.where(x.isnan().any(1, keepdim=True), 0, x).requires_grad_()  # PyTorch's own reads ignored rows
    target = here(y) if y.is_floating_point() else y
    loss = ct.vocab_parallel_cross_entropy(mine, target, here(weight), group=g, class_prior=here(prior), **options)
    options = {"reduction": "none", **options}
    named = {"weight": weight, "class_prior": prior, **options}
    plain = named.keys() <= {"weight", "reduction", "label_smoothing", "class_prior"} and prior is None
    of_one = (
        functools.partial(F.cross_entropy, weight=weight) if plain else functools.partial(ct.cross_entropy, **named)
    )
    wanted = of_one(whole, y, **({k: o for k, o in options.items() if k != "class_prior"} if plain else {}))
    a = torch.linspace(0.5, 1.5, loss.numel(), dtype=torch.float64).reshape(loss.shape)
    a, b = a.clone().requires_grad_(), a.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss, mine, a, create_graph=True)
    (alone,) = torch.autograd.grad(wanted, whole, b, create_graph=True)
    torch.testing.assert_close(grad, here(alone), rtol=1e-9, atol=1e-14)
    assert private.is_plain(grad)
    h = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    calls, sent = [], dist.all_reduce
    dist.all_reduce = lambda *a, **kw: calls.append(1) or sent(*a, **kw)
    try:
        (grad.square() + grad * here(h)).sum().backward()
    finally:
        dist.all_reduce = sent
    assert len(calls) == 1
    (alone.square() + alone * h).sum().backward()
    torch.testing.assert_close(whole_gradient(mine.grad, g), whole.grad, rtol=1e-8, atol=1e-13)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-13)


@case
def derivatives_that_there_are_not(rank):
    """A third one, and a second one of log-probabilities and of layers: an error on every rank."""
    g, edges = groups()[RANKS], cuts("even", 20, RANKS)
    x, y = data(6, 20)
    mine = of_rank(x, edges, rank).clone().requires_grad_()
    loss = ct.vocab_parallel_cross_entropy(mine, y, group=g, reduction="mean")
    (grad,) = torch.autograd.grad(loss, mine, create_graph=True)
    with refuses(RuntimeError, "the second derivative of numbers whose classes are spread over ranks can't be"):
        torch.autograd.grad(grad.square().sum(), mine, create_graph=True)
    found = ct.vocab_parallel_log_probs_and_entropy(mine, y, group=g)
    for number in found:
        with refuses(RuntimeError, "differentiated again"):
            torch.autograd.grad(number.sum(), mine, create_graph=True)
    hidden, w = torch.ones(6, 3, requires_grad=True), torch.ones(5, 3, requires_grad=True)
    loss = ct.linear_cross_entropy(hidden, w, y, group=g)
    with refuses(RuntimeError, "differentiated again"):
        torch.autograd.grad(loss, (hidden, w), create_graph=True)


@case
def the_number_of_all_tokens(rank):
    y = torch.tensor([[1, 2, -100], [0, -100, -100]])[: 2 - rank % 2] if rank else torch.zeros(0, dtype=torch.int64)
    found = ct.normalizer(y)
    assert found.dtype is torch.int64
    assert found.item() == 2 + 3 + 2
    w = torch.tensor([0.5, 2.0, 0.25])
    found = ct.normalizer(list(y), w)  # one micro-batch or more, none on rank 0
    assert found.dtype is torch.float64
    assert found.item() == 2.25 + 2.75 + 2.25
    assert ct.normalizer(torch.full((5,), -100)).item() == 1
    assert ct.normalizer(torch.rand(3, 7)).item() == 12
    for size, g in sizes(rank):
        assert ct.normalizer(torch.zeros(rank, dtype=torch.uint8), group=g).item() == sum(range(size))
    count = ct.normalizer(torch.zeros(2**22, dtype=torch.int8).expand(2, -1))
    assert count.item() == 2**25


@case
def a_number_that_one_rank_refuses_to_tell(rank):
    y, w = torch.tensor([0, 1, 1, -100]), torch.tensor([1.0, 0.5])
    bad = (
        (IndexError, "targets must be in [0, 2)", {"targets": y + 5, "weight": w}),
        (TypeError, "targets must be classes", {"targets": y.bool()}),
        (TypeError, "targets[1] must be a plain tensor", {"targets": [y, 3]}),
        (TypeError, "targets must be a plain tensor", {"targets": 3}),
        (TypeError, "weight must be a floating tensor", {"targets": y, "weight": y}),
        (TypeError, "ignore_index must be an integer", {"targets": y, "ignore_index": "none"}),
        (ValueError, "must have an axis of classes", {"targets": torch.tensor(0.5)}),
    )
    for size, g in sizes(rank):
        for i, (error, words, arguments) in enumerate(bad):
            if rank == i % size:
                with refuses(error, words):
                    ct.normalizer(group=g, **arguments)
            else:
                with refuses(RuntimeError, "another rank refused its targets"):
                    ct.normalizer(y, w if "weight" in arguments else None, group=g)
        for one in range(size):
            with refuses(ValueError, "weight must be given on every rank or on none"):
                ct.normalizer(y, w if rank == one else None, group=g)
            if rank == one:
                with refuses(IndexError, "targets must be in [0, 2)"):
                    ct.normalizer(y + 5, w, group=g)
            else:
                with refuses(RuntimeError, "another rank refused its targets"):
                    ct.normalizer(y, group=g)
        assert ct.normalizer(y, group=g).item() == 3 * size


def _step(model, x, y, by=None, micro_batches=1):
    """The gradient of a step: of the mean over all tokens, or of means of means."""
    import contextlib

    for i, (a, b) in enumerate(zip(x.chunk(micro_batches), y.chunk(micro_batches), strict=True)):
        more_to_come = i < micro_batches - 1 and hasattr(model, "no_sync")
        with model.no_sync() if more_to_come else contextlib.nullcontext():
            if by is None:
                loss = ct.cross_entropy(model(a), b, ignore_index=-100) / micro_batches
            else:
                loss = ct.cross_entropy(model(a), b, normalizer=by)
            loss.backward()


def _layer():
    torch.manual_seed(1)
    return torch.nn.Linear(8, 50)


def _batch(rank):
    """(all rows, this rank's): the ranks have other numbers of tokens that count, one of them none."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(48, 8, generator=g), torch.randint(0, 50, (48,), generator=g)
    y[:17], y[12] = -100, 3
    y[:12] = -100
    rows = slice(12 * rank, 12 * rank + 12)
    return (x, y), (x[rows], y[rows])


@case
def distributed_data_parallel_is_one_big_batch(rank):
    whole, (x, y) = _batch(rank)
    alone = _layer()
    ct.cross_entropy(alone(whole[0]), whole[1]).backward()
    for micro_batches in (1, 3):
        model = torch.nn.parallel.DistributedDataParallel(_layer())
        by = ct.normalizer(y.chunk(micro_batches)) / RANKS  # since DDP divides by the number of ranks
        _step(model, x, y, by, micro_batches)
        for a, b in zip(model.module.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-6 * b.grad.abs().max().item())


@case
def fully_sharded_data_parallel_is_one_big_batch(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole, (x, y) = _batch(rank)
    alone = _layer()
    ct.cross_entropy(alone(whole[0]), whole[1]).backward()
    model = _layer()
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    _step(model, x, y, ct.normalizer(y) / RANKS)
    for a, b in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a.grad.full_tensor(), b.grad, rtol=0, atol=1e-6 * b.grad.abs().max().item())


@functools.cache
def meshes():
    """Of one axis, and of two."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "vocab"))


def placed(t, mesh, *placements):
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(t, mesh, list(placements))


def compare_dtensor(x, y, x_there, y_there, weight=None, weight_there=None, **options):
    """The loss and gradient of a DTensor, and those of what it stands for."""
    x_there = x_there.detach().requires_grad_()
    loss = ct.cross_entropy(x_there, y_there, weight_there, **options)
    alone = x.clone().requires_grad_()
    wanted = ct.cross_entropy(alone, y, weight, **options)
    torch.testing.assert_close(loss.full_tensor(), wanted, equal_nan=True, rtol=1e-5, atol=2e-6)
    (loss if not loss.dim() else loss.sum()).backward()
    wanted.sum().backward()
    assert x_there.grad.placements == x_there.placements
    torch.testing.assert_close(x_there.grad.full_tensor(), alone.grad, rtol=1e-5, atol=1e-6)
    return loss


REDUCTIONS = ("mean", "sum", "none")


@case
def dtensors_with_their_rows_spread(rank):
    """A mean over all rows, not a mean of means: other numbers of them count on each rank."""
    from torch.distributed.tensor import Replicate, Shard

    mesh, _ = meshes()
    x, y = data(10, 7)  # 3, 3, 3 and 1 rows
    y[:3], y[4] = -100, -100
    w = torch.rand(7, generator=torch.Generator().manual_seed(1))
    there = placed(x, mesh, Shard(0)), placed(y, mesh, Shard(0))
    for reduction in REDUCTIONS:
        compare_dtensor(x, y, *there, reduction=reduction)
        compare_dtensor(x, y, there[0], y, w, w, reduction=reduction, label_smoothing=0.1)
        compare_dtensor(x, y, there[0], y, w, placed(w, mesh, Replicate()), reduction=reduction, z_loss=0.1)
    compare_dtensor(x, y, *there, reduction="mean", normalizer=4.0)
    q = torch.softmax(x + 1, 1)
    compare_dtensor(x, q, there[0], placed(q, mesh, Shard(0)))
    images, classes = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(4)), y[:10].clamp(0, 2)
    classes = classes.repeat(4).reshape(4, 5, 2)
    for axis in (0, 2):
        compare_dtensor(images, classes, placed(images, mesh, Shard(axis)), classes)
        compare_dtensor(images, classes, placed(images, mesh, Shard(axis)), classes, reduction="none")


@case
def dtensors_with_their_classes_spread(rank):
    from torch.distributed.tensor import Replicate, Shard

    mesh, _ = meshes()
    for classes in (20, 10, 3):  # even; 3, 3, 3 and 1; fewer than ranks
        x, y = data(6, classes)
        y[2] = -100
        w = torch.rand(classes, generator=torch.Generator().manual_seed(1))
        there = placed(x, mesh, Shard(1))
        for reduction in REDUCTIONS:
            compare_dtensor(x, y, there, y, reduction=reduction)
            compare_dtensor(x, y, there, placed(y, mesh, Replicate()), w, w, reduction=reduction, label_smoothing=0.1)
        q = torch.softmax(x + 1, 1)
        compare_dtensor(x, q, there, placed(q, mesh, Shard(1)))
        compare_dtensor(x, q, there, q)
    images, labels = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(4)), torch.arange(10).reshape(2, 5)
    compare_dtensor(images, labels % 9, placed(images, mesh, Shard(1)), labels % 9)
    one, label = torch.randn(9, generator=torch.Generator().manual_seed(4)), torch.tensor(3)
    compare_dtensor(one, label, placed(one, mesh, Shard(0)), label)
    from torch.distributed.tensor.debug import CommDebugMode

    with CommDebugMode() as counts:
        ct.cross_entropy(there, y)
    assert counts.get_total_counts() == 1, counts.get_comm_counts()


@case
def a_mean_over_nothing_of_dtensors(rank):
    from torch.distributed.tensor import Shard

    mesh, _ = meshes()
    x, _ = data(10, 12)
    y, w = torch.arange(10) % 3, torch.ones(12)
    w[:3] = 0
    for placement in (Shard(0), Shard(1)):
        for options in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1}):
            loss = compare_dtensor(x, y, placed(x, mesh, placement), y, w, w, **options)
            assert loss.full_tensor().isnan()


@case
def what_one_rank_refuses_of_dtensors(rank):
    from torch.distributed.tensor import Shard

    mesh, _ = meshes()
    x, y = data(6, 20)
    there = placed(x, mesh, Shard(1))
    bad = (
        (ValueError, "label_smoothing must be in [0, 1]", {"label_smoothing": 2.0}),
        (TypeError, "label_smoothing must be a real number", {"label_smoothing": "0.1"}),
        (ValueError, "ignore_index must be an integer", {"ignore_index": 1.5}),
        (ValueError, "target must have shape (6,)", {"target": y[:3]}),
        (TypeError, "target must be a tensor", {"target": 3}),
        (IndexError, "target[0] must be a class", {"target": y + 100}),
        (ValueError, "weight must be finite", {"weight": torch.full((20,), -1.0)}),
        (ValueError, "weight must be floating of shape", {"weight": torch.ones(28)}),
        (TypeError, "logits must be float32", {"input": placed(x.int(), mesh, Shard(1))}),
        (ValueError, "z_loss must be", {"z_loss": -1.0}),
        (TypeError, "did you mean 'focal'", {"focol": 1.0}),
        (ValueError, "average", {"reduction": "average"}),
        (ValueError, "normalizer goes with", {"normalizer": 2.0, "reduction": "sum"}),
        (TypeError, "where must be boolean", {"where": y}),
        (TypeError, "dtype must be None or one of", {"dtype": torch.int32}),
    )
    _refused_in_turn(rank, RANKS, ct.cross_entropy, {"input": there, "target": y}, bad)
    compare_dtensor(x, y, there, y)


@case
def what_one_rank_refuses_of_a_layer_of_dtensors(rank):
    from torch.distributed.tensor import Replicate, Shard

    mesh, _ = meshes()
    x, w, _, y = layer_data()
    given = {"input": placed(x, mesh, Replicate()), "linear_weight": placed(w, mesh, Shard(0)), "target": y}
    bad = (
        (ValueError, "z_loss must be", {"z_loss": -1.0}),
        (ValueError, "rows must be at least 1", {"rows": 0}),
        (TypeError, "target must be a tensor", {"target": 3}),
        (RuntimeError, "linear_bias must have shape", {"linear_bias": torch.ones(3)}),
        (TypeError, "got probabilities", {"target": torch.rand(len(x), len(w))}),
        (IndexError, "target[0] must be a class", {"target": y + 100}),
    )
    _refused_in_turn(rank, RANKS, ct.linear_cross_entropy, given, bad)
    found = ct.linear_cross_entropy(**given).full_tensor()
    torch.testing.assert_close(found, ct.linear_cross_entropy(x, w, y))


@case
def dtensors_on_a_mesh_of_two_axes(rank):
    from torch.distributed.tensor import Replicate, Shard

    _, mesh = meshes()
    x, y = data(5, 11)
    y[0] = y[1] = -100
    w = torch.rand(11, generator=torch.Generator().manual_seed(1))
    for placements in ((Shard(0), Shard(1)), (Shard(1), Shard(0)), (Replicate(), Shard(1)), (Shard(0), Replicate())):
        there = placed(x, mesh, *placements)
        for reduction in REDUCTIONS:
            compare_dtensor(x, y, there, y, w, w, reduction=reduction, z_loss=0.01)
    both = placed(x, mesh, Shard(0), Shard(0))
    compare_dtensor(x, y, both, y)


@case
def dtensors_of_partial_sums(rank):
    """Logits that are a product over what is spread, not yet summed."""
    from torch.distributed.tensor import DTensor, Partial

    mesh, _ = meshes()
    x, y = data(5, 11)
    part = DTensor.from_local(x / RANKS, mesh, [Partial()])
    loss = ct.cross_entropy(part, y)
    torch.testing.assert_close(loss.full_tensor(), ct.cross_entropy(x, y))


@case_of_two
def compiled_in_one_graph(rank):
    g = dist.group.WORLD
    _, y = data(6, 20)
    y[1] = -100
    edges = cuts("uneven", 20, 2)
    weight = torch.randn(20, 8, generator=torch.Generator().manual_seed(6))
    hidden = torch.randn(6, 8, generator=torch.Generator().manual_seed(7))

    def loss_of(hidden, weight, y):
        logits = hidden @ weight.T
        found = ct.vocab_parallel_log_probs_and_entropy(logits, y, group=g, ignore_index=-100)
        loss = ct.vocab_parallel_cross_entropy(logits, y, group=g, reduction="mean", label_smoothing=0.1)
        return loss - 0.01 * (found.log_prob + found.entropy).sum()

    results = []
    for function in (loss_of, torch.compile(loss_of, fullgraph=True, backend="aot_eager")):
        mine = weight[edges[rank] : edges[rank + 1]].clone().requires_grad_()
        loss = function(hidden, mine, y)
        loss.backward()
        results.append((loss.detach(), mine.grad))
    torch.testing.assert_close(results[0], results[1])


@case_of_two
def ranks_that_differ_in_a_compiled_graph(rank):
    """What is told is what is told without a compiler, on both ranks, and all goes on."""
    g, edges = dist.group.WORLD, cuts("uneven", 20, 2)
    x, y = data(6, 20)
    mine = of_rank(x, edges, rank)

    def loss_of(logits, y, weight=None, **options):
        return ct.vocab_parallel_cross_entropy(logits * 1.0, y, weight, group=g, **options)

    def log_probs_of(logits, y):
        return ct.vocab_parallel_log_probs_and_entropy(logits * 1.0, y, group=g).log_prob

    def others(*said):
        return said[rank]

    refused = RuntimeError, "another rank refused its arguments: [1]"
    told_of_rows = ValueError, "the same number of rows on every rank, got [6, 5]"
    told_of_targets = ValueError, "target, and weights of rows, must be the same on every rank"
    fewer, bad, high = slice(0, 6 - rank), y + 1000 * rank, torch.where(y == y[0], (y + rank) % 20, y)
    negative = torch.full_like(mine[0], 1.0 - 2 * rank)
    for function in (loss_of, log_probs_of):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        right = compiled(mine, y)
        torch.testing.assert_close(right, function(mine, y), rtol=0, atol=0)
        for told, arguments in (
            (told_of_rows, (mine[fewer], y[fewer])),
            (told_of_targets, (mine, high)),
            (others(refused, (IndexError, "must be a class in [0, 20)")), (mine, bad)),
        ):
            with refuses(*told):
                compiled(*arguments)
        torch.testing.assert_close(compiled(mine, y), right, rtol=0, atol=0)
    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    with refuses(*told_of_targets):
        compiled(mine.clone().requires_grad_(), high)
    with refuses(*others(refused, (ValueError, "weight must be finite and not negative"))):
        compiled(mine, y, negative)
    with refuses(ValueError, "options must be the same on every rank"):
        compiled(mine, y, z_loss=0.5 * rank)
    # What is wrong is seen while the graph is made, which has no other rank to tell: without one, it does.
    broken = torch.compile(loss_of, backend="aot_eager")
    with refuses(*others(refused, (ValueError, "the shape of the rows"))):
        broken(mine, y if rank == 0 else y[:3])
    torch.testing.assert_close(broken(mine, y), loss_of(mine, y), rtol=0, atol=0)


def layer_data(n=9, h=6, classes=23, dtype=torch.float32):
    g = torch.Generator().manual_seed(8)
    x, w, b = (torch.randn(*shape, generator=g).to(dtype) for shape in ((n, h), (classes, h), (classes,)))
    y = torch.randint(0, classes, (n,), generator=g)
    y[1] = -100
    return x, w, b, y


def close_layers(found, wanted, loss, wanted_loss):
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-6)
    for a, b in zip(found, wanted, strict=True):
        loose = {"rtol": 2e-2, "atol": 2e-3} if a.dtype is torch.bfloat16 else {"rtol": 2e-5, "atol": 2e-6}
        torch.testing.assert_close(a, b, **loose)


@case
def hidden_states_against_a_spread_vocabulary(rank):
    v = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.5, 1.0, 1.0, 1.0, 3.0])
    chosen = (
        {},
        {"rows": 4, "reduction": "none"},
        {"label_smoothing": 0.1, "z_loss": 0.01, "rows": 5},
        {"reduction": "sum", "sample_weight": v, "rows": 2},
        {"shift": True},
    )
    for size, g in sizes(rank):
        for i, options in enumerate(chosen):
            for dtype in (torch.float32, torch.float64, torch.bfloat16)[: 1 if i else 3]:
                x, w, b, y = layer_data(dtype=dtype)
                weight = torch.rand(23, generator=torch.Generator().manual_seed(1))
                edges = cuts(CUTS[i % 3], 23, size)
                lo, hi = edges[rank], edges[rank + 1]
                mine = [t.clone().requires_grad_() for t in (x, w[lo:hi], b[lo:hi])]
                alone = [t.clone().requires_grad_() for t in (x, w, b)]
                found = ct.linear_cross_entropy(
                    *mine[:2], y, linear_bias=mine[2], weight=weight[lo:hi], group=g, **options
                )
                wanted = ct.linear_cross_entropy(*alone[:2], y, linear_bias=alone[2], weight=weight, **options)
                found.sum().backward()
                wanted.sum().backward()
                grads = [mine[0].grad, torch.cat(gathered(mine[1].grad, g)), torch.cat(gathered(mine[2].grad, g))]
                close_layers(grads, [t.grad for t in alone], found, wanted)


@case
def layers_of_dtensors(rank):
    from torch.distributed.tensor import Replicate, Shard

    one, two = meshes()
    x, w, _, y = layer_data()
    alone = [t.clone().requires_grad_() for t in (x, w)]
    wanted = ct.linear_cross_entropy(*alone, y, label_smoothing=0.1)
    wanted.backward()
    for mesh, of_x, of_w in (
        (one, [Replicate()], [Shard(0)]),
        (one, [Shard(0)], [Replicate()]),
        (one, [Shard(0)], [Shard(0)]),
        (two, [Shard(0), Replicate()], [Replicate(), Shard(0)]),
        (two, [Replicate(), Shard(0)], [Shard(0), Shard(0)]),
    ):
        there = [placed(x, mesh, *of_x).requires_grad_(), placed(w, mesh, *of_w).requires_grad_()]
        loss = ct.linear_cross_entropy(*there, y, label_smoothing=0.1)
        loss.backward()
        close_layers([t.grad.full_tensor() for t in there], [t.grad for t in alone], loss.full_tensor(), wanted)
        rows = ct.linear_cross_entropy(*(t.detach() for t in there), y, reduction="none")
        torch.testing.assert_close(rows.full_tensor(), ct.linear_cross_entropy(x, w, y, reduction="none"))


@case_of_two
def a_compiled_layer(rank):
    g = dist.group.WORLD
    x, w, b, y = layer_data()
    edges = cuts("even", 23, 2)
    lo, hi = edges[rank], edges[rank + 1]

    def loss_of(x, w, b, y):
        return ct.linear_cross_entropy(x * 1.0, w, y, linear_bias=b, group=g)

    results = []
    for function in (loss_of, torch.compile(loss_of, fullgraph=True, backend="aot_eager")):
        mine = [t.clone().requires_grad_() for t in (x, w[lo:hi], b[lo:hi])]
        loss = function(*mine, y)
        loss.backward()
        results.append(([t.grad for t in mine], loss.detach()))
    close_layers(results[1][0], results[0][0], results[1][1], results[0][1])


@case
def dtensors_compiled(rank):
    from torch.distributed.tensor import Shard

    mesh, _ = meshes()
    x, y = data(8, 20)
    for placement in (Shard(0), Shard(1)):
        there = placed(x, mesh, placement).requires_grad_()
        compiled = torch.compile(ct.cross_entropy, fullgraph=True, backend="aot_eager")
        loss = compiled(there, y)
        loss.backward()
        alone = x.clone().requires_grad_()
        wanted = ct.cross_entropy(alone, y)
        wanted.backward()
        torch.testing.assert_close(loss.full_tensor(), wanted)
        torch.testing.assert_close(there.grad.full_tensor(), alone.grad)
