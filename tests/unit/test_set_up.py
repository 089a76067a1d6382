"""``cleanroom init`` and ``cleanroom keyring``, on stand-ins of governance and Entra ID."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cleanroom.governance import UserIdentity
from cleanroom.settings import load_settings
from cleanroom.temporal.keyring import Keyring
from starters.cli import app
from starters.operations.setup import collaborators
from tests.governance_shell import Shell, make_shell

_ = make_shell


def run(config: Path, *words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*words, "--config", str(config), "-o", "json"])
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return json.loads(result.stdout.splitlines()[0])


def states(rows: list[dict[str, str]]) -> dict[str, str]:
    return {row["step"]: row["state"] for row in rows}


def credential_options(shell: Shell, company: str) -> list[str]:
    values = shell.world.credential(company).model_dump(mode="json", exclude_none=True)
    return [
        option
        for field, value in values.items()
        if field != "kind"
        for option in ("--set", f"credential.{field}={str(value).lower() if isinstance(value, bool) else value}")
    ]


def new_file(shell: Shell, company: str, name: str, folder: Path) -> tuple[Path, list[str]]:
    """Return a new configuration file, and the options that describe the company."""
    own = load_settings(company, path=shell.config)
    options = ["--collaboration", "flights", "--governance", own.governance.url, "--credential", own.credential.kind]
    return folder / "cleanroom.toml", ["init", name, *options, "--set", f"ca_file={own.ca_file}", *credential_options(shell, company)]


@pytest.fixture
def shell(make_shell: Any) -> Shell:
    """A collaboration in which Contosso is registered; Litware is not."""
    return new_shell(make_shell)


def new_shell(make_shell: Any, *more: str) -> Shell:
    made: Shell = make_shell("operator")
    for company in ("contosso", *more):
        made.found(company)
    return made


def test_set_up_from_nothing_waits_for_a_member_then_for_the_keyring_and_repeats_without_a_change(shell: Shell, tmp_path: Path) -> None:
    file, words = new_file(shell, "litware", "south", tmp_path / "south")
    assert states(run(file, *words, code=6)) == {"profile": "done", "user": "waiting"}
    assert states(run(file, *words, code=6)) == {"profile": "unchanged", "user": "waiting"}
    shell.found("litware")
    file.write_text("# mine\n" + file.read_text() + "# last\n")
    file.chmod(0o600)
    rows = run(file, *words, code=6)
    assert states(rows) == {
        "profile": "unchanged", "user": "unchanged", "collaborators": "done", "signing key": "done", "sealing key": "done",
        "keyring": "waiting",
    }  # fmt: skip
    assert "cleanroom keyring seal south" in rows[-1]["detail"]

    own = load_settings("south", path=file)
    assert own.parties == {"south": shell.world.object_id("litware"), "user": shell.world.object_id("contosso")}
    assert "# mine" in file.read_text()
    assert "# last" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    north, north_words = new_file(shell, "contosso", "north", tmp_path / "north")
    assert states(run(north, *north_words, "--new-keyring"))["keyring"] == "done"
    sealed = tmp_path / "for-south.json"
    run(north, "keyring", "seal", shell.world.object_id("litware"), "--out", str(sealed), "--profile", "north")
    assert states(run(file, "init", "south", "--keyring", str(sealed)))["keyring"] == "done"
    keyrings = [load_settings(name, path=path).temporal.keyring_file for name, path in (("south", file), ("north", north))]
    assert {Keyring.load(path).current for path in keyrings if path} == {Keyring.load(keyrings[1] or "").current}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keyrings if path)

    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(states(run(file, "init", "south", "--keyring", str(sealed))).values()) == {"unchanged"}
    assert set(states(run(north, *north_words, "--new-keyring")).values()) == {"unchanged"}
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_no_output_contains_a_secret(shell: Shell, tmp_path: Path) -> None:
    file, words = new_file(shell, "contosso", "north", tmp_path)
    printed = CliRunner().invoke(app, [*words, "--config", str(file), "--new-keyring"]).output
    run(file, "init", "north")
    sealed = tmp_path / "sealed.json"
    printed += (
        CliRunner().invoke(app, ["keyring", "seal", "north", "--out", str(sealed), "--config", str(file), "--profile", "north"]).output
    )
    keyring = json.loads((tmp_path / "north/keyring.json").read_text())
    secrets = [*keyring["keys"].values(), shell.world.secret_file("contosso", "user").read_text().strip()]
    secrets += ["".join(path.read_text().splitlines()[1:-1]) for path in (tmp_path / "north/keys").glob("*.pem")]
    assert len(secrets) == 4
    for text in (printed, sealed.read_text(), file.read_text()):
        assert not [secret for secret in secrets if secret in text]


@pytest.fixture(scope="module")
def files(make_shell: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Configuration files of north, with a keyring, and of south; and a keyring that north sealed for south."""
    folder, shell = tmp_path_factory.mktemp("pair"), new_shell(make_shell, "litware")
    north, words = new_file(shell, "contosso", "north", folder / "n")
    run(north, *words, "--new-keyring")
    south, words = new_file(shell, "litware", "south", folder / "s")
    run(south, *words, code=6)
    run(north, "init", "north")
    run(north, "keyring", "seal", shell.world.object_id("litware"), "--out", str(folder / "sealed"), "--profile", "north")
    return {"north": north, "south": south, "sealed": folder / "sealed"}


class TestSealedKeyring:
    def test_only_the_recipient_opens_it(self, files: dict[str, Path]) -> None:
        error = run(files["north"], "keyring", "open", str(files["sealed"]), "--profile", "north", code=4)
        assert error["code"] == "NotTheRecipient"

    @pytest.mark.parametrize("member", ["sealed", "handover"])
    def test_changed_file_is_refused(self, files: dict[str, Path], member: str, tmp_path: Path) -> None:
        content = json.loads(files["sealed"].read_text())
        middle = len(content[member]) - 40
        content[member] = content[member][:middle] + ("A" if content[member][middle] != "A" else "B") + content[member][middle + 1 :]
        (tmp_path / "changed").write_text(json.dumps(content))
        error = run(files["south"], "keyring", "open", str(tmp_path / "changed"), "--profile", "south", code=4)
        assert error["code"] == {"sealed": "SealedSecretTampered", "handover": "SignatureInvalid"}[member]
        assert not (files["south"].parent / "south/keyring.json").exists()

    def test_another_keyring_is_not_replaced(self, files: dict[str, Path]) -> None:
        keyring = files["south"].parent / "south/keyring.json"
        Keyring.generate().save(keyring)
        before = keyring.read_bytes()
        assert run(files["south"], "keyring", "open", str(files["sealed"]), "--profile", "south", code=5)["code"] == "KeyringExists"
        assert keyring.read_bytes() == before
        keyring.unlink()

    @pytest.mark.parametrize(
        ("content", "code"), [("{}", "SealedSecretMalformed"), ("\x00", "SealedSecretMalformed")], ids=["empty", "binary"]
    )
    def test_other_file_is_an_error(self, files: dict[str, Path], content: str, code: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text(content)
        assert run(files["south"], "keyring", "open", str(tmp_path / "file"), "--profile", "south", code=2)["code"] == code
        assert run(files["south"], "keyring", "open", str(tmp_path / "none"), "--profile", "south", code=3)["code"] == "FileNotFound"

    def test_recipient_must_be_known_and_the_file_new(self, files: dict[str, Path], tmp_path: Path) -> None:
        words = ["keyring", "seal", "--profile", "north", "--out"]
        assert run(files["north"], *words, str(tmp_path / "x"), "stranger", code=3)["code"] == "RecipientUnknown"
        assert run(files["north"], *words, str(files["sealed"]), "north", code=5)["code"] == "FileExists"

    def test_lost_sealing_key_is_published_again_and_old_files_say_so(self, files: dict[str, Path]) -> None:
        (files["south"].parent / "south/keys/sealing-key.pem").unlink()
        assert states(run(files["south"], "init", "south", code=6))["sealing key"] == "done"
        error = run(files["south"], "keyring", "open", str(files["sealed"]), "--profile", "south", code=4)
        assert error["code"] == "SealedForOtherKey"


def test_new_profile_without_settings_names_the_options(tmp_path: Path) -> None:
    error = run(tmp_path / "c.toml", "init", "north", "--collaboration", "deal", code=2)
    assert error["code"] == "SettingMissing"
    assert "--governance, --credential" in error["hint"]
    assert not (tmp_path / "c.toml").exists()


def test_other_values_for_an_existing_profile_are_a_conflict(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[profile.north]\nparty = "north"\n[profile.north.s3]\nbucket = "a"\n')
    error = run(tmp_path / "c.toml", "init", "north", "--set", "s3.bucket=b", code=5)
    assert (error["code"], "s3.bucket" in error["message"]) == ("ProfileDiffers", True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["North"], "InvalidName"),
        (["north", "north"], "NameRepeated"),
        (["north", "south", "--new-keyring"], "OneNameOnly"),
        (["north", "--set", "bucket"], "AssignmentMalformed"),
        (["north", "--set", "A B=c"], "AssignmentMalformed"),
        (["north", "--credential", "magic", "--collaboration", "c", "--governance", "https://g"], "ConfigInvalid"),
        (["north", "--set", "nonsense=1", "--credential", "cli", "--collaboration", "c", "--governance", "https://g"], "ConfigInvalid"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_unusable_option_is_an_error_before_anything_is_written(words: list[str], code: str, tmp_path: Path) -> None:
    assert run(tmp_path / "c.toml", "init", *words, code=2)["code"] == code
    assert not (tmp_path / "c.toml").exists()


def test_questions_ask_for_what_is_missing_and_for_no_secret(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = load_settings("contosso", path=shell.config)
    values = own.credential.model_dump(mode="json")
    answers = [
        "flights",
        own.governance.url,
        "client-secret",
        values["tenant_id"],
        values["client_id"],
        values["client_secret_file"],
        "s3",
        "rows",
        "",
        "",
    ]
    monkeypatch.setattr("starters.init.asks", lambda: True)
    words = ["--set", f"ca_file={own.ca_file}", "--set", f"credential.authority={own.credential.authority}"]
    words += ["--set", "credential.disable_instance_discovery=true", "--new-keyring", "--config", str(tmp_path / "c.toml")]
    done = CliRunner().invoke(app, ["init", "north", *words], input="\n".join(answers) + "\n")
    assert done.exit_code == 0, done.output
    made = load_settings("north", path=tmp_path / "c.toml")
    assert (made.s3.bucket, made.s3.region, made.credential.kind) == ("rows", "us-east-1", "client-secret")
    assert "client_secret_file" in done.output


def test_collaborators_get_names_from_their_sign_in_names() -> None:
    names = {
        "1": "Ann.Lee@north.example", "2": "ann.lee@south.example", "3": "frontend@operator.example", "4": "", "5": "known@x.example",
        "6": "user@a.example", "7": "user@a.other", "8": "\u00fc@x.example",
    }  # fmt: skip
    users = [
        UserIdentity.model_validate({"id": key, "data": {"identifier": value or None, "tenantId": "t"}}) for key, value in names.items()
    ]
    found = collaborators(users, {"k": "5"})
    assert found == {"ann-lee": "1", "ann-lee-south": "2", "user": "6", "user-a": "7"}
