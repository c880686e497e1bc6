"""The one shape of a backend: the functions that a module must have to serve the public ones.

``crossentropy.config(backend=module)`` takes any module of this shape, and `crossentropy.testing.conformance` holds it
to what the package's own backends are held to. reference.py beside this file is the shortest of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np


class Statistics(NamedTuple):
    """What a forward keeps of a row for the backward: one row of the float64 array (N, len(Statistics._fields)).

    That of a log-softmax has no target, and a mass of 0. That of log-probabilities and entropies has for its mass what
    their gradient needs in its place, sum_c p_c (m - z_c).
    """

    max: float  # m, the largest logit
    rest: float  # sum of e^(z - m) over every class but one at the maximum
    mass: float  # sum of the target's weights over the classes, as the gradient needs it


class BlockStatistics(NamedTuple):
    """What a forward finds of a row of a block of classes: one row of the float64 array (N, 5)."""

    max: float  # -inf of a block of nothing but that, NaN of one that is undefined
    rest: float  # as in Statistics
    target: float  # the logit of a target that is a class of the block; else -inf
    mass: float  # sum of t_c, without what an index target itself weighs
    distance: float  # sum of those t_c (m - z_c)


FIELDS_OF_FEW = 8  # that a device keeps of a row where logits are transformed, or the loss is focal


class RowNumbers(NamedTuple):
    """What there is to know of each row, as `Backend.row_statistics` fills it in: (N,) each, float64 or int64.

    A row that does not count has 0 throughout, but the places of one that is undefined; this has NaN in all numbers but
    its logsumexp, and these places: -1, and the number of classes.
    """

    loss: np.ndarray
    logsumexp: np.ndarray
    entropy: np.ndarray
    log_prob: np.ndarray
    max_prob: np.ndarray
    argmax: np.ndarray
    rank: np.ndarray


class LogAndSign(NamedTuple):
    """The log of a sum's absolute value, and its sign: 1, -1, 0 (whose log is -inf) or NaN."""

    log: Any
    sign: Any


class Backend(Protocol):
    """The functions of a backend, over arrays that are checked already.

    ``x`` has its class axis last and any strides, shape (..., C); the rows before it count as N in C order. Backends
    write into what they get; ``grad`` and ``out`` may be ``x`` itself. ``targets`` is (N,) of any integer type, or
    probabilities like x; ``options`` are the options of a row (`crossentropy._options.RowOptions`). A bad target that
    comes this far (``config(check=False)``) gives NaN in its row.

    With ``options.all_classes`` x has a block of the classes of rows that have so many, in `forward_block`, `backward`
    and `log_probs_backward`: a target outside x's classes lies in another block and weighs nothing in this one, label
    smoothing spreads epsilon over all classes, and the statistics of a backward are those of all blocks together. Their
    mass then has in it what is no weight of the block's own target: 2 lambda lse, and (1 - epsilon) w_y of a target
    elsewhere; and so the options of what that is made of are 0.
    """

    def scan_targets(
        self,
        targets: np.ndarray,
        classes: int,
        ignore_index: int | None,
        class_weight: np.ndarray | None,
        sample_weight: np.ndarray | None,
    ) -> tuple[int, float]:
        """The first target that is no class (or -1), and the sum of sample times class weight over the others."""

    def total(self, values: np.ndarray) -> float:
        """The sum of float64 (N,), always taken in the same order."""

    def logsumexp(
        self, x: np.ndarray, out: np.ndarray, weights: np.ndarray | None = None, sign: np.ndarray | None = None
    ) -> None:
        """The logsumexp of each row, into float64 (N,); with weights of either sign, of x's shape, log |sum b e^z|.

        ``weights`` are of any of the four dtypes and any strides, 0 included; with them comes ``sign``, float64 (N,),
        for the sign of the sum: 1, -1, 0 or NaN.
        """

    def softmax(self, x: np.ndarray, out: np.ndarray) -> None:
        """The softmax of each row, into an array like x."""

    def log_softmax(self, x: np.ndarray, out: np.ndarray, statistics: np.ndarray | None = None) -> None:
        """The log-softmax of each row, into an array like x; and what its backward needs, where that is wanted."""

    def log_softmax_backward(
        self, grad_output: np.ndarray, x: np.ndarray, statistics: np.ndarray, grad: np.ndarray
    ) -> None:
        """The gradient on the logits x from that on their log-softmax; the three arrays of rows alike."""

    def forward(
        self, x: np.ndarray, targets: np.ndarray, options: Any, loss: np.ndarray, statistics: np.ndarray | None
    ) -> None:
        """The losses of the rows, into float64 (N,); and what the backward needs of each, where that is wanted."""

    def forward_block(self, x: np.ndarray, targets: np.ndarray, options: Any, parts: np.ndarray) -> None:
        """What is found of a block of classes, `BlockStatistics` of each row, into float64 (N, 5).

        A row that does not count may have any numbers.
        """

    def backward(
        self,
        x: np.ndarray,
        targets: np.ndarray,
        statistics: np.ndarray,
        options: Any,
        row_scale: float | np.ndarray,
        grad: np.ndarray,
    ) -> None:
        """The gradient of the sum of row_scale_n loss_n; ``row_scale`` is a number, or float64 (N,)."""

    def forward_backward(
        self,
        x: np.ndarray,
        targets: np.ndarray,
        options: Any,
        row_scale: float | np.ndarray,
        loss: np.ndarray,
        grad: np.ndarray,
    ) -> None:
        """The losses and the gradient in one go."""

    def row_statistics(
        self,
        x: np.ndarray,
        targets: np.ndarray | None,
        options: Any,
        numbers: RowNumbers,
        statistics: np.ndarray | None = None,
    ) -> None:
        """The numbers of each row; and what `log_probs_backward` needs of them, where that is wanted.

        Without targets the loss, ``log_prob`` and ``rank`` are not filled in, the last two neither with probabilities.
        """

    def log_probs_backward(
        self,
        x: np.ndarray,
        targets: np.ndarray | None,
        statistics: np.ndarray,
        options: Any,
        g_log_prob: float | np.ndarray,
        g_entropy: float | np.ndarray,
        grad: np.ndarray,
    ) -> None:
        """The gradient of the sum of g_log_prob_n log p_y + g_entropy_n h; each is a number, or float64 (N,).

        Without targets that of the entropies alone.
        """

    def forward_backward_hessian(
        self,
        x: np.ndarray,
        targets: np.ndarray,
        options: Any,
        hessian: str,
        vector: np.ndarray | None,
        row_scale: float | np.ndarray,
        loss: np.ndarray,
        grad: np.ndarray,
        hess: np.ndarray,
    ) -> None:
        """These and what stands for the second derivative, into an array like x, apart from x and grad.

        ``hessian`` is one of `reference.HESSIANS`; for 'gauss_newton_product' there is a ``vector`` of x's shape and
        dtype. All three are scaled as the gradient is.
        """

    def distillation(
        self,
        x: np.ndarray,
        teacher: np.ndarray,
        kind: str,
        temperature: float,
        beta: float,
        sample_weight: np.ndarray | None,
        row_scale: float | np.ndarray,
        loss: np.ndarray,
        grad: np.ndarray,
    ) -> None:
        """sample_weight_n times the divergence of the rows of x from the teacher's, and the gradient on x.

        ``teacher`` is of x's shape and of a dtype no wider; ``kind`` one of `reference.KINDS`. A row of weight 0 is not
        read, and gives 0.
        """

    def binary(
        self,
        z: np.ndarray,
        targets: np.ndarray,
        weight: float | np.ndarray,
        pos_weight: float | np.ndarray,
        alpha: float,
        gamma: float,
        grad_output: float | np.ndarray,
        at_once: int,
        sums: np.ndarray,
        loss: np.ndarray | None,
        grad: np.ndarray | None,
    ) -> None:
        """The binary cross-entropy or focal loss of each logit, and grad_output times its gradient.

        All are contiguous and one-dimensional. ``targets`` are of z's dtype, uint8 or int64; ``weight``, ``pos_weight``
        and ``grad_output`` numbers, or of the loss's dtype, (N,); the first two may be (at_once,), which then repeat.
        An ``alpha`` below 0 and a ``gamma`` of 0 are none. ``sums`` gets the sum of the losses of each ``at_once``
        numbers, ``loss`` (float64 where z is, else float32) and ``grad`` what they are, where they are wanted.
        """


FUNCTIONS = tuple(name for name in vars(Backend) if not name.startswith("_"))
