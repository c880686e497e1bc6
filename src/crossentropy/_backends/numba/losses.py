"""One row's targets and options in Numba: its kind, the weights of its target, its loss and its gradient.

Every option of a loss becomes a few numbers of a row here. A numeric one is read from the Task by its own name, as
``t.z_loss`` is, and acts in `loss_of` and `write_gradient`. (Logits that are transformed are layout.py's.)
"""

import math

import numpy as np

from ..contract import BlockStatistics, Statistics
from .compiling import inner, merged
from .exponentials import added, exp_at
from .layout import BLOCK, block, block_to_write, fill, put_gradient, row_of, stopped
from .memory import load, view
from .rows import CHUNK, PAD, exp_alone, gradient_frame, plus, sum_of, target_gradient, times, write_exp

SKIPPED, BAD, READ = range(3)  # what becomes of a row

WIDTH = len(Statistics._fields)  # float64 that are kept of a row
PART_WIDTH = len(BlockStatistics._fields)  # and of a row of a block of classes
MAX, REST, MASS = map(Statistics._fields.index, ("max", "rest", "mass"))


@inner
def target_of(t, n):
    """Target n as int64; of an uint64 the bits."""
    at, size = t.targets + n * abs(t.target_size), t.target_size
    if size == -8 or size == 8:
        return load(at, np.int64)
    if size == -4:
        return np.int64(load(at, np.int32))
    if size == 4:
        return np.int64(load(at, np.uint32))
    if size == -2:
        return np.int64(load(at, np.int16))
    if size == 2:
        return np.int64(load(at, np.uint16))
    if size == -1:
        return np.int64(load(at, np.int8))
    return np.int64(load(at, np.uint8))


@inner
def kind_of(t, n, y):
    """What becomes of row n with target y: SKIPPED by its target or a sample weight of 0, BAD, or READ."""
    if t.sample_weight and load(t.sample_weight + 8 * n, np.float64) == 0:
        return SKIPPED
    if not t.targets:
        return READ
    if t.has_ignored and y == t.ignored:
        return SKIPPED
    return READ if 0 <= y < t.classes or t.all_classes else BAD


@inner
def within(t, y):
    """Target y; -1 where it is in another block of classes than x has."""
    return y if 0 <= y < t.classes or not t.all_classes else -1


@inner
def floor_of(t):
    """epsilon / C."""
    return t.label_smoothing / (t.all_classes if t.all_classes else t.classes)


@merged
def statistics_of(t, n):
    """The statistics of row n, which `forward` keeps for `backward`, at MAX, REST and MASS."""
    return view(t.statistics + 8 * WIDTH * n, WIDTH, np.float64)


@inner
def keep_part(t, n, m, rest, z, mass, distance):
    """What is found of row n of a block of classes, as contract.BlockStatistics has it."""
    found = view(t.parts + 8 * PART_WIDTH * n, PART_WIDTH, np.float64)
    found[0], found[1], found[2], found[3], found[4] = m if m < np.inf else np.nan, rest, z, mass, distance


@inner
def weight_of(t, y):
    """((1 - epsilon) w_y, w_y): the weight of target y itself, and of its class; 0 without one (-1)."""
    if y < 0:
        return 0.0, 0.0
    w = load(t.class_weight + 8 * y, np.float64) if t.class_weight else 1.0
    return (1 - t.label_smoothing) * w, w


@inner
def part_of(i, q, w, keep, floor, has_q, has_w):
    """t_c = w_c (keep q_c + floor) of class i of a block."""
    part = keep * np.float64(q[i]) + floor if has_q else floor
    return part * w[i] if has_w else part


@inner
def spread(t, x_row, q_row, m, y, z_y, buffer, q_buffer):
    """(mass, distance): the sums of t_c and of t_c (m - z_c) over all classes, where 0 times inf is 0.

    t_c = w_c (keep q_c + floor) is what label smoothing and probability targets spread over class c. Where there is a
    margin, the logit of y is z_y.
    """
    floor, keep = floor_of(t), 1 - t.label_smoothing
    has_w, has_q = t.class_weight != 0, t.q.address != 0
    mass, mass_error, distance, distance_error = 0.0, 0.0, 0.0, 0.0
    for at in range(0, t.classes, CHUNK):
        if stopped(t.stop):
            break
        n = min(CHUNK, t.classes - at)
        z = block(t.x, x_row, at, n, buffer)
        q = block(t.q, q_row, at, n, q_buffer) if has_q else z
        w = view(t.class_weight + 8 * at, n, np.float64)
        masses, distances = 0.0, 0.0
        lowered = y - at if t.margin != 0 and at <= y < at + n else -1
        together = n & -PAD if lowered < 0 else 0
        for i in range(together):
            part = part_of(i, q, w, keep, floor, has_q, has_w)
            masses = added(masses, part)
            distances = added(distances, 0.0 if part == 0 else part * (m - np.float64(z[i])))
        mass, mass_error = plus(mass, mass_error, masses)
        distance, distance_error = plus(distance, distance_error, distances)
        for i in range(together, n):  # each with its rounding error, of which there may be many
            below = m - (z_y if i == lowered else np.float64(z[i]))
            part = part_of(i, q, w, keep, floor, has_q, has_w)
            mass, mass_error = plus(mass, mass_error, part)
            distance, distance_error = plus(distance, distance_error, times(part, below))
    return sum_of(mass, mass_error), sum_of(distance, distance_error)


@inner
def is_beyond(factor, like):
    """Whether a factor of e^(z - m) is so large that float32, which holds e^z, does not reach to 2^-149 with it."""
    return like.itemsize == 4 and abs(factor) > 2.0**88


@inner
def write_beyond(t, n, m, factor, y, value, x_buffer, scratch, pad):
    """factor e^(z - m) of row n, but ``value`` at class y, for such a factor: in float64, number by number."""
    real = scratch.dtype.type
    x_row, out_row = row_of(t.x, t, n), row_of(t.out, t, n)
    for at in range(0, t.classes, BLOCK):
        if stopped(t.stop):
            break
        size = min(BLOCK, t.classes - at)
        z = block_to_write(t.x, x_row, at, size, x_buffer, pad)
        for i in range(size):
            scratch[i] = real(times(exp_alone(np.float64(z[i]), m, 0.0), factor))
        if at <= y < at + size:
            scratch[y - at] = real(value)
        put_gradient(t.x, t.out, out_row, at, size, scratch, pad, t.bypasses)


@inner
def write_spread(t, n, m, factor, scale, y, value, x_buffer, q_buffer, scratch, pad):
    """factor e^(z - m) - scale t_c of row n, but ``value`` at class y, in float64 so that neither term overflows."""
    real = scratch.dtype.type
    x_row, out_row = row_of(t.x, t, n), row_of(t.out, t, n)
    floor, keep = floor_of(t), 1 - t.label_smoothing
    has_w, has_q = t.class_weight != 0, t.q.address != 0
    q_row = row_of(t.q, t, n) if has_q else 0
    (shift, magic, lowest), of_e, _ = gradient_frame(m, factor, scratch)
    alone = is_beyond(factor, scratch)
    of_e = factor if alone else of_e
    for at in range(0, t.classes, BLOCK):
        if stopped(t.stop):
            break
        size = min(BLOCK, t.classes - at)
        z = block_to_write(t.x, x_row, at, size, x_buffer, pad)
        q = block(t.q, q_row, at, size, q_buffer) if has_q else z
        w = view(t.class_weight + 8 * at, size, np.float64)
        for i in range(size):
            part = part_of(i, q, w, keep, floor, has_q, has_w)
            e = exp_alone(np.float64(z[i]), m, 0.0) if alone else np.float64(exp_at(z[i] - shift, magic, lowest))
            scratch[i] = real((0.0 if e == 0 else e * of_e) - scale * part)  # of_e: inf of a focal loss that is
        if at <= y < at + size:
            scratch[y - at] = real(value)
        put_gradient(t.x, t.out, out_row, at, size, scratch, pad, t.bypasses)


@inner
def data_of(m, log_sum, z, own, mass, distance):
    """D = sum_c t_c (lse - z_c): z is the target's logit, own its weight."""
    return times(own, (m - z) + log_sum) + distance + times(mass, log_sum)


@inner
def focus_of(t, m, rest, z):
    """(f, gamma (1 - p)^(gamma - 1) p), where f = (1 - p)^gamma and p comes from the target's logit z.

    1 - p is rest / (1 + rest) where the target leads. Where no other class has any probability f is 0, and so is D.
    """
    if t.focal == 0:
        return 1.0, 0.0
    p, left = 1 / (1 + rest), rest / (1 + rest)
    if z != m:
        p *= math.exp(z - m)
        left = 1 - p
    if left == 0:
        return 0.0, 0.0
    return left**t.focal, t.focal * left ** (t.focal - 1) * p


@inner
def lacks_rest(t, rest, like):
    """Whether the rest of a row whose target leads lacks digits that float32 lanes count as 0, and that show.

    Only (1 - p)^gamma shows them; a row in blocks may have such an option once these are merged.
    """
    return like.itemsize == 4 and (t.focal != 0 or t.parts != 0) and rest < t.classes * 2.0**-136


@inner
def loss_of(t, m, rest, log_sum, z, own, mass, distance):
    """The loss of a row of weight 1, in nats, as in reference.py."""
    lse, (f, _) = m + log_sum, focus_of(t, m, rest, z)
    return times(f, data_of(m, log_sum, z, own, mass, distance)) + times(t.z_loss, lse * lse)


@merged
def write_gradient(t, n, y, m, rest, z, mass, distance, spreads, x_buffer, q_buffer, scratch, pad):
    """The gradient of row n, which was read: target y with logit z, the row's statistics m, rest and mass."""
    scale = load(t.row_scale + 8 * n * t.row_scale_step, np.float64)
    if t.sample_weight:
        scale *= load(t.sample_weight + 8 * n, np.float64)
    own, w = weight_of(t, y)
    log_sum = math.log1p(rest)
    z_term = times(2 * t.z_loss, m + log_sum)
    f, by = focus_of(t, m, rest, z)
    extra = times(by, data_of(m, log_sum, z, own, mass, distance))
    a = times(f, own + mass) + extra + z_term
    factor, value = times(scale, a) / (1 + rest), 0.0
    if t.targets:
        floor = times(floor_of(t), w)
        others, weight = times(f, mass - floor) + z_term, times(f, own + floor) + extra
        value = scale * target_gradient(m, rest, z, a, others, weight, scratch)
        if extra == np.inf:  # extra (p - 1)
            value = times(scale, -np.inf)
    if spreads is not None:
        write_spread(t, n, m, factor, scale * f, y, value, x_buffer, q_buffer, scratch, pad)
    elif is_beyond(factor, scratch):
        write_beyond(t, n, m, factor, y, value, x_buffer, scratch, pad)
    else:
        x_row, out_row = row_of(t.x, t, n), row_of(t.out, t, n)
        bypasses, stop = t.bypasses, t.stop
        write_exp(t.x, x_row, t.out, out_row, t.classes, m, factor, y, value, bypasses, stop, x_buffer, scratch, pad)


@inner
def fill_unread(t, n, kind, scratch):
    """The gradient of a row that was skipped, 0; or of one that is bad or undefined, NaN."""
    value = scratch.dtype.type(0.0 if kind == SKIPPED else np.nan)
    fill(t.out, row_of(t.out, t, n), t.classes, value, scratch)
