"""How to reach Kafka: addresses and client settings, from options, the environment and a file."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamkit.errors import StreamkitError

DEFAULT_BROKERS = "localhost:9092"
PREFIX = "STREAMKIT_CLIENT_"
SECRET = re.compile("password|secret|key|token|jaas", re.IGNORECASE)


@dataclass(frozen=True, repr=False)
class Connection:
    """Bootstrap addresses, and settings that go to librdkafka as they are (SASL, TLS, ...).

    >>> Connection("kafka:9092", {"sasl.username": "ads", "sasl.password": "hunter2"})
    Connection(brokers='kafka:9092', client={'sasl.username': 'ads', 'sasl.password': '***'})
    """

    brokers: str = DEFAULT_BROKERS
    client: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(
        cls,
        brokers: str | None = None,
        config_file: str | Path | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
    ) -> Connection:
        """What the user asked for; a nearer source wins.

        Brokers: the option, STREAMKIT_BROKERS, `bootstrap.servers` of the file, localhost:9092.
        Client settings: STREAMKIT_CLIENT_SASL_USERNAME (for `sasl.username`), then the file, which is the option or
        STREAMKIT_CLIENT_CONFIG: `.toml`, `.json`, or else lines `name=value` as in a Java properties file.
        Raises StreamkitError, with the line, where the file cannot be read.
        """
        file = config_file or environ.get(PREFIX + "CONFIG")
        client = read_client_file(Path(file)) if file else {}
        client.update(_from_names(environ))
        in_file = client.pop("bootstrap.servers", None)
        return cls(brokers or environ.get("STREAMKIT_BROKERS") or in_file or DEFAULT_BROKERS, client)

    def __repr__(self) -> str:
        masked = {name: "***" if SECRET.search(name) else value for name, value in self.client.items()}
        return f"Connection(brokers={self.brokers!r}, client={masked!r})"


def _from_names(environ: Mapping[str, str]) -> dict[str, str]:
    names = sorted(name for name in environ if name.startswith(PREFIX) and name != PREFIX + "CONFIG")
    return {name.removeprefix(PREFIX).replace("_", ".").lower(): environ[name] for name in names}


def read_client_file(path: Path) -> dict[str, str]:
    """Client settings of a file, by name; nested tables are joined with dots. Raises StreamkitError."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            return dict(_flatten(tomllib.loads(text), path))
        if path.suffix == ".json":
            return dict(_flatten(json.loads(text), path))
    except OSError as error:
        raise StreamkitError(f"client settings {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StreamkitError(f"client settings {path}: expected UTF-8 text: {error.reason}") from None
    except ValueError as error:
        # Both decoders name line and column; neither quotes the text, which may hold a secret.
        raise StreamkitError(f"client settings {path}: not valid {path.suffix[1:].upper()}: {error}") from error
    return dict(_properties(text, path))


def _properties(text: str, path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if not entry or entry[0] in "#!":
            continue
        name, found, value = entry.partition("=")
        if not found or not name.strip():
            # The line itself may be a secret: do not show it.
            raise StreamkitError(f"client settings {path}, line {number}: expected `name=value` or a `#` comment")
        yield name.strip(), value.strip()


def _flatten(value: Any, path: Path, name: str = "") -> Iterator[tuple[str, str]]:
    """`{"sasl": {"username": "ads"}}` is `sasl.username=ads`, which is how TOML reads an unquoted dotted name."""
    if isinstance(value, dict):
        for part, inner in value.items():
            yield from _flatten(inner, path, f"{name}.{part}" if name else part)
    elif isinstance(value, bool):
        yield name, str(value).lower()
    elif isinstance(value, str | int | float) and name:
        yield name, str(value)
    elif isinstance(value, list) and name and all(isinstance(item, str) for item in value):
        yield name, ",".join(value)
    else:
        raise StreamkitError(
            f"client settings {path}: {name or 'the file'} must be a table of texts, numbers or true/false, "
            f"got {type(value).__name__}"
        )
