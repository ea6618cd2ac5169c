"""Which code a provider runs on a processor: by the rules by which it chooses. Pure.

Source: aws-lc, crypto/fipsmodule/modes/gcm.c and crypto/cipher_extra/e_chacha20poly1305.c; ring,
src/aead/{aes_gcm,chacha20_poly1305}; both as of the pinned versions.
"""

from __future__ import annotations

from collections.abc import Collection

_AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "vaes", "vpclmulqdq"}


def code_path(provider: str, cipher: str, flags: Collection[str]) -> str:
    """Returns the instructions that a cipher uses in a provider, by the processor's flags."""
    has = set(flags)
    if cipher.startswith("chacha20"):
        return "AVX2" if "avx2" in has else "SSE4.1" if "sse4_1" in has else "portable"
    if not {"aes", "pclmulqdq"} <= has:
        return "without AES instructions"
    if provider == "aws-lc-rs" and has >= _AVX512:
        return "VAES, AVX-512"
    if provider == "ring" and {"vaes", "vpclmulqdq", "avx2"} <= has:
        return "VAES, AVX2"
    return "AES-NI, AVX" if "avx" in has else "AES-NI"
