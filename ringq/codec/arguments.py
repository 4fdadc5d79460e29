"""Submit and run: the arguments of one call, as Python values and as payload."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

import msgspec

from ringq.codec import awaited, hints, plain
from ringq.config import PAYLOAD_BYTES_MAX
from ringq.errors import InvalidKind, InvalidPayload, PayloadTooLarge
from ringq.spelling import nearest

REQUIRED: Final = object()
"""The default of a parameter that has none."""

_astuple = msgspec.structs.astuple
_MISSING = re.compile(r"Object missing required field `(.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a handler. `default`: REQUIRED if none; `positional`: it may come by position."""

    name: str
    hint: Any
    default: Any = REQUIRED
    positional: bool = True


class ArgumentsCodec:
    """The arguments of one kind."""

    def __init__(self, kind: str, parameters: Sequence[Parameter], extra: Any = None) -> None:
        """`extra`: the hint of **kwargs, None without. Raises InvalidKind for a hint JSON cannot carry."""
        self.kind = kind
        self._parameters, self._hint_of_others = tuple(parameters), extra
        self._names = tuple(parameter.name for parameter in parameters)
        self._positional = tuple(parameter.name for parameter in parameters if parameter.positional)
        self._loose = {p.name for p in parameters if hints.is_loose(kind, p.name, p.hint)}
        self._struct = _struct_of(kind, parameters, forbid_unknown=extra is None)
        self._decode = plain.decoder(self._struct).decode
        self._extra: msgspec.json.Decoder[Any] | None = None
        self._extra_loose = False
        if extra is not None:
            self._extra_loose = hints.is_loose(kind, "**kwargs", extra)
            self._extra = plain.decoder(extra)
        self._has_loose = bool(self._loose) or self._extra_loose
        self._is_simple = not self._has_loose and extra is None  # what decodes arrives as it was given
        self._rows: dict[int, type[msgspec.Struct]] = {}  # by how many arguments come by position
        self._lenient: dict[frozenset[str], ArgumentsCodec] = {}  # by which arguments may be anything

    def encode(self, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
        """The payload of a call with these arguments.

        Raises InvalidPayload, naming the parameter: for what a call would refuse, for values that do not
        fit the hints, and for values that JSON would lose (NaN, infinities, keys that are no text, lone
        surrogates, nesting deeper than 200). Raises PayloadTooLarge over 1 MiB.
        """
        given: Any = kwargs
        if args and kwargs:
            given = self._bind(args, kwargs)
        elif args:  # a Struct is made and encoded in 0.14 us, a dict in 0.7
            given = (self._rows.get(len(args)) or self._row(len(args)))(*args)
        payload = _encode(self.kind, given)
        if b"null" in payload:
            self._refuse_non_finite(_as_dict(given))
        if self._extra is not None:
            _refuse_no_name(self.kind, payload)
        if self._is_simple:
            try:
                self._decode(payload)
            except (ValueError, RecursionError) as error:
                raise self._invalid(error) from None
        else:
            self._refuse_changed_keys(_as_dict(given), self.decode(payload))
        return payload.decode()

    def encode_awaiting(
        self, args: Sequence[Any], kwargs: dict[str, Any], number_of: Callable[[awaited.ResultOf], int]
    ) -> str:
        """As `encode`, of arguments among which are results of other tasks.

        `number_of`: the place of each of these among what the task depends on. What they will be is checked by the
        worker, all else here.
        """
        left, marks = awaited.without_results(self._bind(args, kwargs), number_of)
        names = frozenset(marks)
        lenient = self._lenient.get(names)
        if lenient is None:
            own = [replace(one, hint=Any) if one.name in names else one for one in self._parameters]
            others = Any if self._hint_of_others is not None and names.difference(self._names) else self._hint_of_others
            lenient = self._lenient[names] = ArgumentsCodec(self.kind, own, others)
        lenient.encode((), left)
        return _encode(self.kind, awaited.marked(left, marks)).decode()

    def decode(self, payload: bytes | str) -> dict[str, Any]:
        """The typed arguments of a payload, defaults included. Raises InvalidPayload if they do not fit."""
        try:
            values = msgspec.structs.asdict(self._decode(payload))
            if self._extra is not None:
                values |= self._decode_extra(payload, self._extra)
            return values
        except (ValueError, RecursionError) as error:
            raise self._invalid(error) from None

    def decode_values(self, payload: bytes) -> tuple[Any, ...]:
        """The typed arguments of a payload in the order of the parameters, **kwargs left out. Raises as `decode`."""
        try:
            return _astuple(self._decode(payload))
        except (ValueError, RecursionError) as error:
            raise self._invalid(error) from None

    def are(self, names: tuple[str, ...]) -> bool:
        """Whether these, by position or by name and in this order, are all there are."""
        return self._extra is None and self._names == self._positional == names

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the payload."""
        return plain.schema(self._struct)

    def text_reader(self) -> Callable[[str], Any]:
        """Makes text a value of the first parameter by position, as somebody who typed it means it.

        A hint that takes the text itself gets the text: `null` is a name for `str | None`. Else it is read as a
        number, a truth value or null; what is none of them stays text, which is told of when it is encoded.
        Raises InvalidPayload if no parameter comes by position.
        """
        if not self._positional:
            raise InvalidPayload(f"{self.kind}: takes no argument by position, only by name")
        first = next(field for field in msgspec.structs.fields(self._struct) if field.name == self._positional[0])
        if first.type in (str, Any):
            return str
        typed, lax = plain.decoder(first.type), plain.decoder(first.type, strict=False)

        def read(text: str) -> Any:
            try:
                encoded = plain.encode_json(text)
                try:
                    typed.decode(encoded)
                except ValueError:
                    return lax.decode(encoded)
            except ValueError:  # no number and the like; or no UTF-8
                return text
            return text

        return read

    # -- for chunks -------------------------------------------------------------------------------

    @property
    def has_loose(self) -> bool:
        """Whether some values are, at some depth, plain JSON without a type of their own."""
        return self._has_loose

    def row_struct(self) -> type[msgspec.Struct] | None:
        """The arguments by position: an array in JSON. None if one that must be given can only be named."""
        fields: list[Any] = []
        for field in msgspec.structs.fields(self._struct):
            if field.name not in self._positional:
                if field.required:
                    return None
                continue
            default = () if field.required else (msgspec.field(default_factory=field.default_factory),)
            fields.append((field.name, field.type, *default))
        return msgspec.defstruct(self.kind, fields, array_like=True, forbid_unknown_fields=True)

    def decode_row(self, payload: bytes) -> dict[str, Any]:
        """The typed arguments of a call by position, by name. Raises InvalidPayload if they do not fit."""
        try:
            raws = msgspec.json.decode(payload, type=list[msgspec.Raw])
        except (ValueError, RecursionError):
            raise InvalidPayload(f"{self.kind}: a call is a list or an object of arguments") from None
        return self.decode(msgspec.json.encode(self._bind(raws, {})))

    def _row(self, count: int) -> type[msgspec.Struct]:
        """A Struct of the first arguments by position. Raises InvalidPayload if there are not so many."""
        self._check_count(count)
        row = msgspec.defstruct(self.kind, [(name, Any) for name in self._positional[:count]], gc=False)
        return self._rows.setdefault(count, row)

    def _check_count(self, count: int) -> None:
        most = len(self._positional)
        if count > most:
            raise InvalidPayload(f"{self.kind}: takes at most {most} arguments by position, got {count}")

    def _bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        self._check_count(len(args))
        given = dict(zip(self._positional, args, strict=False))
        twice = given.keys() & kwargs.keys()
        if twice:
            raise InvalidPayload(f"{self.kind}: argument '{min(twice)}' is given twice")
        return given | kwargs

    def _decode_extra(self, payload: bytes | str, extra: msgspec.json.Decoder[Any]) -> dict[str, Any]:
        raw = _RAW_DECODER.decode(payload)
        found = {}
        for name in raw.keys() - set(self._names):
            try:
                found[name] = extra.decode(raw[name])
            except msgspec.ValidationError as error:
                what, where = plain.split_place(str(error))
                raise ValueError(f"{what} - at `$.{name}{where}`") from None
        return found

    def _refuse_non_finite(self, given: Mapping[str, Any]) -> None:
        try:
            for name, value in given.items():
                if type(value) is float or type(value) not in plain.SCALARS:
                    plain.refuse_non_finite(name, value)
        except plain.LossError as loss:
            raise InvalidPayload(f"{self.kind}: {loss}") from None

    def _refuse_changed_keys(self, given: Mapping[str, Any], typed: dict[str, Any]) -> None:
        try:
            for name, value in given.items():
                loose = name in self._loose if name in self._names else self._extra_loose
                if loose and type(value) not in plain.SCALARS:
                    plain.refuse_changed_keys(name, value, typed[name])
        except plain.LossError as loss:
            raise InvalidPayload(f"{self.kind}: {loss}") from None

    def _invalid(self, error: Exception) -> InvalidPayload:
        return InvalidPayload(f"{self.kind}: {self._explain(str(error))}")

    def _explain(self, message: str) -> str:
        what, where = plain.split_place(message)
        if where:
            return f"{where}: {plain.in_words(what)}"
        if missing := _MISSING.match(what):
            return f"argument '{missing[1]}' is missing"
        if unknown := _UNKNOWN.match(what):
            near = nearest(unknown[1], self._names)
            takes = f"did you mean '{near}'?" if near else f"it takes {', '.join(self._names) or 'none'}"
            return f"no parameter '{unknown[1]}': {takes}"
        return plain.in_words(what)


def encode_mapping(kind: str, arguments: Mapping[str, Any] | str) -> str:
    """The payload of a kind whose handler is not at hand: checked as JSON here, by its hints in the worker.

    `arguments` may be JSON text already. Raises as `ArgumentsCodec.encode` does.
    """
    given = _read_object(kind, arguments) if isinstance(arguments, str) else by_name(kind, arguments)
    for name in given:
        if not isinstance(name, str):
            raise InvalidPayload(f"{kind}: arguments are named by text, got {name!r}")
    payload = _encode(kind, given)
    _refuse_no_name(kind, payload)
    try:
        if b"null" in payload:
            plain.refuse_non_finite("", given)
        if any(type(value) not in plain.SCALARS for value in given.values()):
            plain.refuse_changed_keys("", given, msgspec.json.decode(payload))
    except plain.LossError as loss:
        raise InvalidPayload(f"{kind}: {loss}") from None
    return payload.decode()


def encode_awaiting(kind: str, arguments: Mapping[str, Any] | str, number_of: Callable[[awaited.ResultOf], int]) -> str:
    """As `encode_mapping`, of arguments among which are results of other tasks: see `ArgumentsCodec`."""
    left, marks = awaited.without_results(by_name(kind, arguments), number_of)
    encode_mapping(kind, left)
    return _encode(kind, awaited.marked(left, marks)).decode()


def by_name(kind: str, arguments: object) -> dict[str, Any]:
    """Arguments that were given as a mapping. Raises InvalidPayload for what is none."""
    if not isinstance(arguments, Mapping):
        raise InvalidPayload(f"{kind}: expected the arguments by name, as {{'path': 'a.jpg'}}, got {arguments!r:.100}")
    return dict(arguments)


_RAW_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _struct_of(kind: str, parameters: Sequence[Parameter], *, forbid_unknown: bool) -> type[msgspec.Struct]:
    fields: list[Any] = []
    for parameter in parameters:
        if parameter.default is REQUIRED:
            fields.append((parameter.name, parameter.hint))
        else:
            default: Any = msgspec.field(default_factory=_always(parameter.default))
            fields.append((parameter.name, parameter.hint, default))
    try:
        return msgspec.defstruct(kind, fields, kw_only=True, forbid_unknown_fields=forbid_unknown)
    except (TypeError, RuntimeError, ValueError) as error:
        raise InvalidKind(f"{kind}: its parameters cannot be described: {error}") from None


def _always(value: Any) -> Callable[[], Any]:
    # The very object of the signature, mutable or not, as a plain call gives it.
    return lambda: value


def _refuse_no_name(kind: str, payload: bytes) -> None:
    if payload.startswith(awaited.AWAITED_PREFIX):
        raise InvalidPayload(f"{kind}: an argument has a name, this one has none: ''")


def _read_object(kind: str, text: str) -> dict[str, Any]:
    try:
        return plain.decode_json(text, dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise InvalidPayload(f"{kind}: the payload is no JSON object: {plain.in_words(str(error))}") from None


def _as_dict(given: Any) -> dict[str, Any]:
    return given if isinstance(given, dict) else msgspec.structs.asdict(given)


def _encode(kind: str, given: Any) -> bytes:
    try:
        payload = plain.encode(given, "", "pass")
    except plain.LossError as loss:
        _name_the_culprit(kind, _as_dict(given), loss)
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(
            f"{kind}: the arguments take {len(payload):,} bytes, the limit is {PAYLOAD_BYTES_MAX:,}: "
            "write them to a file and pass its path"
        )
    return payload


def _name_the_culprit(kind: str, given: dict[str, Any], whole: plain.LossError) -> NoReturn:
    for name, value in given.items():
        try:
            plain.encode(value, name, "pass")
        except plain.LossError as loss:
            raise InvalidPayload(f"{kind}: {loss}") from None
    raise InvalidPayload(f"{kind}: {whole}") from None
