"""The fields of a report, and the products with their TCB layouts, by AMD's tables."""

from __future__ import annotations

import base64

import pytest

from cleanroom.attestation import AttestationRejected, Product, Tcb, parse_report
from cleanroom.attestation.products import decode_tcb, encode_tcb, parse_tcb, product_from_cpuid, product_from_name, tcb_text
from tests.unit.attestation.der import evidence

HEAD = [
    *(("version", 0x000, 4), ("guest_svn", 0x004, 4), ("policy", 0x008, 8), ("family_id", 0x010, 16), ("image_id", 0x020, 16)),
    *(("vmpl", 0x030, 4), ("signature_algorithm", 0x034, 4), ("current_tcb", 0x038, 8), ("platform_info", 0x040, 8), ("flags", 0x048, 4)),
    *(("report_data", 0x050, 64), ("measurement", 0x090, 48), ("host_data", 0x0C0, 32), ("id_key_digest", 0x0E0, 48)),
    *(("author_key_digest", 0x110, 48), ("report_id", 0x140, 32), ("report_id_ma", 0x160, 32), ("reported_tcb", 0x180, 8)),
    *(("chip_id", 0x1A0, 64), ("committed_tcb", 0x1E0, 8), ("launch_tcb", 0x1F0, 8)),
    *(("signed", 0, 0x2A0), ("signature_r", 0x2A0, 72), ("signature_s", 0x2E8, 72), ("signature_rest", 0x330, 368)),
]


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_every_field_is_at_the_offset_of_amds_table(version: int) -> None:
    raw = version.to_bytes(4, "little") + bytes((7 * place + place // 251) % 256 for place in range(4, 0x4A0))
    report = parse_report(raw)
    for name, offset, size in HEAD:
        value, found = raw[offset : offset + size], getattr(report, name)
        if name == "policy":
            found = found.value
        assert found == (value if isinstance(found, bytes) else int.from_bytes(value, "little")), name
    assert report.cpuid == (None if version < 3 else tuple(raw[0x188:0x18B]))
    assert report.current_version == (raw[0x1EA], raw[0x1E9], raw[0x1E8])
    assert report.committed_version == (raw[0x1EE], raw[0x1ED], raw[0x1EC])
    vectors = [int.from_bytes(raw[place : place + 8], "little") for place in (0x1F8, 0x200)]
    assert [report.launch_mitigations, report.current_mitigations] == (vectors if version == 5 else [None, None])
    assert report.raw == raw


def test_report_of_another_length_or_version_is_rejected() -> None:
    for size in (0, 3, 1183, 1185):
        with pytest.raises(AttestationRejected, match="ReportMalformed") as caught:
            parse_report(b"\3".ljust(size, b"\0")[:size])
        assert caught.value.actual == f"{size} bytes"
    for version in (0, 1, 6, 3 << 24):
        with pytest.raises(AttestationRejected, match="ReportVersionUnsupported") as caught:
            parse_report(version.to_bytes(4, "little").ljust(1184, b"\0"))
        assert caught.value.actual == str(version)


@pytest.mark.parametrize(
    ("flags", "key", "name", "masked"),
    [
        (0, 0, "VCEK", False),
        (4, 1, "VLEK", False),
        (28, 7, "NONE", False),
        (2, 0, "VCEK", True),
        (1, 0, "VCEK", False),
        (20, 5, "reserved (5)", False),
    ],
)
def test_flags_of_a_report(flags: int, key: int, name: str, masked: bool) -> None:
    report = parse_report(base64.b64decode(evidence(flags=flags | 1 << 5).evidence))
    assert (report.signing_key, report.signing_key_name, report.chip_key_masked) == (key, name, masked)


def test_bytes_are_hex_in_json() -> None:
    report = parse_report(base64.b64decode(evidence(host_data=bytes(range(32))).evidence))
    assert report.model_dump(mode="json")["host_data"] == bytes(range(32)).hex()
    assert report.model_dump()["host_data"] == bytes(range(32))
    assert report.model_copy() == report
    assert report.policy.model_copy(update={"value": 1}).value == 1
    assert type(report).model_validate_json(report.model_dump_json()) == report


# --- products


@pytest.mark.parametrize(
    ("family", "models", "product"),
    [
        (0x19, (0x00, 0x0F), Product.MILAN),
        (0x19, (0x10, 0x1F), Product.GENOA),
        (0x19, (0xA0, 0xAF), Product.GENOA),
        (0x1A, (0x00, 0x11), Product.TURIN),
    ],
)
def test_product_of_a_cpu(family: int, models: tuple[int, int], product: Product) -> None:
    assert [product_from_cpuid(family, model) for model in models] == [product, product]
    others = {product_of(family, models[0] - 1), product_of(family, models[1] + 1), product_of(family + 2, models[0])}
    assert product not in others
    with pytest.raises(AttestationRejected, match="ProductUnsupported") as caught:
        product_from_cpuid(0x17, 0x31)
    assert caught.value.actual == "family 0x17, model 0x31"


def product_of(family: int, model: int) -> Product | None:
    try:
        return product_from_cpuid(family, model)
    except AttestationRejected:
        return None


@pytest.mark.parametrize(
    ("name", "product"),
    [("Milan", "Milan"), ("Milan-B0", "Milan"), ("Genoa-A1-x", "Genoa"), ("Turin", "Turin"), ("milan", None), ("-Milan", None), ("", None)],
)
def test_product_of_a_certificate(name: str, product: str | None) -> None:
    assert product_from_name(name) == product


def test_layout_of_each_products_tcb() -> None:
    raw = bytes((1, 2, 0, 0, 0, 0, 7, 8))
    for product in (Product.MILAN, Product.GENOA):
        tcb = decode_tcb(raw, product)
        assert tcb == Tcb(bootloader=1, tee=2, snp=7, microcode=8)
        assert (encode_tcb(tcb, product), tcb.text(product)) == (raw, "1.2.7.8")
        assert (product.chip_id_length, product.has_fmc) == (64, False)
    raw = bytes((1, 2, 3, 4, 0, 0, 0, 8))
    tcb = decode_tcb(raw, Product.TURIN)
    assert tcb == Tcb(fmc=1, bootloader=2, tee=3, snp=4, microcode=8)
    assert (encode_tcb(tcb, Product.TURIN), tcb.text(Product.TURIN)) == (raw, "1.2.3.4.8")
    assert (Product.TURIN.chip_id_length, Product.TURIN.has_fmc) == (8, True)
    assert tcb_text(raw) == "0800000004030201"
    for product, reserved in ((Product.MILAN, (2, 3, 4, 5)), (Product.TURIN, (4, 5, 6))):
        for place in range(8):
            one = bytes(1 if index == place else 0 for index in range(8))
            if place in reserved:
                with pytest.raises(AttestationRejected, match="ReportedTcbMismatch"):
                    decode_tcb(one, product)
            else:
                assert encode_tcb(decode_tcb(one, product), product) == one


def test_text_of_a_tcb_is_parsed_by_its_product() -> None:
    assert parse_tcb("4.0.24.255", Product.MILAN) == Tcb(bootloader=4, tee=0, snp=24, microcode=255)
    assert parse_tcb("1.4.0.24.219", Product.TURIN) == Tcb(fmc=1, bootloader=4, tee=0, snp=24, microcode=219)
    for text in ("4.0.24", "4.0.24.219.1", "4.0.24.256", "4.0.24.-1", "4.0.24.", "4.0.24.²", "4.0.24.x", "256.0.24.219", "x.0.24.219", ""):
        with pytest.raises(ValueError, match=r"bootloader\.tee\.snp\.microcode, each 0 to 255"):
            parse_tcb(text, Product.MILAN)
    with pytest.raises(ValueError, match=r"fmc\.bootloader"):
        parse_tcb("4.0.24.219", Product.TURIN)


@pytest.mark.parametrize("component", ["fmc", "bootloader", "tee", "snp", "microcode"])
def test_tcb_covers_a_minimum_in_every_component(component: str) -> None:
    minimum = Tcb(fmc=1, bootloader=1, tee=1, snp=1, microcode=1)
    assert minimum.covers(minimum)
    high = Tcb(fmc=9, bootloader=9, tee=9, snp=9, microcode=9)
    assert high.covers(minimum)
    assert not high.model_copy(update={component: 0}).covers(minimum)
