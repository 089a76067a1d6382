"""The names of ``cleanroom.keys`` that need the Azure client are imported at first use."""

from __future__ import annotations

import importlib

import pytest

import cleanroom.keys


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("KeyReference", "provision"),
        ("KeyVaultSettings", "vault"),
        ("ReleasedKey", "release"),
        ("release_key", "release"),
        ("set_key_with_skr", "provision"),
    ],
)
def test_name_is_that_of_its_module(name: str, module: str) -> None:
    assert getattr(cleanroom.keys, name) is getattr(importlib.import_module(f"cleanroom.keys.{module}"), name)
    assert name in cleanroom.keys.__all__


def test_other_name_is_unknown() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        cleanroom.keys.nothing  # noqa: B018
