"""Values as they are written, in YAML or on the command line, converted to the type of a field.

The conversion looks at the text, not at what YAML makes of it: YAML 1.1 reads `2e-5` as a string, `no` as
false, and a commit that happens to be all digits as a number.
"""

import ast
import difflib
import functools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from hf_tickets.cli.options import Option
from hf_tickets.errors import RecipeError


@dataclass(frozen=True)
class Written:
    """A value as it was written: its YAML node.

    Args:
        node: The node.
        construct: Reads a node as YAML does by itself; for values of no particular type.
        typed: Whether it was typed on the command line, where a list may be written `a,b`.
    """

    node: yaml.Node
    construct: Callable[[yaml.Node], Any]
    typed: bool = False

    @property
    def line(self) -> int:
        """The line of the file that the value starts on, from 1."""
        return self.node.start_mark.line + 1

    @property
    def is_mapping(self) -> bool:
        """Whether the value is a mapping of keys to values."""
        return isinstance(self.node, yaml.MappingNode)

    @property
    def is_null(self) -> bool:
        """Whether nothing, or null, was written."""
        return self.node.tag == "tag:yaml.org,2002:null"

    def items(self) -> Iterator[tuple[str, int, "Written"]]:
        """Yield key, its line, and value of a mapping."""
        for key, node in self.node.value:
            yield str(key.value), key.start_mark.line + 1, Written(node, self.construct, self.typed)


class _Reader(yaml.SafeLoader):
    """`yaml.SafeLoader` that refuses a key given twice and knows `2e-5` for a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node


_Reader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Written | None:
    """Return the one document in `text`, or None where there is none.

    Raises:
        RecipeError: The text is not YAML, or asks for more than plain values; begins with the line's number.
    """
    try:
        reader = _Reader(text)
        node = reader.get_single_node()
        if node is None:
            return None
        reader.construct_document(node)  # refuses unknown tags, and resolves merge keys (`<<`)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RecipeError(f"{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"1: not valid YAML: {str(error).splitlines()[0]}") from error
    return Written(node, functools.partial(reader.construct_object, deep=True))


def typed_text(text: str, option: Option) -> Written:
    """Return what was typed on the command line for `option`: `[a]` and `{a: b}` are YAML, all else is text.

    Raises:
        RecipeError: The brackets do not enclose YAML.
    """
    names = {kind.name for kind in kinds(option.annotation)}
    if (text.startswith("[") and names & {"list", "any"}) or (text.startswith("{") and names & {"dict", "any"}):
        try:
            written = read_yaml(text)
        except RecipeError as error:
            if "str" not in names:
                raise RecipeError(f"must be {option.annotation}, not {text!r}") from error
        else:
            assert written is not None  # it starts with a bracket
            return Written(written.node, written.construct, typed=True)
    return _typed_scalar(text)


def _typed_scalar(text: str) -> Written:
    reader = _Reader("")
    tag = reader.resolve(yaml.ScalarNode, text, (True, False))
    node = yaml.ScalarNode(tag, text, style=None if text else '"')  # an empty argument is an empty text, not null
    return Written(node, functools.partial(reader.construct_object, deep=True), typed=True)


@dataclass(frozen=True)
class Kind:
    """One alternative of an annotation: a builtin type's name, "literal" or "any", and what it may hold."""

    name: str
    items: tuple["Kind", ...] = ()
    values: tuple[Any, ...] = ()


@functools.cache
def kinds(annotation: str) -> tuple[Kind, ...]:
    """Return the alternatives of `annotation` that a recipe can express; other classes are left out."""
    return _kinds(ast.parse(annotation, mode="eval").body)


_NAMES = {
    "bool": "bool",
    "int": "int",
    "float": "float",
    "str": "str",
    "Path": "str",
    "Any": "any",
    "list": "list",
    "List": "list",
    "Sequence": "list",
    "tuple": "list",
    "dict": "dict",
    "Dict": "dict",
    "Mapping": "dict",
}


def _kinds(node: ast.expr) -> tuple[Kind, ...]:
    if isinstance(node, ast.BinOp):
        return _kinds(node.left) + _kinds(node.right)
    if isinstance(node, ast.Constant):
        return (Kind("None"),) if node.value is None else kinds(str(node.value))
    if isinstance(node, ast.Subscript):
        outer = ast.unparse(node.value).rpartition(".")[2]
        inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer == "Literal":
            return (Kind("literal", values=tuple(ast.literal_eval(item) for item in inner)),)
        if outer in ("Optional", "Union"):
            none = (Kind("None"),) if outer == "Optional" else ()
            return sum((_kinds(item) for item in inner), ()) + none
        held = inner[-1] if _NAMES.get(outer) == "dict" else inner[0]
        return (Kind(_NAMES[outer], _kinds(held)),) if outer in _NAMES else ()
    name = ast.unparse(node).rpartition(".")[2]
    return (Kind(_NAMES[name]),) if name in _NAMES else ()


def convert(written: Written, option: Option) -> Any:
    """Return the value that was written, as the type of `option`.

    Raises:
        RecipeError: It is of another type, or none of the option's choices.
    """
    try:
        value = _convert(written, kinds(option.annotation))
    except ValueError as error:
        raise RecipeError(f"must be {option.annotation}, not {error}") from error
    if option.choices and value is not None and value not in option.choices:
        nearest = difflib.get_close_matches(str(value), option.choices, 1)
        hint = f"; nearest: {nearest[0]}" if nearest else ""
        raise RecipeError(f"must be one of {', '.join(option.choices)}, not {value!r}{hint}")
    return value


def _convert(written: Written, alternatives: tuple[Kind, ...]) -> Any:
    """Return the value; raises ValueError that says what was given."""
    node = written.node
    by_name = {kind.name: kind for kind in alternatives}
    if isinstance(node, yaml.SequenceNode) and "list" in by_name:
        held = by_name["list"].items
        return [_convert(Written(item, written.construct), held or _ANYTHING) for item in node.value]
    if isinstance(node, yaml.MappingNode) and "dict" in by_name:
        held = by_name["dict"].items
        return {key: _convert(item, held or _ANYTHING) for key, _, item in written.items()}
    if "any" in by_name:
        return written.construct(node)
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("a mapping" if written.is_mapping else "a list")
    if written.typed and "list" in by_name and _is_list(node.value, by_name):
        held = by_name["list"].items or _ANYTHING
        return [_convert(_typed_scalar(item.strip()), held) for item in node.value.split(",") if item.strip()]
    return _convert_scalar(node.value, node.style is not None, by_name)


_ANYTHING = (Kind("any"),)


def _is_list(text: str, by_name: dict[str, Kind]) -> bool:
    """Whether `text`, typed for a field that takes a list, is one: a field of text too may hold any regex."""
    if "None" in by_name and text in _NULL:
        return False
    return "str" not in by_name or re.fullmatch(r"[\w./:-]+(, *[\w./:-]+)+", text) is not None


_NULL = ("", "~", "null", "Null", "NULL", "None")
_TRUTH = {"true": True, "false": False}
_MORE_TRUTH = {"yes": True, "on": True, "no": False, "off": False}


def _convert_scalar(text: str, quoted: bool, by_name: dict[str, Kind]) -> Any:
    text_allowed = "str" in by_name
    if quoted and text_allowed:
        return text
    if "None" in by_name and not quoted and (text in _NULL or (text == "none" and not text_allowed)):
        return None
    for value in by_name["literal"].values if "literal" in by_name else ():
        if text == str(value) or (isinstance(value, bool) and text.lower() == str(value).lower()):
            return value
    if "bool" in by_name:
        truth = _TRUTH if text_allowed else _TRUTH | _MORE_TRUTH  # `no` is a word where words are allowed
        if text.lower() in truth:
            return truth[text.lower()]
    for name, number in (("int", int), ("float", float)):
        if name in by_name:
            try:
                value = number(text)
            except ValueError:
                continue
            if math.isfinite(value):
                return value
    if text_allowed and (quoted or text not in _NULL):
        return text
    raise ValueError(repr(text) if text else "nothing")
