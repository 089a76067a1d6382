"""The companies of a local cloud: their names and kinds, and the files that the launcher writes for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cleanroom.errors import Conflict, InvalidInput
from cleanroom.secret import write_secret_file
from cleanroom.settings import load_settings
from localcloud.launcher.chosen_parties import RESERVED, parse_parties, record_parties, recorded_parties
from localcloud.launcher.companies import DEMO, Kind
from localcloud.launcher.layout import Layout
from localcloud.launcher.profiles import write_profiles
from localcloud.launcher.standin_configs import write_configs
from localcloud.standins.kubernetes.image import build_image


@pytest.mark.parametrize(
    ("parties", "code", "named"),
    [
        (["north"], "PartyMalformed", "north"),
        (["north:azur"], "PartyKindUnknown", "azur"),
        (["north:"], "PartyKindUnknown", "north:"),
        (["North:azure"], "InvalidName", "North"),
        (["no_rth:s3"], "InvalidName", "no_rth"),
        ([":s3"], "InvalidName", "''"),
        (["a--b:s3"], "InvalidName", "a--b"),
        (["x" * 41 + ":s3"], "InvalidName", "x" * 41),
        (["\u00fcber:s3"], "InvalidName", "\u00fcber"),
        (["north:s3", "north:azure"], "PartyRepeated", "north"),
        (["ana:analyst", "bob:analyst"], "NoOwner", "ana:analyst"),
        *[([f"{name}:s3"], "PartyNameReserved", name) for name in sorted(RESERVED)],
        ([f"p{i}:s3" for i in range(13)], "TooManyParties", "13"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_unusable_company_is_rejected_with_its_name(parties: list[str], code: str, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_parties(parties)
    assert caught.value.code == code
    assert named in caught.value.message
    assert caught.value.hint


def test_unusable_collaboration_is_rejected() -> None:
    with pytest.raises(InvalidInput, match="--collaboration: 'My Deal'"):
        parse_parties(["north:s3"], "My Deal")


def test_companies_are_recorded_and_other_ones_are_a_conflict(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert recorded_parties(state) == DEMO
    chosen = parse_parties(["north:azure", "ana:analyst"], "deal")
    record_parties(state, chosen)
    record_parties(state, chosen)
    assert recorded_parties(state) == chosen
    with pytest.raises(Conflict, match="north:azure ana:analyst, collaboration deal"):
        record_parties(state, DEMO)


def test_state_of_the_demo_is_not_that_of_other_companies(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("{}")
    record_parties(tmp_path, DEMO)
    with pytest.raises(Conflict, match="contosso:azure litware:s3 fabrikam:analyst"):
        record_parties(tmp_path, parse_parties(["north:s3"]))


NAMES = ("north:azure", "no-rth:azure", "a:s3", "x1:s3", "azurite:azure", "vault:azure", "ana:analyst")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    state = tmp_path_factory.mktemp("cloud")
    record_parties(state, parse_parties(NAMES, "deal"))
    made = Layout(state)
    made.__dict__["image"] = build_image(made.images, "localhost/cleanroom/sparkapp", {"payload": b""}, program=("true",))
    made.make_secrets()
    write_configs(made, propagation_seconds=0)
    guests = {name: {"url": "http://localhost:1", "host_data": "0" * 64} for name in ("clean-room", "spark-service")}
    write_secret_file(made.guests_file, json.dumps(guests).encode())
    write_profiles(made)
    return made


def test_every_company_has_a_profile_with_its_own_resources(layout: Layout) -> None:
    settings = {item.name: load_settings(item.name, path=layout.config_file) for item in layout.companies.members}
    assert {own.collaboration for own in settings.values()} == {"deal"}
    assert all(own.party == name and own.parties[name] for name, own in settings.items())
    azure = [settings[item.name].azure for item in layout.companies.of(Kind.AZURE)]
    for member in ("subscription_id", "storage_account_url", "storage_account_id", "key_vault_url", "key_vault_id"):
        values = [getattr(own, member) for own in azure]
        assert all(values), member
        assert len(set(values)) == len(values), member
    buckets = [settings[item.name].s3.bucket for item in layout.companies.of(Kind.S3)]
    assert all(3 <= len(bucket) <= 63 for bucket in buckets)
    assert len(set(buckets)) == 2
    assert not settings["ana"].s3.bucket
    assert not settings["ana"].azure.key_vault_url
    allowed = set(settings["ana"].storage_hosts)
    assert {own.key_vault_url.removeprefix("https://") for own in azure} < allowed


def test_names_of_storage_accounts_are_those_that_azure_accepts(layout: Layout) -> None:
    names = [item.storage_account for item in layout.companies.of(Kind.AZURE)]
    assert all(3 <= len(name) <= 24 and name.isalnum() and name.islower() for name in names)
    assert len(set(names)) == len(names)


def test_every_identity_has_a_secret_of_its_own(layout: Layout) -> None:
    files = [account.secret_file(layout.state / "secrets") for account in layout.companies.accounts]
    tokens = [layout.token_file(f"azurite-{item.name}") for item in layout.companies.of(Kind.AZURE)]
    tokens += [layout.token_file(f"s3-{item.name}") for item in layout.companies.of(Kind.S3)]
    assert len({*files, *tokens}) == len(files) + len(tokens)
    assert len({file.read_bytes() for file in (*files, *tokens)}) == len(files) + len(tokens)


def test_each_company_on_azure_has_a_key_vault_and_the_stores_know_all_of_them(layout: Layout) -> None:
    configs = {file.stem: json.loads(file.read_text()) for file in (layout.state / "config").glob("*.json")}
    vaults = [name for name in configs if name.startswith("keyvault")]
    assert len(vaults) == 4
    assert len({configs[name]["port"] for name in vaults}) == 4
    assert len({configs[name]["state"] for name in vaults}) == 4
    assert len(configs["blobaccess"]["accounts"]) == 4
    assert len(configs["entra"]["subscriptions"]) == 4
    assert len(configs["entra"]["tenants"]) == 8, "one for each company and one for the operator"
