"""Tickets from strangers: 2,000 changed ones are each the honest ticket or refused, in little time and memory.

Another process reads them, so that a crash, a hang or a bomb fails the test with the change that made it.
"""

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import (
    CONFIG,
    HOSTILE_TEXTS,
    LADDER,
    THETA,
    Edit,
    Files,
    byte_edits,
    edit_bytes,
    edit_json,
    json_edits,
    packed,
    payload,
    payloads,
    unpacked,
    with_header,
    with_metadata,
)
from stranger import KINDS, network, serve, three_masks, ticket

from hf_tickets.errors import TicketMismatchError
from hf_tickets.pruning.mask import Mask
from hf_tickets.ticket.ticket import Ticket

CONTEXT = multiprocessing.get_context("forkserver")
DEEP = [depth * "[" + depth * "]" for depth in (60, 330, 490, 900, 5000)]
DEEP += [depth * '{"a":' + "1" + depth * "}" for depth in (60, 330, 490, 900, 5000)]
PATTERNS = [
    500 * "(" + 500 * ")",
    "a{99999999999999999999}",
    "(",
    "(.|..|...)*!",
    "(.*)*(.*)*(.*)*!",
    "(?s:.)*\n",
    "\n(",
]
SECONDS = 20  # for one ticket, on a busy machine; an honest one takes a hundredth of one

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured as Linux tells it")


def seeded(count: int) -> settings:
    """The same tickets in each run."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=checks)


class Reader:
    """The other process; a new one takes the place of one that died."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.honest: dict[str, Files] = {}
        for kind in KINDS:
            ticket(kind).save_pretrained(folder / kind)
            self.honest[kind] = {path.name: path.read_bytes() for path in (folder / kind).iterdir()}
        self._process: BaseProcess | None = None
        self._connection: Connection

    def read(self, kind: str, files: Files) -> bool:
        """Whether a ticket of these files is taken; fails unless it is right or refused."""
        if self._process is None:
            CONTEXT.set_forkserver_preload(["torch", "transformers", "hf_tickets.ticket.ticket"])
            self._connection, theirs = CONTEXT.Pipe()
            self._process = CONTEXT.Process(target=serve, args=(theirs,))
            self._process.start()
            theirs.close()
            assert self._ask("masks", self.honest["masks"], 100) == ([], True)
        wrong, whole = self._ask(kind, files, SECONDS)
        if wrong:
            self.close()  # what it took of memory, and what it changed, is not the next ticket's fault
        assert not wrong, "\n".join(wrong)
        return whole

    def _ask(self, kind: str, files: Files, seconds: float) -> tuple[list[str], bool]:
        folder = self.folder / "stranger"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        process = self._process
        assert process is not None
        self._connection.send((str(folder), kind))
        try:
            answered = self._connection.poll(seconds)
            answer = self._connection.recv() if answered else ([f"no answer within {seconds} seconds"], False)
        except (EOFError, ConnectionError):
            process.join()
            answer = ([f"the process died with exit code {process.exitcode}"], False)
        assert {path.name for path in self.folder.iterdir()} == {*KINDS, "stranger"}
        assert {path.name for path in folder.iterdir()} == set(files)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("tickets"))
    yield reader
    reader.close()


def test_honest_tickets_are_taken(reader: Reader) -> None:
    """Else nothing below would mean anything."""
    for kind in KINDS:
        assert reader.read(kind, reader.honest[kind])


# Bytes.


@given(
    st.sampled_from([("masks", LADDER), ("masks", CONFIG), ("weights", THETA), ("weights", LADDER)]),
    st.lists(byte_edits, min_size=1, max_size=3),
)
@seeded(450)
def test_changed_bytes(reader: Reader, place: tuple[str, str], edits: list[Edit]) -> None:
    kind, file = place
    content = reader.honest[kind][file]
    for edit in edits:
        content = edit_bytes(content, edit)
    reader.read(kind, {**reader.honest[kind], file: content})


@given(st.lists(byte_edits, min_size=1, max_size=2))
@seeded(100)
def test_changed_bytes_among_several_blocks(reader: Reader, edits: list[Edit]) -> None:
    content = reader.honest["blocks"][LADDER]
    for edit in edits:
        content = edit_bytes(content, edit)
    reader.read("blocks", {**reader.honest["blocks"], LADDER: content})


# Headers.


@given(st.sampled_from([("masks", LADDER), ("weights", THETA)]), st.lists(json_edits, min_size=1, max_size=2))
@seeded(300)
def test_changed_headers(reader: Reader, place: tuple[str, str], edits: list[Edit]) -> None:
    kind, file = place
    content = reader.honest[kind][file]
    changed = with_header(content, edit_json(unpacked(content)[0], edits))
    reader.read(kind, {**reader.honest[kind], file: changed})


@given(st.lists(json_edits, min_size=1, max_size=2))
@seeded(400)
def test_changed_metadata(reader: Reader, edits: list[Edit]) -> None:
    """Versions, layers, shapes, kept counts, digests."""
    content = reader.honest["masks"][LADDER]
    changed = with_metadata(content, edit_json(unpacked(content)[1], edits))
    reader.read("masks", {**reader.honest["masks"], LADDER: changed})


# Payloads.


@given(
    st.sampled_from(["masks", "masks", "masks", "blocks"]),
    st.dictionaries(st.integers(0, 8), payloads, min_size=1, max_size=3),
    st.sampled_from([None, "all", 1, 7, 8, 64, 255, 2040, 2041, 10**6]),
)
@seeded(250)
def test_forged_payloads(reader: Reader, kind: str, forged: dict[int, tuple], factor: int | str | None) -> None:
    """Bombs and nonsense, under the honest shapes or under shapes that grow with the payload."""
    _, described, tensors = unpacked(reader.honest[kind][LADDER])
    for index, values in forged.items():
        key = sorted(tensors)[index]
        tensors[key] = payload(*values)
        if factor is not None:
            name = key.partition("/")[2]
            symbols = values[2] if factor == "all" else factor * len(tensors[key])
            # An honest layer of nothing but kept weights would take as much memory as it declares.
            described["layers"][name] = [max(1, min(symbols, 20_000_000) if index < 3 else symbols)]
            for rung in described["rungs"]:
                rung["kept"] = 0
    reader.read(kind, {**reader.honest[kind], LADDER: packed(described, tensors)})


@given(st.permutations(range(9)), st.permutations(range(3)))
@seeded(40)
def test_payloads_and_rungs_in_another_order(reader: Reader, order: list[int], rungs: list[int]) -> None:
    _, described, tensors = unpacked(reader.honest["masks"][LADDER])
    names = sorted(tensors)
    described["rungs"] = [described["rungs"][index] for index in rungs]
    changed = {names[index]: tensors[name] for index, name in zip(order, names, strict=True)}
    reader.read("masks", {**reader.honest["masks"], LADDER: packed(described, changed)})


@given(st.integers(0, 2), st.integers(0, 2), st.sampled_from(["digest", "kept"]))
@seeded(18)
def test_a_rung_under_the_name_of_another(reader: Reader, one: int, other: int, key: str) -> None:
    _, described, tensors = unpacked(reader.honest["masks"][LADDER])
    described["rungs"][one][key] = described["rungs"][other][key]
    whole = reader.read("masks", {**reader.honest["masks"], LADDER: packed(described, tensors)})
    assert whole == (one == other)


@given(st.sampled_from([1, 3, 5_000]), st.sampled_from([1, 3, 5_000]), st.booleans())
@seeded(18)
def test_crowds_of_layers_and_rungs(reader: Reader, layers: int, rungs: int, full: bool) -> None:
    """Few bytes can declare as many payloads as the product of two numbers."""
    described = {
        "version": 1,
        "layers": {str(index): [1] for index in range(layers)},
        "rungs": rungs * [{"kept": layers, "digest": ""}],
    }
    count = min(layers, 50) * min(rungs, 50) if full else 0
    tensors = {
        f"{index % min(rungs, 50):03d}/{index // min(rungs, 50)}": payload(0, 128, 1, "codes") for index in range(count)
    }
    reader.read("masks", {**reader.honest["masks"], LADDER: packed(described, tensors)})


# The config.


@given(st.lists(json_edits, min_size=1, max_size=2))
@seeded(350)
def test_changed_configs(reader: Reader, edits: list[Edit]) -> None:
    config = edit_json(json.loads(reader.honest["masks"][CONFIG]), edits)
    reader.read("masks", {**reader.honest["masks"], CONFIG: config.encode(errors="surrogatepass")})


NOT_ONE_LINE = '"tiny\\nmodel\\u001b[2J"'
HOSTILE_FIELDS = [
    *[(name, f'{{"target_modules": {json.dumps(pattern)}}}') for name in ("pruning",) for pattern in PATTERNS],
    *[("pruning", f'{{"exclude_modules": {json.dumps(pattern)}}}') for pattern in PATTERNS],
    *[(name, text) for name in ("model_type", "base_model") for text in (NOT_ONE_LINE, '"\\ud800"', '""')],
    *[(name, text) for name in ("pruning", "task", "dense") for text in DEEP],
    *[("rungs", f"[{text}, {text}, {text}]") for text in DEEP],
    *[
        ("optional_modules", text)
        for text in ('["", "\\n", "0", "2"]', '["."]', f"[{','.join(9_000 * [NOT_ONE_LINE])}]")
    ],
    *[("pruning", '{"target_modules": ["nowhere\\nelse"]}'), ("pruning", '{"scope": "a\\nb"}')],
    *[("seeds", '{"a": {"b": []}}'), ("unknown\nkey", "1"), ("\\ud800", "1"), ("task", '{"\\ud800": 1}')],
    *[("default_sparsity", text) for text in ("NaN", "1e999", "-1.0", "0.3", "2", '"0.3"', "true", "0.95", "[]")],
    *[("format_version", text) for text in ("1.0", "true", "2", "-1", "1e999", "NaN", "[1]", 5000 * "[" + 5000 * "]")],
]


@pytest.mark.parametrize(("field", "text"), HOSTILE_FIELDS)
def test_hostile_fields(reader: Reader, field: str, text: str) -> None:
    """Those that later steps trip over: patterns that run, text that is printed, values that are walked."""
    values = json.loads(reader.honest["masks"][CONFIG]) | {field: "here"}
    config = json.dumps(values).replace('"here"', text).replace("\\\\ud800", "\\ud800")
    reader.read("masks", {**reader.honest["masks"], CONFIG: config.encode()})


# Weights that travel with the ticket.

_BITS = {
    **dict.fromkeys(("U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "Q9"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
_TORCH = {
    **{"U8": "uint8", "I8": "int8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
    **{"F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
    **{"I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16", "I32": "int32", "U32": "uint32"},
    **{"F32": "float32", "I64": "int64", "U64": "uint64", "F64": "float64", "C64": "complex64"},
    "F4": "float4_e2m1fn_x2",
}


@given(
    st.sampled_from(["0.weight", "0.bias", "2.weight", "2.bias", "../../theta", "new"]),
    st.sampled_from(sorted(_BITS)),
    st.sampled_from([None, None, None, [], [0], [4], [2, 2], [0, 2**62, 2**62], [0, 2**63 - 1], 70 * [1], 3000 * [1]]),
)
@seeded(200)
def test_weights_of_other_types_and_shapes(reader: Reader, name: str, dtype: str, shape: list[int] | None) -> None:
    """Their digest is the one that the config records: the types and shapes alone are a stranger's."""
    files = reader.honest["weights"]
    header, _, tensors = unpacked(files[THETA])
    header.pop("__metadata__")
    shape = header.get(name, {"shape": [4]})["shape"] if shape is None else shape
    count = 0 if 0 in shape else max(1, len(tensors.get(name, b"1234")) // 4) if len(shape) < 3 else 1
    if shape and 0 not in shape:
        count = 1
        for size in shape:
            count *= size
    tensors[name] = bytes(count * _BITS[dtype] // 8)
    header[name] = {"dtype": dtype, "shape": shape}
    hasher, reached = hashlib.sha256(), 0
    for key in sorted(header):
        entry, content = header[key], tensors[key]
        entry["data_offsets"] = [reached, reached := reached + len(content)]
        sizes = "x".join(map(str, entry["shape"]))
        hasher.update(
            f"{key} torch.{_TORCH.get(entry['dtype'])} {sizes} {hashlib.sha256(content).hexdigest()}\n".encode()
        )
    text = json.dumps(header).encode()
    theta = len(text).to_bytes(8, "little") + text + b"".join(tensors[key] for key in sorted(header))
    digest = hashlib.sha256(f"{three_masks('weights')[0].digest} {hasher.hexdigest()}".encode()).hexdigest()
    config = json.loads(files[CONFIG]) | {"theta_digest": digest}
    whole = reader.read("weights", {**files, THETA: theta, CONFIG: json.dumps(config).encode()})
    if name in ("0.bias", "0.weight") and dtype == "F16" and len(shape) == 1 and shape[0] > 100:
        assert whole  # so the digest above is right


# Names.


@pytest.mark.parametrize("name", [*HOSTILE_TEXTS, "0.weight\0", " 0.weight", "0..weight", "..", "a/../../b"])
def test_names_in_a_whole_ticket_are_names_and_nothing_else(reader: Reader, tmp_path: Path, name: str) -> None:
    mask = three_masks("masks")[0]
    changed = Mask({name if key == "0.weight" else key: value for key, value in mask.items()})
    Ticket(changed).save_pretrained(tmp_path / "ticket")
    assert [path.name for path in tmp_path.iterdir()] == ["ticket"]
    loaded = Ticket.from_pretrained(tmp_path / "ticket")
    assert loaded.mask == changed
    with pytest.raises(TicketMismatchError):
        loaded.apply(network("masks"))
