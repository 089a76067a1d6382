"""Keys and a development chip that all tests of a process share, because it takes a tenth of a second or more to create one.

A test that changes the chip's folder, or that needs another chip, creates its own.
"""

from __future__ import annotations

import atexit
import tempfile
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from localcloud.standins.snp.cvm import DevelopmentVirtualMachine
from localcloud.standins.snp.server import DevelopmentHardware


@cache
def rsa_key(name: str = "own", bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return the RSA key with this name."""
    return rsa.generate_private_key(65537, bits)


@cache
def shared_hardware() -> DevelopmentHardware:
    """Return the development chip."""
    folder = tempfile.TemporaryDirectory(prefix="cleanroom-chip-")
    atexit.register(folder.cleanup)
    return DevelopmentHardware(Path(folder.name))


@cache
def shared_virtual_machine() -> DevelopmentVirtualMachine:
    """Return a confidential VM on the development chip."""
    return DevelopmentVirtualMachine(shared_hardware())
