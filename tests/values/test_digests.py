"""Digests: values that are the same have the same one."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from polos_redis.values import digests


@pytest.mark.parametrize("bits", ["7ff8000000000001", "fff8000000000000", "fff8000000000001"])
@pytest.mark.parametrize("around", [lambda one: one, lambda one: [one], lambda one: {"a": (one, {1: one})}])
def test_every_nan_has_the_same_digest(bits: str, around: Any) -> None:
    """JSON has one NaN: its sign and its payload get lost on the way through it."""
    (other,) = struct.unpack(">d", bytes.fromhex(bits))
    assert math.isnan(other)
    assert digests.canonical_digest(around(other)) == digests.canonical_digest(around(math.nan))
    assert digests.canonical_digest(around(other)) != digests.canonical_digest(around(math.inf))
