"""Numbers that options take, and the error of whoever gives something else."""

from __future__ import annotations

import click
import numpy as np


class Finite(click.FloatRange):
    """A FloatRange without NaN and infinity."""

    def convert(self, value, param, ctx):
        """The number, or the usual error."""
        number = super().convert(value, param, ctx)
        return number if np.isfinite(number) else self.fail(f"{value} is not a finite number.", param, ctx)


class BadInput(click.ClickException):
    """One line on standard error, exit code 2."""

    exit_code = 2
