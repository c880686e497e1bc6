"""A block of classes in PyTorch's operations, for logits on a device for which there are no kernels.

The numbers are those of `crossentropy.blocks`, in float64, of some rows at a time.
"""

from __future__ import annotations

import numpy as np
import torch

from .. import blocks
from .._options import DEFAULTS

AT_ONCE = 2**24  # numbers in float64


def chunk(x: torch.Tensor, target: torch.Tensor, start: int, classes: int, *, entropy: bool = False, **named):
    """As `crossentropy.blocks.chunk` of logits (N, C) and targets (N,) or (N, C), with options as tensors."""
    found = blocks.identity(len(x), entropy=entropy)
    options = options_of(named)
    for rows in _parts(x):
        y, z, mine, _ = transformed(x[rows], target[rows], start, options)
        m, e, lowest = _below(z)
        names = {"max": m, "rest": e.sum(1).where(m.isfinite(), _undefined(m))}
        t = beside(target[rows], options, classes, x.shape[1], z)
        if t is not None:
            t = t.expand(z.shape)
            mass, distance = t.sum(1), torch.where(t == 0, 0, t * lowest).sum(1)
            lost = torch.where(mass == 0, 0.0, torch.inf)  # of a block of nothing but -inf
            names["mass"], names["distance"] = mass, torch.where(m == -torch.inf, lost.to(m.dtype), distance)
        if y is not None:
            w = options["class_weight"]
            names["target"] = logit_at(z, y, mine)
            names["class_weight"] = mine.double() if w is None else torch.where(mine, w[y], 0)
        if entropy:
            names["spread"] = torch.where(e == 0, 0, e * lowest).sum(1).where(m.isfinite(), _undefined(m))
        for name, values in names.items():
            found[name][rows] = values.cpu().numpy()
    v = options["sample_weight"]
    found["sample_weight"] = 1 if v is None else v.cpu().numpy()
    return found


def gradient(x, target, whole: dict, start: int, classes: int, *, grad_output, out: torch.Tensor, **named) -> None:
    """As `crossentropy.blocks.gradient`, into ``out``."""
    options = options_of(named)
    epsilon, z_loss, focal = (options[name] for name in ("label_smoothing", "z_loss", "focal"))
    numbers = {name: torch.from_numpy(np.ascontiguousarray(values)).to(x.device) for name, values in whole.items()}
    g = grad_output.double() * numbers["sample_weight"]
    for rows in _parts(x):
        y, z, mine, slope = transformed(x[rows], target[rows], start, options)
        n = {name: values[rows] for name, values in numbers.items()}
        m, rest = n["max"].where(n["max"].isfinite(), torch.nan), n["rest"]
        p = _exp_of_difference(z, m) / (1 + rest)[:, None]
        others = n["mass"] + 2 * z_loss * (m + torch.log1p(rest)) if z_loss else n["mass"]
        own = (1 - epsilon) * n["class_weight"] if y is not None else torch.zeros_like(others)
        f, more = _focus_of(n, own, focal) if focal else (1.0, 0.0)
        if focal:  # which multiplies all but what z_loss adds, and adds to what the target weighs
            own, others = f * own + more, f * n["mass"] + (others - n["mass"])
        grad = torch.where(p == 0, 0, (own + others)[:, None] * p)
        t = beside(target[rows], options, classes, x.shape[1], z)
        if t is not None:
            t = t if not focal else f[:, None] * t
            grad = grad - t
        if y is not None:
            at = y[:, None]
            leads = logit_at(z, y, mine) == m
            p_y = p.gather(1, at)[:, 0]
            below_1 = torch.where(leads, -rest / (1 + rest), p_y - 1)
            t_y = 0 if t is None else t.expand(z.shape).gather(1, at)[:, 0]
            value = own * below_1 + others * p_y - t_y
            grad = grad.scatter(1, at, torch.where(mine, value, grad.gather(1, at)[:, 0])[:, None])
        grad = torch.where(grad == 0, 0, grad * slope) * g[rows][:, None]
        out[rows] = torch.where((n["sample_weight"] == 0)[:, None], 0, grad).to(out.dtype)


def _focus_of(n: dict, own, focal: float):
    """(f, gamma (1 - p_y)^(gamma - 1) p_y D) of rows, as `crossentropy.reference.Terms` has them."""
    log_sum = torch.log1p(n["rest"])
    below = (n["max"] - n["target"]) + log_sum
    data = torch.where(own == 0, 0, own * below) + n["distance"] + torch.where(n["mass"] == 0, 0, n["mass"] * log_sum)
    left = -torch.expm1(-below)
    f = left**focal
    more = focal * (f / left) * torch.exp(-below)
    return torch.where(left == 0, 0, f), torch.where((left == 0) | (more == 0), 0, more * data)


def log_probs_gradient(x, index, numbers: torch.Tensor, start: int, g_p, g_h, out, **named) -> None:
    """The gradient of log-probabilities and entropies, from (N, 3): max, rest, and sum_c p_c (m - z_c)."""
    options = options_of(named)
    for rows in _parts(x):
        target = x.new_zeros(len(x[rows]), dtype=torch.int64) if index is None else index[rows]
        y, z, mine, slope = transformed(x[rows], target, start, options)
        m, rest, spread = numbers[rows].T
        log_sum = torch.log1p(rest)
        p = _exp_of_difference(z, m) / (1 + rest)[:, None]
        above = (z - m[:, None]) + spread[:, None]  # log p_c + h
        grad = -g_p[rows, None] * p - g_h[rows, None] * torch.where(p == 0, 0, p * above)
        if index is not None:
            at = y[:, None]
            z_y = logit_at(z, y, mine)
            left = torch.where(z_y == m, rest / (1 + rest), -torch.expm1(z_y - m - log_sum))  # 1 - p_y
            p_y, above_y = p.gather(1, at)[:, 0], above.gather(1, at)[:, 0]
            value = g_p[rows] * left - g_h[rows] * torch.where(p_y == 0, 0, p_y * above_y)
            grad = grad.scatter(1, at, torch.where(mine, value, grad.gather(1, at)[:, 0])[:, None])
        grad = torch.where(grad == 0, 0, grad * slope)
        if index is not None and options["ignore_index"] is not None:
            grad = torch.where((target == options["ignore_index"])[:, None], 0, grad)
        out[rows] = grad.to(out.dtype)


def is_needed(x: torch.Tensor) -> bool:
    """Whether logits lie where kernels have no blocks."""
    return not x.is_cpu


def options_of(named: dict) -> dict:
    """All options, those at their default among them."""
    return {**{name: DEFAULTS[name] for name in ("class_weight", "class_prior", "sample_weight")}, **DEFAULTS, **named}


def _parts(x: torch.Tensor):
    if not x.shape[1]:
        return []
    step = max(1, AT_ONCE // x.shape[1])
    return [slice(i, min(i + step, len(x))) for i in range(0, len(x), step)]


def transformed(x, target, start: int, options: dict):
    """(classes among this block's, or None; logits in float64; whose class is here; their slopes)."""
    z, slope = x.double() * options["logit_scale"], options["logit_scale"]
    if cap := options["softcap"]:
        e = torch.exp(-2 * z.abs() / cap)
        s = 2 * e / (1 + e)
        z, slope = cap * torch.tanh(z / cap), slope * s * (2 - s)
    if options["class_prior"] is not None:
        z = z + options["class_prior"].double()
    if target.is_floating_point():
        return None, z, None, slope
    y = target.long() - start
    mine = (y >= 0) & (y < x.shape[1])
    if options["ignore_index"] is not None:
        mine = mine & (target.long() != options["ignore_index"])
    y = torch.where(mine, y, 0)
    if options["margin"]:
        z = z.scatter_add(1, y[:, None], torch.where(mine, -options["margin"], 0.0)[:, None].to(z.dtype))
    return y, z, mine, slope


def _below(z: torch.Tensor):
    """(the maximum, NaN where a row is undefined; e^(z - m) but for one at the maximum; m - z)."""
    m = z.amax(1)
    m = torch.where(m == torch.inf, torch.nan, m)
    lowest = m[:, None] - z
    e = _exp_of_difference(z, m).scatter(1, z.argmax(1, keepdim=True), 0.0)
    return m, e, lowest


def _exp_of_difference(z: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """e^(z - m), the rounding of z - m put right."""
    m = m[:, None]
    d = z - m
    seen = z - d
    lost = (z - (d + seen)) + (seen - m)
    return torch.exp(d) * (1 + torch.where(lost.isfinite(), lost, 0))


def _undefined(m: torch.Tensor) -> torch.Tensor:
    return torch.where(m.isnan(), torch.nan, torch.zeros_like(m))


def logit_at(z, y, mine):
    """The target's logit of each row, -inf where that is elsewhere."""
    return torch.where(mine, z.gather(1, y[:, None])[:, 0], -torch.inf)


def beside(target, options: dict, classes: int, own: int, z):
    """What smoothing and probabilities weigh the classes by; None for nothing."""
    epsilon, w = options["label_smoothing"], options["class_weight"]
    if target.is_floating_point():
        t = (1 - epsilon) * target.double() + epsilon / classes
    elif epsilon:
        t = z.new_full((1, own), epsilon / classes)
    else:
        return None
    return t if w is None else t * w.double()
