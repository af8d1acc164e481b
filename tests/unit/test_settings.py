"""Where the connection to Kafka comes from, and that its secrets stay in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.errors import StreamkitError
from streamkit.settings import DEFAULT_BROKERS, Connection, read_client_file


def connection(file: Path | None = None, brokers: str | None = None, **environ: str) -> Connection:
    return Connection.from_environment(brokers, file, environ=environ)


def test_nothing_said_is_the_broker_on_this_machine() -> None:
    assert connection() == Connection(DEFAULT_BROKERS, {}) == Connection()


def test_the_option_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text("bootstrap.servers=from-file:1\n")
    assert connection(file).brokers == "from-file:1"
    assert connection(file, STREAMKIT_BROKERS="from-env:1").brokers == "from-env:1"
    assert connection(file, "option:1", STREAMKIT_BROKERS="from-env:1").brokers == "option:1"
    assert connection(file).client == {}


def test_the_environment_is_read_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMKIT_BROKERS", "here:1")
    assert Connection.from_environment().brokers == "here:1"


def test_client_settings_come_from_names_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text("sasl.username=file\nsecurity.protocol=SASL_SSL\n")
    named = connection(STREAMKIT_CLIENT_CONFIG=str(file), STREAMKIT_CLIENT_SASL_USERNAME="env", OTHER="x")
    assert named.client == {"sasl.username": "env", "security.protocol": "SASL_SSL"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.properties",
            "# comment\n! too\n\n sasl.username = ads \nssl.ca.location=/etc/ca=1.pem\nenable.x=true\nn=5\n",
        ),
        ("a.toml", 'sasl.username = "ads"\nssl.ca.location = "/etc/ca=1.pem"\nenable.x = true\nn = 5\n'),
        ("a.toml", '"sasl.username" = "ads"\nn = 5\n[ssl]\nca.location = "/etc/ca=1.pem"\n[enable]\nx = true\n'),
        ("a.json", '{"sasl": {"username": "ads"}, "ssl.ca.location": "/etc/ca=1.pem", "enable.x": true, "n": 5}'),
    ],
)
def test_the_three_forms_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    expected = {"sasl.username": "ads", "ssl.ca.location": "/etc/ca=1.pem", "enable.x": "true", "n": "5"}
    assert read_client_file(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.properties", "sasl.username=ads\nhunter2\n", "line 2"),
        ("a.properties", "\n\n=hunter2\n", "line 3"),
        ("a.toml", 'a = "b"\npassword = hunter2\n', "line 2"),
        ("a.json", '{"a": 1,\n"password": hunter2}', "line 2"),
        ("a.json", '["hunter2"]', "the file must be a table"),
        ("a.json", '{"sasl": {"password": null, "x": "hunter2"}}', "sasl.password must be"),
    ],
)
def test_a_bad_file_is_named_with_its_line_and_not_shown(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(StreamkitError, match=words) as raised:
        read_client_file(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StreamkitError, match=r"nope\.properties: cannot be read: No such file"):
        connection(tmp_path / "nope.properties")


@pytest.mark.parametrize("name", ["sasl.password", "SASL.PASSWORD", "ssl.key.password", "ssl.key.pem", "client.secret"])
@given(secret=st.text(min_size=8))
def test_a_secret_is_never_shown(name: str, secret: str) -> None:
    shown = Connection("kafka:1", {name: "xyzzy" + secret, "sasl.username": "ads"})
    assert "xyzzy" not in f"{shown} {shown!r}"
    assert "'sasl.username': 'ads'" in repr(shown)
