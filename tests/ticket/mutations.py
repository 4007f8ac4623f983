"""Changes to a ticket's files, as plain values that hypothesis draws, shrinks and prints."""

import copy
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from hypothesis import strategies as st

CONFIG, LADDER, THETA = "ticket_config.json", "ticket.safetensors", "theta.safetensors"
Files = Mapping[str, bytes]
Edit = tuple[Any, ...]

# Bytes.

_places = st.one_of(st.integers(0, 2000), st.integers(0, 1 << 17))
_bytes = st.binary(min_size=1, max_size=12)
byte_edits = st.one_of(
    st.tuples(st.just("flip"), _places, st.integers(0, 7)),
    st.tuples(st.just("overwrite"), _places, _bytes),
    st.tuples(st.just("insert"), _places, _bytes),
    st.tuples(st.just("delete"), _places, st.integers(1, 3000)),
    st.tuples(st.just("cut"), _places),
    st.tuples(st.just("repeat"), _places, st.integers(1, 3000), st.sampled_from([2, 3, 50])),
    st.tuples(st.just("swap"), _places, _places, st.integers(1, 500)),
    st.tuples(st.just("length"), st.sampled_from([0, 1, 2**16, 10**8, 10**8 + 1, 2**31, 2**63 - 1, 2**64 - 1])),
)


def edit_bytes(content: bytes, edit: Edit) -> bytes:
    """Change bytes anywhere, the header's length among them."""
    action, *values = edit
    if action == "length":
        return values[0].to_bytes(8, "little") + content[8:]
    place = values[0] % (len(content) or 1)
    before, after = content[:place], content[place:]
    if action == "flip":
        return before + bytes([after[0] ^ 1 << values[1]]) + after[1:] if after else content
    if action == "overwrite":
        return before + values[1] + after[len(values[1]) :]
    if action == "insert":
        return before + values[1] + after
    if action == "delete":
        return before + after[values[1] :]
    if action == "repeat":
        return before + values[2] * after[: values[1]] + after[values[1] :]
    if action == "swap":
        first, second = sorted((place, values[1] % len(content)))
        size = min(values[2], second - first)
        parts = (content[second : second + size], content[first + size : second], content[first : first + size])
        return content[:first] + b"".join(parts) + content[second + size :]
    return before


# JSON.

HOSTILE_TEXTS = [
    "",
    "../../../../etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "~/.ssh/id_rsa",
    "C:\\Windows\\system.ini",
    "null\0byte",
    "two\nlines\r\n",
    "\x1b[2J\x1b]0;title\x07",
    "\u202eright to left\u2028",
    "<script>alert(1)</script>",
    "[link](javascript:alert(1)) | table | `code`",
    "---\nlicense: mit\nmodel: !!python/object/apply:os.system ['true']",
    "{{ ''.__class__ }} ${jndi:ldap://x} %s%n {0.__class__}",
    "__import__('os').system('true')",
    "__class__",
    "__metadata__",
    "9" * 30,
    "٣",
    "long" * 30_000,
]
# As JSON text, for much of it is none.
HOSTILE_VALUES = [
    *map(json.dumps, HOSTILE_TEXTS),
    *("null", "true", "false", "0", "-1", "1.0", "30.5", "-0.0", "NaN", "Infinity", "-Infinity", "1e999", "1e308"),
    *(
        str(sign * 2**power + more)
        for power in (15, 31, 32, 53, 63, 64, 128)
        for sign, more in ((1, 0), (1, -1), (-1, 0))
    ),
    *("1" + "0" * 400, "1" + "0" * 4200, "1" + "0" * 5000, '"\\ud800"', '"\\udfff\\ud800x"', "[]", "{}", "[[]]", "[0]"),
    *(
        "[null]",
        "[1e308]",
        '["a"]',
        '{"a": 1, "a": 2}',
        '{"": ""}',
        "",
        "]",
        "nul",
        '"',
        "'a'",
        "\x00",
        "// comment\n1",
    ),
    *(depth * "[" + depth * "]" for depth in (40, 200, 400, 900, 1100, 100_000)),
    *(depth * '{"a":' + "1" + depth * "}" for depth in (40, 200, 400, 900, 1100, 50_000)),
    *("[" * 100_000, "[" + ",".join(70 * ["1"]) + "]", "[" + ",".join(3000 * ["1"]) + "]"),
    "[" + ",".join(5000 * [f'"{"9" * 4000}"']) + "]",
    "[" + ",".join(5000 * ["1" + "0" * 4000]) + "]",
    "[" + ",".join(20_000 * ["{}"]) + "]",
]
_values = st.one_of(
    st.sampled_from(HOSTILE_VALUES),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(json.dumps),
    st.text(max_size=20).map(json.dumps),
)
json_edits = st.tuples(
    st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add", "double", "copy"]),
    st.integers(0, 200),
    st.integers(0, 200),
    _values,
)


def edit_json(tree: Any, edits: Sequence[Edit]) -> str:
    """Change values and keys anywhere in a tree; what is put in is raw text, JSON or not."""
    tree = [copy.deepcopy(tree)]
    raw: dict[str, str] = {}
    for index, (action, place, other, text) in enumerate(edits):
        value, key = f"value {index}", f"key {index}"
        raw[json.dumps(value)] = text
        raw[json.dumps(key)] = text if text.startswith('"') and len(text) > 1 else json.dumps(text)
        places = list(_walk(tree))
        parent, name = places[place % len(places)]
        source, source_name = places[other % len(places)]
        if action == "replace" or parent is tree:
            parent[name] = value
        elif action == "copy":
            parent[name] = copy.deepcopy(source[source_name])
        elif isinstance(parent, list):
            parent[name : name + (action == "remove")] = [] if action == "remove" else [value]
        elif action == "remove":
            del parent[name]
        elif action == "rename":
            parent[key] = parent.pop(name)
        else:
            parent[key] = value
            if action == "double":
                raw[json.dumps(key)] = json.dumps(name)
    text = json.dumps(tree[0])
    for mark, replacement in raw.items():
        text = text.replace(mark, replacement)
    return text


def _walk(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each value, as its container and its key there."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from _walk(tree[key])


# The safetensors container.


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """The header's entries, hf_tickets' own metadata, and the tensors' bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    described = json.loads(header.get("__metadata__", {}).get("hf_tickets", "{}"))
    tensors = {
        name: content[8 + length :][slice(*entry["data_offsets"])]
        for name, entry in header.items()
        if name != "__metadata__"
    }
    return header, described, tensors


def with_header(content: bytes, header: str) -> bytes:
    """The same data under another header."""
    length = int.from_bytes(content[:8], "little")
    text = header.encode(errors="surrogatepass")
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def with_metadata(content: bytes, text: str) -> bytes:
    """The same payloads under other metadata of hf_tickets."""
    header = unpacked(content)[0]
    return with_header(content, json.dumps(header | {"__metadata__": {"hf_tickets": text}}))


def packed(described: Any, payloads: Mapping[str, bytes]) -> bytes:
    """A whole file of these payloads."""
    entries: dict[str, Any] = {"__metadata__": {"hf_tickets": json.dumps(described)}}
    reached = 0
    for name, payload in payloads.items():
        offsets = [reached, reached := reached + len(payload)]
        entries[name] = {"dtype": "U8", "shape": [len(payload)], "data_offsets": offsets}
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(payloads.values())


# Payloads.

payloads = st.tuples(
    st.sampled_from([0, 1, 2, 3, 255]),
    st.sampled_from([0, 1, 128, 254, 255]),
    st.one_of(st.sampled_from([0, 1, 10**6, 10**8]), st.integers(0, 250_000)),
    st.sampled_from(["matches", "codes", "stored", "zlib", "unended", "followed"]),
)


@cache
def payload(method: int, symbol: int, count: int, how: str) -> bytes:
    """A payload of one symbol many times, compressed as the format has it or not."""
    strategy = zlib.Z_DEFAULT_STRATEGY if how == "matches" or count > 10**6 else zlib.Z_HUFFMAN_ONLY
    compressor = zlib.compressobj(0 if how == "stored" else 1, zlib.DEFLATED, 15 if how == "zlib" else -15, 9, strategy)
    stream = compressor.compress(bytes([symbol]) * (count % (1 << 20) if how == "stored" else count))
    stream += compressor.flush(zlib.Z_SYNC_FLUSH if how == "unended" else zlib.Z_FINISH)
    return bytes([method]) + stream + (b"more" if how == "followed" else b"")
