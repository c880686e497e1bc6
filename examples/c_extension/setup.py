"""Builds the two extensions: `python setup.py build_ext --inplace`, with setuptools, Cython and a C compiler."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import crossentropy

INCLUDE = [crossentropy.get_include()]

setup(
    name="c-extension",
    ext_modules=[
        Extension("c_losses", ["c_losses.c"], include_dirs=INCLUDE),
        *cythonize([Extension("cython_losses", ["cython_losses.pyx"], include_dirs=INCLUDE)], language_level=3),
    ],
)
