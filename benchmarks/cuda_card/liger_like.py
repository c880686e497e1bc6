"""A kernel in Triton as Liger Kernel's cross-entropy goes about it: the gradient in place of the logits.

One program a row: a pass for maximum and sum together, then one that reads the row again and writes the gradient over
it: two reads and a write.
"""

import torch
import triton
import triton.language as tl

MOST = 32768  # classes at once


@triton.jit
def _rows(x, stride, targets, losses, classes, scale, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * stride
    y = tl.load(targets + row)
    at_target = tl.load(x + y).to(tl.float32)
    m = float("-inf")
    total = 0.0
    for first in range(0, classes, SIZE):
        c = first + tl.arange(0, SIZE)
        z = tl.load(x + c, mask=c < classes, other=float("-inf")).to(tl.float32)
        larger = tl.maximum(m, tl.max(z))
        total = total * tl.exp(m - larger) + tl.sum(tl.exp(z - larger))
        m = larger
    tl.store(losses + row, m + tl.log(total) - at_target)
    for first in range(0, classes, SIZE):
        c = first + tl.arange(0, SIZE)
        z = tl.load(x + c, mask=c < classes, other=float("-inf")).to(tl.float32)
        p = tl.exp(z - m) / total
        p = tl.where(c == y, p - 1.0, p)
        tl.store(x + c, p * scale, mask=c < classes)


def cross_entropy_in_place(x, targets):
    """The mean loss; x becomes its gradient."""
    rows, classes = x.shape
    size = min(MOST, triton.next_power_of_2(classes))
    losses = torch.empty(rows, dtype=torch.float32, device=x.device)
    warps = min(32, max(4, size // 256))
    _rows[(rows,)](x, x.stride(0), targets, losses, classes, 1.0 / rows, SIZE=size, num_warps=warps)
    return losses.sum() / rows
