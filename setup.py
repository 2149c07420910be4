"""Builds the one part of accel that is not Python. All else is in pyproject.toml."""

from setuptools import Extension, setup

PAIR = Extension(
    "accel.core.content._sha256_pair",
    ["accel/core/content/sha256_pair.c"],
    extra_compile_args=["-O3"],
    # without a compiler, hashlib does its work
    optional=True,
)

setup(ext_modules=[PAIR])
