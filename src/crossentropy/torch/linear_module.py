"""The module of `linear_cross_entropy`, which has the linear layer."""

from __future__ import annotations

import functools
import math
from typing import Unpack

import torch

from .._options import DEFAULTS, EXTRAS, ExtraOptions, takes_options
from . import calls, linear_calls
from .linear import linear_cross_entropy

# PyTorch's own from 2.13 on; before that, what both are.
_BASE = getattr(torch.nn, "LinearCrossEntropyLoss", torch.nn.modules.loss._WeightedLoss)
_OWN = ("out_features", "bias", "device", "dtype", "reduction", "weight", "ignore_index", "label_smoothing", "options")
_MORE = (*_OWN, "rows", "shift", "class_prior")
_BEYOND = {"rows": None, "shift": False, **{name: DEFAULTS[name] for name in EXTRAS}}


@functools.partial(takes_options, names=EXTRAS)
class LinearCrossEntropyLoss(_BASE):
    """The module of `linear_cross_entropy`, as `torch.nn.LinearCrossEntropyLoss`.

    Parameters
    ----------
    in_features, num_classes : int
        H and V of its layer, ``linear``. A tied embedding: ``loss.linear.weight = embedding.weight``.
    out_features : tuple of int, default ()
        (d1, ...) of a loss with several targets for each row.
    bias : bool, default False
        Whether the layer has one.
    device, dtype
        Of the layer.
    reduction, weight, ignore_index, label_smoothing, options
        Those of `linear_cross_entropy`.
    class_prior : Tensor, shape (V,), optional
        As for `cross_entropy`; a buffer, as ``weight`` is. Not in PyTorch.
    rows, shift
        As for `linear_cross_entropy`. Not in PyTorch.
    {options}
        Not in PyTorch.

    Raises
    ------
    TypeError, ValueError
        For an option beyond PyTorch's outside its rules, in the call; else where PyTorch's module raises it.

    Notes
    -----
    Called with ``input`` and ``target``, and with ``sample_weight``, ``where`` and ``normalizer`` of this call where
    there are any; returns the loss in nats, and raises what `linear_cross_entropy` raises.

    Examples
    --------
    >>> import torch
    >>> head = crossentropy.torch.LinearCrossEntropyLoss(2, 4, bias=False)
    >>> head(torch.ones(3, 2), torch.tensor([0, 0, 2])).shape
    torch.Size([])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: torch.Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: torch.nn.LinearCrossEntropyOptions | None = None,
        class_prior: torch.Tensor | None = None,
        rows: int | None = None,
        shift: bool = False,
        **extras: Unpack[ExtraOptions],
    ) -> None:
        if weight is not None and weight.shape != (num_classes,):
            raise RuntimeError(f"weight must have shape {(num_classes,)}, got {tuple(weight.shape)}")
        label_smoothing = linear_calls.smoothing(label_smoothing)
        torch.nn.modules.loss._WeightedLoss.__init__(self, weight, None, None, reduction)
        self.register_buffer("class_prior", class_prior)
        self.num_classes, self.out_features = num_classes, out_features
        self.ignore_index, self.label_smoothing, self.options = ignore_index, label_smoothing, options
        self.linear = torch.nn.Linear(
            in_features, math.prod(out_features, start=num_classes), bias=bias, device=device, dtype=dtype
        )
        linear_calls.rows_of(options, rows)
        self.rows, self.shift = rows, shift
        for name, value in calls.extras(
            "LinearCrossEntropyLoss", extras, (*_OWN, "rows", "shift", "class_prior")
        ).items():
            setattr(self, name, value)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(_BEYOND | state)  # which may have been pickled before an option was added
        self._buffers.setdefault("class_prior", None)

    def extra_repr(self) -> str:
        """The options beyond PyTorch's that are not at their defaults."""
        now = {name: getattr(self, name) for name in _BEYOND}
        return ", ".join(f"{name}={value}" for name, value in now.items() if value != _BEYOND[name])

    def forward(
        self,
        input: torch.Tensor,
        target: torch.Tensor,
        sample_weight: torch.Tensor | None = None,
        where: torch.Tensor | None = None,
        normalizer: float | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of `linear_cross_entropy`."""
        shape = (self.num_classes, *self.out_features)
        weight, bias = self.linear.weight, self.linear.bias
        if self.out_features:
            weight = weight.reshape(*shape, weight.shape[-1])
            bias = None if bias is None else bias.reshape(shape)
        return linear_cross_entropy(
            input,
            weight,
            target,
            linear_bias=bias,
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
            class_prior=self.class_prior,
            sample_weight=sample_weight,
            where=where,
            normalizer=normalizer,
            rows=self.rows,
            shift=self.shift,
            **{name: getattr(self, name) for name in EXTRAS},
        )
