"""What this machine's processor computes natively, as the kernel lists it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@cache
def features() -> frozenset[str]:
    """Names as in ``/proc/cpuinfo`` (avx512f, amx_int8, …); empty where there is none."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(found.partition(":")[2].split())


def computes_bf16() -> bool:
    """True if it multiplies bf16 (AVX512-BF16 or AMX); else bf16 is emulated."""
    return bool(features() & {"avx512_bf16", "amx_bf16"})


def computes_int8() -> bool:
    """True if it adds up products of int8 without saturating (VNNI or AMX)."""
    return bool(features() & {"avx512_vnni", "avx_vnni", "amx_int8"})


def has_avx512() -> bool:
    """True for AVX-512, the level that the choices by rows were measured on."""
    return "avx512f" in features()
