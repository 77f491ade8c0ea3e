"""One contract for all key stores; what only one of them has is in test_keyring.py, test_macos.py,
test_windows.py and test_keyfile.py.
"""

from __future__ import annotations

import sys
from typing import Iterator

import pytest
from conftest import Runner
from keystores import GnomeKeyring, KeyFile, MacKeychain, Store, WindowsCredentials, files_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
STORES = [
    pytest.param(
        GnomeKeyring,
        marks=[
            linux,
            pytest.mark.needs("dbus-daemon", "dbus-send", "gnome-keyring-daemon", "secret-tool"),
        ],
    ),
    pytest.param(KeyFile, marks=linux),
    pytest.param(
        MacKeychain,
        marks=pytest.mark.skipif(
            sys.platform == "win32", reason="its stand-in is a script with a #! line"
        ),
    ),
    WindowsCredentials,
]


@pytest.fixture(params=STORES, ids=lambda kind: kind.__name__)
def store(request: pytest.FixtureRequest, ft: Runner) -> Iterator[Store]:
    if request.param is WindowsCredentials:
        request.getfixturevalue("windows_ft")
    store = request.param(ft)
    yield store
    store.stop()


# --- reading and writing --------------------------------------------------------------------------


def test_an_empty_store_is_no_api_key_and_logout_has_nothing_to_remove(store: Store) -> None:
    result = store("me", check=1)
    assert result.stderr.startswith("error: no API key")
    assert "\nhint: get one at " in result.stderr
    assert store("auth", "logout", check=0).stdout == store.nothing
    assert store.sent_keys() == []


def test_login_stores_the_key_and_says_where(store: Store) -> None:
    key = store.ft.sandbox.key
    result = store.login(key, check=0)
    assert result.stdout == (
        f"Stored in {store.place}. ✓\nSigned in as jane@example.com (pro tier)\n"
    )
    in_file = isinstance(store, KeyFile)
    assert ("plain text" in result.stderr) == in_file
    assert in_file or result.stderr == ""
    assert store.keys == [key]
    assert files_of(store.ft) == ["config.json"] + ["credentials"] * in_file


def test_a_stored_key_is_read_and_doctor_names_its_place(store: Store) -> None:
    store.put(store.ft.sandbox.key)
    store("me", check=0)
    assert store.sent_keys() == [store.ft.sandbox.key]
    report = store("doctor", "--json", check=0).json
    assert (report["keySource"], report["keyStore"]) == (store.place, store.place)


def test_login_replaces_the_stored_key(store: Store) -> None:
    store.put(store.ft.sandbox.key_other)
    store.login(store.ft.sandbox.key, check=0)
    assert store.keys == [store.ft.sandbox.key]


def test_logout_removes_the_key_and_can_be_repeated(store: Store) -> None:
    store.login(store.ft.sandbox.key, check=0)
    result = store("auth", "logout", check=0)
    assert result.stdout == f"Logged out. Removed the key from {store.place}.\n"
    assert store.keys == []
    assert store("auth", "logout", check=0).stdout == store.nothing
    assert store("me", check=1).stderr.startswith("error: no API key")


def test_what_belongs_to_others_is_neither_read_nor_removed(store: Store) -> None:
    store.put_foreign()
    assert store("me", check=1).stderr.startswith("error: no API key")
    store.login(store.ft.sandbox.key, check=0)
    store("auth", "logout", check=0)
    assert store.has_foreign()


def test_a_store_that_holds_no_key_is_refused_by_name_and_length(store: Store) -> None:
    store.put("hunter2 is no key")
    result = store("me", check=2)
    assert f"the API key from {store.place} is malformed: 17 characters" in result.stderr
    assert "hunter2" not in result.stderr
    assert store.sent_keys() == []


def test_the_store_is_not_looked_at_when_flag_or_variable_answers(store: Store) -> None:
    store.put("not even a key")
    key = store.ft.sandbox.key
    assert store("me", "--api-key", key, check=0).stderr == ""
    assert store("me", key=key, check=0).stderr == ""
    assert store("doctor", "--json", key=key, check=0).json["keySource"] == "FINETUNING_API_KEY"


@pytest.mark.parametrize("failure", ["malformed", "refused", "unreachable"])
def test_a_login_that_fails_leaves_the_stored_key(store: Store, failure: str) -> None:
    store.put(store.ft.sandbox.key)
    key = {"malformed": "ft_live_short", "refused": "ft_live_" + "0" * 32}.get(
        failure, store.ft.sandbox.key_other
    )
    if failure == "unreachable":
        store.ft.sandbox.down()
    code = {"malformed": 2, "refused": 1, "unreachable": 3}[failure]
    speed = 50 if failure == "unreachable" else None  # it retries
    assert store.login(key, speed=speed, check=code).stdout == ""
    assert store.keys == [store.ft.sandbox.key]


# --- locked, hanging, unavailable -----------------------------------------------------------------


def test_a_locked_store_is_not_an_empty_one_and_never_falls_back(store: Store) -> None:
    store.put(store.ft.sandbox.key)
    store.lock()
    result = store("me", check=1)
    assert result.stderr.startswith(f"error: {store.place}")
    assert "locked" in result.stderr and "FINETUNING_API_KEY" in result.stderr
    for result in (store.login(store.ft.sandbox.key, check=1), store("auth", "logout", check=1)):
        assert f"error: {store.place}" in result.stderr
        assert result.stdout == ""
    assert files_of(store.ft) == ["config.json"]
    assert set(store.sent_keys()) == {store.ft.sandbox.key}  # the login's
    assert store("me", key=store.ft.sandbox.key, check=0).stderr == ""


def test_a_store_that_hangs_is_given_up_on(store: Store) -> None:
    store.put(store.ft.sandbox.key)
    store.hang()
    result = store("me", check=1)
    assert "security did not answer within 1 s" in result.stderr or (
        f"secret-tool did not answer within 3 s; going on without {store.place}" in result.stderr
    )
    assert "FINETUNING_API_KEY" in result.stderr
    assert store.sent_keys() == []


def test_an_unavailable_store_says_so(store: Store) -> None:
    store.fail()
    result = store("me", check=1)
    error, *hint = result.stderr.splitlines()
    assert error.startswith("error: ") and store.place in result.stderr
    assert all(line.startswith("hint: ") for line in hint)
    assert result.stdout == "" and store.sent_keys() == []
