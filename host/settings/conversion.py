"""From what a source gives to what a setting takes; and every value as it may be shown."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import msgspec
from msgspec import inspect

from host.settings.fields import REQUIRED, SettingField, in_words, is_list, kind_of
from host.settings.sources import DEFAULT, Given
from plugin_api.settings import Secret

MASK: Final = "**********"
SHOWN_LENGTH_MAX: Final = 80
_PASSWORD_IN_ADDRESS: Final = re.compile(r"(://[^\s/@:]*:)[^\s/]+@")


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the settings."""

    section: str
    name: str
    """Empty when it is about the whole section, or a file."""
    code: str
    """`unknown_section`, `unknown_setting`, `missing`, `invalid`, `unreadable`, `secret_on_command_line`."""
    text: str
    """Where, what was expected, what was seen (never a secret's value), and what to do."""


class NotConvertible(Exception):
    """A value does not fit its setting; the text says why in words."""


def convert(given: Given, field: SettingField) -> Any:
    """The value that a setting takes.

    Raises:
        NotConvertible: the value does not fit; the text names the setting, what it takes, what was seen and the remedy.
    """
    try:
        value = _from_text(given.value, field.type) if given.is_text else given.value
        converted = _convert(value, field.type, strict=not given.is_text)
    except (msgspec.ValidationError, msgspec.DecodeError, ValueError, TypeError, OverflowError) as error:
        raise NotConvertible(_refusal(given, field, error)) from None  # its text may hold the value
    return converted


def _from_text(text: str, hint: Any) -> Any:
    """Text as a list or a table: `a,b` or JSON; anything else stays text."""
    kind = kind_of(hint)
    if is_list(kind):
        if text.lstrip().startswith("["):
            return msgspec.json.decode(text)
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(kind, inspect.DictType | inspect.StructType):
        return msgspec.json.decode(text)
    return text


def _convert(value: Any, hint: Any, *, strict: bool) -> Any:
    def hook(kind: Any, inner: Any) -> Any:
        if kind is Secret or get_origin(kind) is Secret:
            parts = get_args(kind)
            return Secret(_convert(inner, parts[0] if parts else str, strict=strict))
        if kind is Path and isinstance(inner, str):
            return Path(inner)
        raise NotImplementedError

    converted = msgspec.convert(value, hint, strict=strict, dec_hook=hook)
    if isinstance(converted, float) and not math.isfinite(converted):
        raise ValueError("a number without end is no setting")
    return converted


# ----------------------------------------------------------------------------------------------- refusing


def _refusal(given: Given, field: SettingField, error: Exception) -> str:
    takes = f"{given.source}: {field.full_name} takes {in_words(field.type)}"
    if field.is_secret:
        return f"{takes}, and what is given there does not fit (it is not shown); {_remedy(given, field)}"
    deeper = f" ({error})" if " - at `$" in str(error) else ""
    return f"{takes}, saw {show(given.value)}{deeper}; {_remedy(given, field)}"


def _remedy(given: Given, field: SettingField) -> str:
    kind = kind_of(field.type)
    if isinstance(kind, inspect.LiteralType) and isinstance(given.value, str):
        near = get_close_matches(given.value.lower(), [str(value) for value in kind.values], n=1)
        if near:
            return f'did you mean "{near[0]}"?'
    if field.default is REQUIRED:
        return "correct it"
    if field.is_secret or field.default is None:
        return "correct it or remove it"
    return f"correct it, or remove it for the default {show(field.default)}"


# ------------------------------------------------------------------------------------------------ showing


def masked(value: Any) -> Any:
    """A value as plain JSON, every secret and every password of an address masked."""

    def hook(other: Any) -> Any:
        return MASK if isinstance(other, Secret) else str(other)

    return _without_passwords(msgspec.to_builtins(value, enc_hook=hook, str_keys=True))


def _without_passwords(value: Any) -> Any:
    match value:
        case str():
            return _PASSWORD_IN_ADDRESS.sub(rf"\1{MASK}@", value)
        case list():
            return [_without_passwords(one) for one in value]
        case dict():
            return {key: _without_passwords(one) for key, one in value.items()}
        case _:
            return value


def show(value: Any) -> str:
    """A value in a sentence, on one line and not too long."""
    if value is REQUIRED:
        return "none"
    try:
        text = msgspec.json.encode(masked(value)).decode()
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= SHOWN_LENGTH_MAX else f"{text[:SHOWN_LENGTH_MAX]}..."


def is_default(given: Given) -> bool:
    """Whether no source gave the value."""
    return given.source == DEFAULT
