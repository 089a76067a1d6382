"""AMD product lines: how reports and certificates name them, and the TCB layout of each.

The product determines the TCB layout, the required certificate extensions, the length of the chip ID and the applicable root. An unknown
product is therefore an error and never a default: a Turin TCB decoded with Milan's layout gives plausible but wrong numbers.
Source: AMD 56860 (TCB_VERSION, ATTESTATION_REPORT) and AMD 57230; see ``docs/facts/attestation.md#products``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from cleanroom.attestation.models import construct_unvalidated
from cleanroom.attestation.reasons import AttestationRejected, Reason
from cleanroom.models import FrozenModel


class Product(StrEnum):
    """A product line, spelled as in AMD's certificates (``ARK-Milan``)."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"

    @property
    def chip_id_length(self) -> int:
        """Significant bytes of ``chip_id`` and length of the hwID extension: 8 on Turin, else 64."""
        return 8 if self is Product.TURIN else 64

    @property
    def has_fmc(self) -> bool:
        """Whether the TCB has a firmware-of-the-management-controller (FMC) component."""
        return self is Product.TURIN


_CPUID: Final = (
    (0x19, 0x00, 0x0F, Product.MILAN),
    (0x19, 0x10, 0x1F, Product.GENOA),
    (0x19, 0xA0, 0xAF, Product.GENOA),  # Bergamo and Siena: Genoa's keys and layout
    (0x1A, 0x00, 0x11, Product.TURIN),
)


def product_from_cpuid(family: int, model: int) -> Product:
    """Return the product line of a combined CPUID family and model, which reports state from version 3 on.

    Raises:
        AttestationRejected: ``ProductUnsupported`` for any other CPU, including later generations.
    """
    for known_family, first, last, product in _CPUID:
        if family == known_family and first <= model <= last:
            return product
    raise AttestationRejected(
        Reason.PRODUCT_UNSUPPORTED,
        f"The report comes from CPU family {family:#04x} model {model:#04x}, which is neither Milan, Genoa nor Turin.",
        expected="a CPU of Milan, Genoa or Turin",
        actual=f"family {family:#04x}, model {model:#04x}",
    )


_BY_NAME: Final = {product.value: product for product in Product}


def product_from_name(name: str) -> Product | None:
    """Return the product line of a certificate's productName (``Milan-B0``, whose stepping is ignored), or None for an unknown one."""
    return _BY_NAME.get(name.partition("-")[0])


class Tcb(FrozenModel):
    """Security version numbers of one TCB, one byte each (0–255). ``fmc`` is Turin's; zero elsewhere."""

    fmc: int = 0
    bootloader: int
    tee: int
    snp: int
    microcode: int

    def covers(self, minimum: Tcb) -> bool:
        """Whether every component is at least that of ``minimum``. As one number, the microcode would outweigh all others."""
        return all(getattr(self, name) >= getattr(minimum, name) for name in TCB_COMPONENTS)

    def text(self, product: Product) -> str:
        """Return ``bl.tee.snp.ucode``, on Turin ``fmc.bl.tee.snp.ucode``."""
        shown = (self.bootloader, self.tee, self.snp, self.microcode)
        return ".".join(str(n) for n in ((self.fmc, *shown) if product.has_fmc else shown))


def parse_tcb(text: str, product: Product) -> Tcb:
    """Parse the form of :meth:`Tcb.text`.

    Raises:
        ValueError: Another number of components, or one that is not 0 to 255.
    """
    names = ("fmc", "bootloader", "tee", "snp", "microcode") if product.has_fmc else ("bootloader", "tee", "snp", "microcode")
    parts = text.split(".")
    if len(parts) != len(names) or not all(part.isascii() and part.isdigit() and int(part) <= 255 for part in parts):
        raise ValueError(f"{text[:60]!r} is not {'.'.join(names)}, each 0 to 255")
    return Tcb(**dict(zip(names, map(int, parts), strict=True)))


TCB_COMPONENTS: Final = ("fmc", "bootloader", "tee", "snp", "microcode")

# The byte of TCB_VERSION that holds each component. All other bytes must be zero.
_LAYOUT_MILAN: Final = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_LAYOUT_TURIN: Final = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}


def _layout(product: Product) -> dict[str, int]:
    return _LAYOUT_TURIN if product is Product.TURIN else _LAYOUT_MILAN


def decode_tcb(raw: bytes, product: Product) -> Tcb:
    """Decode the 8 bytes of a TCB_VERSION by the product's layout.

    Raises:
        AttestationRejected: ``ReportedTcbMismatch`` when a byte that the layout reserves is not zero.
    """
    layout = _layout(product)
    tcb = construct_unvalidated(Tcb, **({"fmc": 0} | {name: raw[index] for name, index in layout.items()}))
    if encode_tcb(tcb, product) != raw:
        raise AttestationRejected(
            Reason.TCB_MISMATCH,
            f"The TCB {raw.hex()} sets bytes that {product} reserves.",
            expected=f"zero in the reserved bytes of {product}'s TCB",
            actual=raw.hex(),
        )
    return tcb


def encode_tcb(tcb: Tcb, product: Product) -> bytes:
    """The 8 bytes of a TCB_VERSION; the inverse of :func:`decode_tcb`."""
    raw = bytearray(8)
    for name, index in _layout(product).items():
        raw[index] = getattr(tcb, name)
    return bytes(raw)


def tcb_text(raw: bytes) -> str:
    """Return the 16 hex digits that Azure calls ``tcbm``: the 8 bytes as a number, most significant byte first."""
    return raw[::-1].hex()
