"""Putting settings together: every source in its order, every fault found at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from host.docstrings import FieldNotes
from host.settings.conversion import NotConvertible, Problem, convert, masked
from host.settings.fields import REQUIRED, SettingField, fields_of, in_words, variable_of, variable_prefix
from host.settings.sources import COMMAND_LINE, DEFAULT, Given, TomlFile, Unreadable, environment, read_files
from plugin_api.errors import InvalidRequest, Violation
from plugin_api.settings import Secret

ANY_SECTION: Final = None
"""For `others`: every section that is not asked for is somebody else's."""
_GUESS_LENGTH_MIN: Final = 4
"""A shorter secret is found in any sentence."""


class SettingsInvalid(InvalidRequest):
    """The settings cannot be used; the detail has one line for each problem, and `violations` the same."""

    default_code = "settings_invalid"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(
            "\n".join(problem.text for problem in problems),
            violations=[Violation(_pointer(problem), problem.code, problem.text) for problem in problems],
        )
        self.problems = tuple(problems)


def _pointer(problem: Problem) -> str:
    return "".join(f"/{part}" for part in (problem.section, problem.name) if part)


class SettingEntry(Struct, frozen=True):
    """One setting as operators see it."""

    section: str
    name: str
    value: Any
    """Plain JSON; secrets are masked."""
    source: str
    type: str
    """In words: `a whole number from 1 to 365`."""
    default: Any
    """Likewise; null when there is none."""
    description: str
    environment: tuple[str, ...]
    """Variables that set it."""
    is_secret: bool = False


@dataclass(frozen=True)
class _Section:
    """A section under way: what it declares and what the sources give."""

    name: str
    declared: type[Struct]
    fields: Mapping[str, SettingField]
    given: dict[str, Given] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedSettings:
    """The settings of this process. Never changed; a new start reads them anew."""

    values: Mapping[str, Struct]
    """Section -> its Struct; without the sections that have a problem."""
    problems: tuple[Problem, ...]
    open_files: tuple[Path, ...]
    """Files that give a secret and that other accounts of the machine may read."""
    _sections: Mapping[str, _Section]

    def section(self, name: str) -> Any:
        """The Struct of a section.

        Raises:
            SettingsInvalid: something in it cannot be used.
            LookupError: nobody declared such a section.
        """
        if name in self.values:
            return self.values[name]
        own = [problem for problem in self.problems if problem.section == name]
        if own:
            raise SettingsInvalid(own)
        raise LookupError(f"there is no section {name} of settings here; known: {', '.join(sorted(self._sections))}")

    def find(self, name: str) -> Any:
        """The Struct of a section, or None when nobody declared it. SettingsInvalid as with `section`."""
        return self.section(name) if name in self._sections else None

    def with_sections_of(self, other: LoadedSettings) -> LoadedSettings:
        """These settings and those of a plugin that came later, in place of what it had before."""
        kept = [problem for problem in self.problems if problem.section not in other._sections]
        return LoadedSettings(
            {**self.without(other._sections).values, **other.values},
            (*kept, *(problem for problem in other.problems if problem.section in other._sections)),
            tuple(dict.fromkeys((*self.open_files, *other.open_files))),
            {**self._sections, **other._sections},
        )

    def without(self, sections: Collection[str]) -> LoadedSettings:
        """These settings without some sections."""
        return LoadedSettings(
            {name: value for name, value in self.values.items() if name not in sections},
            tuple(problem for problem in self.problems if problem.section not in sections),
            self.open_files,
            {name: section for name, section in self._sections.items() if name not in sections},
        )

    def entries(self) -> list[SettingEntry]:
        """Every setting by section and name, with its source; secrets are masked."""
        notes = FieldNotes()
        return [
            _entry(section, one, notes.of(section.declared), self.values.get(section.name))
            for _, section in sorted(self._sections.items())
            for one in section.fields.values()
        ]


def _entry(section: _Section, one: SettingField, notes: Mapping[str, str], values: Struct | None) -> SettingEntry:
    given = section.given.get(one.name)
    value = getattr(values, one.attribute, None)
    return SettingEntry(
        section=section.name,
        name=one.name,
        value=masked(value),
        source=given.source if given is not None else DEFAULT,
        type=in_words(one.type),
        default=None if one.default is REQUIRED else masked(one.default),
        description=one.description or notes.get(one.attribute, ""),
        environment=one.variables,
        is_secret=one.is_secret,
    )


def load(
    sections: Mapping[str, type[Struct]],
    *,
    data_dir: Path,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    others: Collection[str] | None = (),
) -> LoadedSettings:
    """`read`, when nothing less than all of it will do.

    Raises:
        SettingsInvalid: with every problem at once.
    """
    settings = read(sections, data_dir=data_dir, cwd=cwd, environ=environ, overrides=overrides, others=others)
    if settings.problems:
        raise SettingsInvalid(settings.problems)
    return settings


def read(
    sections: Mapping[str, type[Struct]],
    *,
    data_dir: Path,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    others: Collection[str] | None = (),
) -> LoadedSettings:
    """Read all sources, later ones win: defaults, `pk.toml` of `cwd`, of `data_dir`, the environment, the command line.

    `overrides` are those of the command line by `section.name`; text among them stands for whatever the setting takes.
    `others` are sections that somebody else reads (of plugins that are not loaded); ANY_SECTION stands for all. A section
    with a problem has no value, the others have theirs: one plugin's settings never stop another plugin.
    """
    reader = _Reader(sections, others)
    for file in read_files(cwd or Path.cwd(), data_dir):
        reader.take_file(file)
    reader.take_environment(environment() if environ is None else environ)
    reader.take_overrides(overrides or {})
    return reader.settle()


class _Reader:
    """Collects what the sources give."""

    def __init__(self, sections: Mapping[str, type[Struct]], others: Collection[str] | None) -> None:
        self._others = others
        self._problems: list[Problem] = []
        self._files: list[TomlFile] = []
        self._sections: dict[str, _Section] = {}
        for name, declared in sections.items():
            try:
                self._sections[name] = _Section(name, declared, fields_of(name, declared))
            except TypeError as error:
                self._sections[name] = _Section(name, declared, {})
                self._problem(name, "", "invalid", f"the settings of {name} are declared wrongly: {error}")

    def _problem(self, section: str, name: str, code: str, text: str) -> None:
        self._problems.append(Problem(section, name, code, text))

    def _is_others(self, section: str) -> bool:
        return section not in self._sections and (self._others is None or section in self._others)

    # -- files

    def take_file(self, file: TomlFile | Unreadable) -> None:
        """One `pk.toml`; what was given before is replaced."""
        if isinstance(file, Unreadable):
            self._problem("", "", "unreadable", file.text)
            return
        self._files.append(file)
        self._take_table(file, file.content, ())

    def _take_table(self, file: TomlFile, table: Mapping[str, Any], path: tuple[str, ...]) -> None:
        for key, value in table.items():
            name = ".".join((*path, key))
            below = (*path, key)
            if self._take_setting(file, path, key, value):
                continue
            if isinstance(value, Mapping) and (name in self._sections or self._is_prefix(name)):
                self._take_table(file, value, below)
            elif not (isinstance(value, Mapping) and self._is_others(name)) and not self._is_inside_others(path):
                self._refuse_key(file, path, key, value)

    def _take_setting(self, file: TomlFile, path: tuple[str, ...], key: str, value: Any) -> bool:
        section = self._sections.get(".".join(path))
        if section is None or key not in section.fields:
            return False
        section.given[key] = Given(value, file.place(*path, key))
        return True

    def _is_prefix(self, name: str) -> bool:
        known = [*self._sections, *(self._others or ())]
        return any(section.startswith(f"{name}.") for section in known)

    def _is_inside_others(self, path: Sequence[str]) -> bool:
        parts = [".".join(path[:length]) for length in range(1, len(path) + 1)]
        return any(map(self._is_others, parts)) and ".".join(path) not in self._sections

    def _refuse_key(self, file: TomlFile, path: tuple[str, ...], key: str, value: Any) -> None:
        place, section, name = file.place(*path, key), ".".join(path), ".".join((*path, key))
        if section not in self._sections and isinstance(value, Mapping) and _has_only_tables(value):
            for below, table in value.items():  # `[acme.crm]` is about acme.crm, not about acme
                self._refuse_key(file, (*path, key), below, table)
        elif section in self._sections:
            self._problem(section, key, "unknown_setting", f"{place}: {self._unknown_setting(section, key)}")
        elif isinstance(value, Mapping) or path:
            named = name if isinstance(value, Mapping) else section
            self._problem(named, "", "unknown_section", f"{place}: {self._unknown_section(named)}")
        else:
            said = f"{place}: {key} stands outside of any section; write it below a line like [host]"
            self._problem("", key, "unknown_setting", said)

    def _unknown_setting(self, section: str, key: str) -> str:
        known = list(self._sections[section].fields)
        return f"{section} has no setting {key}; {_nearest(key, known)}"

    def _unknown_section(self, name: str) -> str:
        known = sorted(self._sections)
        return f"nothing here has a section {name}; {_nearest(name, known)}"

    # -- environment

    def take_environment(self, environ: Mapping[str, str]) -> None:
        """Variables; an empty one is as good as none."""
        given = {name: value for name, value in environ.items() if value}
        for section in self._by_precedence():
            for one in section.fields.values():
                name = next((name for name in one.variables if name in given), None)
                if name is not None:
                    section.given[one.name] = _from_variable(one, name, given[name])
        for name in sorted(given):
            self._check_variable(name)

    def _by_precedence(self) -> list[_Section]:
        """`integration_hub` comes after `integration.hub`, so that the kernel's own keeps the variables both would have."""
        return sorted(self._sections.values(), key=lambda section: "." not in section.name)

    def _check_variable(self, name: str) -> None:
        prefix, mark, rest = name.partition("__")
        if not mark or not rest or not prefix.startswith("PK_"):
            return
        known = {variable_prefix(section.name): section for section in self._by_precedence()}
        section = known.get(f"{prefix}__")
        if section is not None:
            variables = [variable_of(section.name, one) for one in section.fields]
            if name not in variables:
                told = f"environment {name} sets nothing; {_nearest(name, variables)}"
                self._problem(section.name, "", "unknown_setting", told)
        elif self._others is not None and f"{prefix}__" not in map(variable_prefix, self._others):
            told = f"environment {name} sets nothing: nothing here has settings {prefix}__..."
            self._problem("", "", "unknown_section", f"{told}; {_nearest(f'{prefix}__', list(known))}")

    # -- command line

    def take_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Settings of the command line. Secrets are refused there: every account of the machine can read it."""
        for full_name, value in overrides.items():
            section_name, _, name = full_name.rpartition(".")
            section = self._sections.get(section_name)
            if section is not None and name in section.fields:
                self._take_override(section, section.fields[name], value)
            elif section is not None:
                told = self._unknown_setting(section_name, name)
                self._problem(section_name, name, "unknown_setting", f"{COMMAND_LINE}: {told}")
            elif not self._is_others(section_name):
                told = f"{name} is no setting; write section.name=value"
                told = self._unknown_section(section_name) if section_name else told
                self._problem(section_name, name, "unknown_section", f"{COMMAND_LINE}: {told}")

    def _take_override(self, section: _Section, one: SettingField, value: Any) -> None:
        if one.is_secret:
            said = (
                f"{COMMAND_LINE}: {one.full_name} is a secret, and every account of the machine can read a command line"
            )
            remedy = f"set it by {one.variables[0]} or in a pk.toml of mode 0600"
            self._problem(section.name, one.name, "secret_on_command_line", f"{said}; {remedy}")
        else:
            section.given[one.name] = Given(value, COMMAND_LINE, is_text=isinstance(value, str))

    # -- the end

    def settle(self) -> LoadedSettings:
        """Convert what was given, and make the Structs."""
        values: dict[str, Struct] = {}
        for name, section in self._sections.items():
            made = self._make(section)
            if made is not None and not any(problem.section == name for problem in self._problems):
                values[name] = made
        return LoadedSettings(values, tuple(self._problems), tuple(self._open_files()), self._sections)

    def _make(self, section: _Section) -> Struct | None:
        converted: dict[str, Any] = {}
        count = len(self._problems)
        for one in section.fields.values():
            given = section.given.get(one.name)
            try:
                if given is not None:
                    converted[one.attribute] = convert(given, one)
                elif one.default is REQUIRED:
                    said = f"{one.full_name} is missing; it takes {in_words(one.type)}"
                    remedy = f"set it in pk.toml or by {one.variables[0]}"
                    self._problem(section.name, one.name, "missing", f"{said}; {remedy}")
            except NotConvertible as error:
                self._problem(section.name, one.name, "invalid", str(error))
        return self._construct(section, converted) if len(self._problems) == count else None

    def _construct(self, section: _Section, converted: Mapping[str, Any]) -> Struct | None:
        """The Struct itself; its own `__post_init__` may refuse values that contradict each other."""
        try:
            return section.declared(**converted)
        except Exception as error:  # noqa: BLE001 - the code of any plugin
            reason = str(error) or type(error).__name__
            secrets = [str(given.value) for one, given in section.given.items() if section.fields[one].is_secret]
            if any(len(secret) >= _GUESS_LENGTH_MIN and secret in reason for secret in secrets):
                reason = "the values contradict each other (the reason is not shown, because it holds a secret)"
            self._problem(section.name, "", "invalid", f"{section.name}: {reason}")
            return None

    def _open_files(self) -> Iterable[Path]:
        """Of the readable files, those that give a secret."""
        places = {
            given.source.rpartition(":")[0]
            for section in self._sections.values()
            for name, given in section.given.items()
            if section.fields[name].is_secret
        }
        return [file.path for file in self._files if file.is_open and str(file.path) in places]


def _from_variable(one: SettingField, name: str, text: str) -> Given:
    """The value of a variable. A name in milliseconds sets a field in seconds: `GRPC_CALL_TIMEOUT_MS`, `deadline_s`."""
    source = f"environment {name}"
    if name.endswith("_MS") and one.name.endswith("_s") and text.strip().isdecimal():
        return Given(int(text) / 1_000, source)
    return Given(text, source, is_text=True)


def _has_only_tables(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(isinstance(one, Mapping) for one in value.values())


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(sorted(known)[:12])}" if known else "it has no settings"


def secrets_of(settings: LoadedSettings) -> Iterator[str]:
    """Every secret text among the values; for tests that look for leaks."""
    for values in settings.values.values():
        for name in values.__struct_fields__:
            value = getattr(values, name)
            if isinstance(value, Secret):
                yield str(value.reveal())
