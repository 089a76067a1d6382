"""The allowlist of storage URLs in documents."""

from __future__ import annotations

import re

import httpx
import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.clients.urls import check_region, check_storage_url, refuse_private_addresses
from cleanroom.errors import CleanRoomError, InvalidInput, Refused, Unavailable

GOOD = [
    ("https://contosso.blob.core.windows.net", "azure-blob", "https://contosso.blob.core.windows.net"),
    ("https://contosso.blob.core.windows.net/", "azure-blob", "https://contosso.blob.core.windows.net"),
    ("https://Contosso.Blob.Core.Windows.Net:443/flights", "azure-blob", "https://contosso.blob.core.windows.net/flights"),
    ("https://contosso.dfs.core.windows.net/flights/2013", "azure-blob", "https://contosso.dfs.core.windows.net/flights/2013"),
    ("https://contosso.z12.blob.storage.azure.net", "azure-blob", "https://contosso.z12.blob.storage.azure.net"),
    ("https://contosso.blob.core.usgovcloudapi.net", "azure-blob", "https://contosso.blob.core.usgovcloudapi.net"),
    ("https://contosso.blob.core.windows.net/$web", "azure-blob", "https://contosso.blob.core.windows.net/$web"),
    ("https://s3.eu-west-1.amazonaws.com", "s3", "https://s3.eu-west-1.amazonaws.com"),
    ("https://s3.amazonaws.com", "s3", "https://s3.amazonaws.com"),
    ("https://s3.dualstack.us-east-1.amazonaws.com", "s3", "https://s3.dualstack.us-east-1.amazonaws.com"),
    ("https://planes.s3.us-gov-west-1.amazonaws.com", "s3", "https://planes.s3.us-gov-west-1.amazonaws.com"),
]

HOSTILE = [
    # scheme
    ("http://contosso.blob.core.windows.net", "StorageUrlNotHttps"),
    ("ftp://contosso.blob.core.windows.net", "StorageUrlNotHttps"),
    ("file:///etc/passwd", "StorageUrlNotHttps"),
    ("gopher://contosso.blob.core.windows.net", "StorageUrlNotHttps"),
    ("//contosso.blob.core.windows.net", "StorageUrlNotHttps"),
    ("contosso.blob.core.windows.net", "StorageUrlNotHttps"),
    ("javascript:alert(1)", "StorageUrlNotHttps"),
    # user information, and hosts that hide behind it
    ("https://user:secret@contosso.blob.core.windows.net", "StorageUrlUserInfo"),
    ("https://contosso.blob.core.windows.net@evil.example", "StorageUrlUserInfo"),
    ("https://contosso.blob.core.windows.net:443@evil.example/", "StorageUrlUserInfo"),
    ("https://@contosso.blob.core.windows.net", "StorageUrlUserInfo"),
    # IP addresses in every spelling
    ("https://127.0.0.1", "StorageUrlIpLiteral"),
    ("https://169.254.169.254/metadata", "StorageUrlIpLiteral"),
    ("https://168.63.129.16", "StorageUrlIpLiteral"),
    ("https://[::1]", "StorageUrlIpLiteral"),
    ("https://[::ffff:169.254.169.254]/", "StorageUrlIpLiteral"),
    ("https://[fe80::1]", "StorageUrlIpLiteral"),
    ("https://2130706433", "StorageUrlIpLiteral"),
    ("https://0x7f000001", "StorageUrlIpLiteral"),
    ("https://0177.0.0.1", "StorageUrlIpLiteral"),
    ("https://127.1", "StorageUrlIpLiteral"),
    ("https://0x7f.0x0.0x0.0x1", "StorageUrlIpLiteral"),
    ("https://127.0.0.1.", "StorageUrlIpLiteral"),
    ("https://999999999999", "StorageUrlIpLiteral"),
    # hosts that look like the right one
    ("https://evil.example", "StorageHostNotAllowed"),
    ("https://localhost", "StorageHostNotAllowed"),
    ("https://metadata.google.internal", "StorageHostNotAllowed"),
    ("https://contosso.blob.core.windows.net.evil.example", "StorageHostNotAllowed"),
    ("https://contosso.blob.core.windows.net.", "StorageHostNotAllowed"),
    ("https://blob.core.windows.net", "StorageHostNotAllowed"),
    ("https://.blob.core.windows.net", "StorageHostNotAllowed"),
    ("https://a.b.blob.core.windows.net", "StorageHostNotAllowed"),
    ("https://contosso-blob.core.windows.net", "StorageHostNotAllowed"),
    ("https://contossoxblobxcorexwindowsxnet", "StorageHostNotAllowed"),
    ("https://evilblob.core.windows.net", "StorageHostNotAllowed"),
    ("https://contosso.vault.azure.net", "StorageHostNotAllowed"),
    ("https://contosso.queue.core.windows.net", "StorageHostNotAllowed"),
    ("https://s3.eu-west-1.amazonaws.com", "StorageHostNotAllowed"),
    ("https://xn--contosso-blob.core.windows.net", "StorageHostNotAllowed"),
    # ports
    ("https://contosso.blob.core.windows.net:8443", "StorageUrlPort"),
    ("https://contosso.blob.core.windows.net:22", "StorageUrlPort"),
    ("https://contosso.blob.core.windows.net:0", "StorageUrlPort"),
    # shapes
    ("", "StorageUrlMalformed"),
    ("https://", "StorageUrlMalformed"),
    ("https:///flights", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net:99999", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net:port", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net:", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net?sv=2024&sig=abc", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/flights?comp=list", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/flights#x", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net\\@evil.example", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/\\evil", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/ flights", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/flights\r\nHost: evil", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net\t.evil.example", "StorageUrlMalformed"),
    (" https://contosso.blob.core.windows.net", "StorageUrlMalformed"),
    ("https://contosso\u3002blob.core.windows.net", "StorageUrlMalformed"),
    ("https://ⓒontosso.blob.core.windows.net", "StorageUrlMalformed"),
    ("https://[contosso.blob.core.windows.net]", "StorageUrlMalformed"),
    ("https://[::1", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/../secrets", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/flights/../../x", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/flights/./x", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net//flights", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/flights//", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/%2e%2e/secrets", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/a%2fb", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/a;b", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/a..b", "StorageUrlMalformed"),
    ("https://contosso.blob.core.windows.net/" + "a" * 3000, "StorageUrlMalformed"),
]


@pytest.mark.parametrize(("url", "kind", "normalised"), GOOD)
def test_hosts_of_the_service_are_accepted(url: str, kind, normalised: str):
    checked = check_storage_url(url, kind)
    assert checked.url == normalised
    assert not checked.declared


@pytest.mark.parametrize(("url", "code"), HOSTILE)
def test_hostile_urls_are_refused(url: str, code: str):
    with pytest.raises(CleanRoomError) as caught:
        check_storage_url(url, "azure-blob", field="store.provider.url")
    assert caught.value.code == code
    assert "store.provider.url" in caught.value.message


@pytest.mark.parametrize(
    "host",
    ["s3.evil.example", "s3-eu-west-1.amazonaws.com.evil.example", "s3.eu-west-1.amazonaws.com.evil", "s3..amazonaws.com",
     "ec2.eu-west-1.amazonaws.com",
     "s3.eu-west-1.amazonaws.co", "a.b.s3.eu-west-1.amazonaws.com", "contosso.blob.core.windows.net"],
)  # fmt: skip
def test_hostile_s3_hosts_are_refused(host: str):
    with pytest.raises(Refused, match="StorageHostNotAllowed"):
        check_storage_url(f"https://{host}", "s3")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://contosso.vault.azure.net", "key-vault"),
        ("https://contosso.managedhsm.azure.net", "key-vault"),
        ("https://sharedeus.eus.attest.azure.net", "maa"),
    ],
)
def test_vaults_and_attestation_services_are_accepted(url: str, kind):
    assert check_storage_url(f"{url}/", kind).url == url


@pytest.mark.parametrize(
    "host",
    [
        "contosso.blob.core.windows.net",
        "vault.azure.net",
        "contosso.vault.azure.net.evil.example",
        "a.b.vault.azure.net",
        "attest.azure.net.evil",
    ],
)
def test_hosts_of_other_services_are_refused_as_vault_and_attestation_service(host: str):
    for kind in ("key-vault", "maa"):
        with pytest.raises(Refused, match="StorageHostNotAllowed"):
            check_storage_url(f"https://{host}", kind)


def test_the_error_does_not_quote_credentials_in_the_url():
    for url in ("https://user:hunter2@contosso.blob.core.windows.net", "https://contosso.blob.core.windows.net/x?sig=hunter2"):
        with pytest.raises(CleanRoomError) as caught:
            check_storage_url(url, "azure-blob")
        assert "hunter2" not in str(caught.value.to_dict())


def test_declared_hosts_may_be_local_and_have_a_port():
    assert check_storage_url("https://localhost:10000/contosso", "azure-blob", declared=["localhost:10000"]).path == ("contosso",)
    assert check_storage_url("https://127.0.0.1:8333", "s3", declared=["127.0.0.1:8333"]).declared
    assert check_storage_url("https://[::1]:8333", "s3", declared=["[::1]:8333", "::1"]).url == "https://[::1]:8333"
    assert check_storage_url("https://s3.example.org:9000", "s3", declared=["s3.example.org"]).port == 9000


@pytest.mark.parametrize("url", ["https://localhost:10001/contosso", "https://localhost/contosso", "https://127.0.0.1:10000/contosso"])
def test_a_declaration_covers_only_its_port_and_spelling(url: str):
    with pytest.raises(Refused):
        check_storage_url(url, "azure-blob", declared=["localhost:10000"])


@pytest.mark.parametrize(
    "url", ["http://localhost:10000", "https://x@localhost:10000", "https://localhost:10000/../a", "https://localhost:10000?x"]
)
def test_all_other_rules_apply_to_declared_hosts(url: str):
    with pytest.raises(CleanRoomError):
        check_storage_url(url, "azure-blob", declared=["localhost:10000"])


_PIECES = st.sampled_from(
    ["https://", "http://", "contosso", ".blob.core.windows.net", "s3.eu-west-1.amazonaws.com",
     "@", ":", "443", "/", "..", ".", "%2e", "\\", "?", "#", "[", "]",
     "127.0.0.1", "::1", "evil.example", "localhost", "\u3002", " ", "\n", "\x00", "ſ", "K", "-", "0x7f"]
)  # fmt: skip


@given(
    st.one_of(
        st.lists(_PIECES, max_size=10).map("".join),
        st.text(max_size=60),
        st.text(max_size=30).map("https://{}.blob.core.windows.net".format),
    )
)
def test_arbitrary_text_is_accepted_only_with_an_allowed_host(text: str):
    try:
        checked = check_storage_url(text, "azure-blob")
    except (Refused, InvalidInput):
        return
    assert re.fullmatch(r"[a-z0-9]{3,24}\.(blob|dfs)\.core\.(windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)", checked.host)
    # Two other URL parsers must see the same host. Differences between parsers are how such checks are bypassed.
    assert httpx.URL(checked.url).host == checked.host
    assert urllib3.util.parse_url(checked.url).host == checked.host
    assert check_storage_url(checked.url, "azure-blob").url == checked.url


class TestResolution:
    URL = check_storage_url("https://contosso.blob.core.windows.net", "azure-blob")

    @pytest.mark.parametrize(
        "address",
        ["127.0.0.1", "10.0.0.4", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1",
         "0.0.0.0", "::1", "fe80::1", "fe80::1%eth0", "fd00::1",
         "::ffff:10.0.0.1", "2002:a00:1::1", "224.0.0.1", "240.0.0.1"],
    )  # fmt: skip
    def test_addresses_that_are_not_public_are_refused(self, address: str):
        with pytest.raises(Refused, match="StorageAddressNotPublic"):
            refuse_private_addresses(self.URL, resolve=lambda host, port: ["20.60.1.1", address])

    def test_public_addresses_are_accepted(self):
        refuse_private_addresses(self.URL, resolve=lambda host, port: ["20.60.1.1", "2603:1030::1"])

    def test_an_unresolvable_host_is_unavailable(self):
        def fail(host: str, port: int) -> list[str]:
            raise OSError("no such host")

        with pytest.raises(Unavailable):
            refuse_private_addresses(self.URL, resolve=fail)
        with pytest.raises(Unavailable):
            refuse_private_addresses(self.URL, resolve=lambda host, port: [])

    def test_declared_hosts_are_not_resolved(self):
        url = check_storage_url("https://localhost:10000", "azure-blob", declared=["localhost:10000"])
        refuse_private_addresses(url, resolve=lambda host, port: pytest.fail("resolved"))


@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-west-1", "ap-southeast-2"])
def test_aws_regions_are_accepted(region: str):
    assert check_region(region) == region


@pytest.mark.parametrize("region", ["", "evil.example/", "eu-west-1.evil.example#", "eu west 1", "EU-WEST-1", "@evil"])
def test_text_that_is_not_a_region_is_rejected(region: str):
    with pytest.raises(InvalidInput):
        check_region(region)
