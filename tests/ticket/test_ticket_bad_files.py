"""Bad files: whatever is wrong with them, one clear error, and the model is as it was."""

import copy
import json
import random
import zlib

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

from hf_tickets.errors import TicketFileError, TicketsError
from hf_tickets.pruning.prune import prune
from hf_tickets.ticket.ticket import Ticket

CONFIG_FILE, LADDER_FILE = "ticket_config.json", "ticket.safetensors"


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20))


@pytest.fixture(scope="module")
def masks():
    model, made = network(), [None]
    for sparsity in (0.5, 0.75, 0.97):
        made.append(prune(model, mask=made[-1], sparsity=sparsity))
    return made[1:]


@pytest.fixture
def folder(tmp_path, masks):
    Ticket(masks).save_pretrained(tmp_path / "ticket")
    return tmp_path / "ticket"


def content(model):
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


NETWORK = network()
DENSE = content(NETWORK)


def assert_refused(folder, match=None, sparsity=None):
    model = copy.deepcopy(NETWORK)
    with pytest.raises(TicketsError, match=match) as raised:
        Ticket.from_pretrained(folder, sparsity=sparsity).apply(model)
    assert "\n" not in str(raised.value)
    assert content(model) == DENSE


def assert_refused_or_right(folder, masks):
    """A change that is not refused must change nothing: not a mask, not a sparsity."""
    model, expected = copy.deepcopy(NETWORK), copy.deepcopy(NETWORK)
    try:
        ticket = Ticket.from_pretrained(folder)
        ticket.apply(model)
    except TicketsError:
        assert content(model) == DENSE
        return False
    masks[-1].apply_(expected)
    assert content(model) == content(expected)
    assert ticket.sparsities == tuple(mask.sparsity for mask in masks)
    return True


def rewrite(folder, tensors=None, key="hf_tickets", **parts):
    """Write the ladder again with other payloads or metadata, its parts as JSON text; None removes."""
    path = folder / LADDER_FILE
    with safe_open(path, framework="numpy") as file:
        new_tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    new_tensors.update(tensors or {})
    new_tensors = {name: value for name, value in new_tensors.items() if value is not None}
    written = {name: json.dumps(value) for name, value in metadata_of(folder).items()} | parts
    text = ", ".join(f'"{name}": {value}' for name, value in written.items() if value is not None)
    save_file(new_tensors, path, metadata={key: f"{{{text}}}"} if key else None)


def metadata_of(folder):
    with safe_open(folder / LADDER_FILE, framework="numpy") as file:
        return json.loads(file.metadata()["hf_tickets"])


def raw_deflate(data):
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush()


def payload(method, data):
    return np.frombuffer(bytes([method]) + raw_deflate(data), dtype=np.uint8)


# Missing.


def test_the_whole_ticket_is_right(folder, masks):
    assert assert_refused_or_right(folder, masks)


@pytest.mark.parametrize("file", [CONFIG_FILE, LADDER_FILE])
def test_a_missing_file_is_refused_by_name(folder, file):
    (folder / file).unlink()
    assert_refused(folder, file)
    (folder / file).mkdir()
    assert_refused(folder, file)


def test_a_missing_folder_is_refused(tmp_path):
    assert_refused(tmp_path / "nowhere", "nowhere")
    (tmp_path / "file").write_text("x")
    assert_refused(tmp_path / "file", "file")


# Truncated or flipped.


def test_a_ladder_cut_anywhere_is_refused(folder):
    whole = (folder / LADDER_FILE).read_bytes()
    for length in [*range(0, len(whole), 5), len(whole) - 1]:
        (folder / LADDER_FILE).write_bytes(whole[:length])
        assert_refused(folder)
    (folder / LADDER_FILE).write_bytes(whole + b"\0")
    assert_refused(folder)


def test_a_config_cut_anywhere_is_refused(folder):
    whole = (folder / CONFIG_FILE).read_bytes()
    for length in range(0, len(whole.rstrip()), 3):
        (folder / CONFIG_FILE).write_bytes(whole[:length])
        assert_refused(folder, CONFIG_FILE)


@pytest.mark.parametrize("file", [CONFIG_FILE, LADDER_FILE])
def test_a_flipped_bit_is_refused_or_means_nothing(folder, masks, file):
    whole = (folder / file).read_bytes()
    draw = random.Random(0)
    refused = 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        (folder / file).write_bytes(changed)
        refused += not assert_refused_or_right(folder, masks)
    assert refused > len(whole) // 2


def test_all_bits_of_a_payload_byte_count(folder, masks):
    whole = (folder / LADDER_FILE).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in range(header, len(whole), 17):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            (folder / LADDER_FILE).write_bytes(changed)
            assert_refused_or_right(folder, masks)


def test_files_of_noise_are_refused(folder):
    draw = random.Random(1)
    for size in (0, 1, 7, 8, 9, 100, 5000):
        (folder / LADDER_FILE).write_bytes(draw.randbytes(size))
        assert_refused(folder, LADDER_FILE)


def test_a_payload_of_another_rung_or_layer_is_refused(folder):
    with safe_open(folder / LADDER_FILE, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    rewrite(folder, {"001/0.weight": tensors["000/0.weight"], "000/0.weight": tensors["001/0.weight"]})
    assert_refused(folder)


# Digests and versions.


@pytest.mark.parametrize("rung", [0, 1, 2])
def test_a_wrong_digest_is_refused_before_the_model_is_touched(folder, masks, rung):
    rungs = metadata_of(folder)["rungs"]
    rungs[rung]["digest"] = "0" * 64
    rewrite(folder, rungs=json.dumps(rungs))
    assert_refused(folder, "digest", sparsity=masks[rung].sparsity)


def test_a_wrong_count_of_kept_weights_is_refused(folder, masks):
    """The count says which sparsity a rung has: a wrong one would give another rung than was asked for."""
    rungs = metadata_of(folder)["rungs"]
    rungs[1]["kept"] -= 90
    rewrite(folder, rungs=json.dumps(rungs))
    total = masks[0].numel
    assert_refused(folder, sparsity=1 - rungs[1]["kept"] / total)
    with pytest.raises(TicketsError):
        assert Ticket.from_pretrained(folder).masks


@pytest.mark.parametrize("version", ["2", "0", '"1"', "1.0", "true", "null", f'"{"x" * 1000}"', None])
def test_an_unknown_version_of_the_file_is_refused(folder, version):
    rewrite(folder, version=version)
    assert_refused(folder, "version")


@pytest.mark.parametrize("name", ["other", None])
def test_another_kind_of_safetensors_file_is_refused(folder, name):
    rewrite(folder, key=name)
    assert_refused(folder, "not a ticket")
    save_file({"a": np.zeros(3)}, folder / LADDER_FILE)
    assert_refused(folder, "not a ticket")


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_an_unknown_version_of_the_config_is_refused(folder, version):
    values = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(values | {"format_version": version}))
    assert_refused(folder, "format")


# Payloads and shapes.


@pytest.mark.parametrize("method", [0, 1, 2, 3, 255])
def test_a_payload_that_grows_beyond_its_size_is_refused(folder, method):
    for data in (bytes(10_000_000), b"\xff" * 10_000_000, b"\x00" * 151, b"\x00" * 1201):
        rewrite(folder, {"000/0.weight": payload(method, data)})
        assert_refused(folder)


@pytest.mark.parametrize("data", [np.zeros(0, np.uint8), np.zeros(1, np.uint8), np.full(50, 255, np.uint8)])
@pytest.mark.parametrize("name", ["000/0.weight", "002/2.weight"])
def test_payloads_that_are_no_payloads_are_refused(folder, data, name):
    rewrite(folder, {name: data})
    assert_refused(folder)


@pytest.mark.parametrize(
    "tensor",
    [np.zeros(40, np.int8), np.zeros(40, np.float32), np.zeros((5, 8), np.uint8), np.zeros((), np.uint8), None],
)
def test_tensors_of_another_kind_are_refused(folder, tensor):
    rewrite(folder, {"000/0.weight": tensor})
    assert_refused(folder, LADDER_FILE)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F16", "BOOL", "I64"])
def test_tensor_types_that_numpy_may_not_know_are_refused(folder, dtype):
    path = folder / LADDER_FILE
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    size = {"BF16": 2, "F8_E4M3": 1, "F16": 2, "BOOL": 1, "I64": 8}[dtype]
    body = b""
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        entry |= {"dtype": dtype, "shape": [4], "data_offsets": [len(body), len(body) + 4 * size]}
        body += bytes(4 * size)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    assert_refused(folder, LADDER_FILE)


def test_an_unexpected_tensor_is_refused(folder):
    rewrite(folder, {"003/0.weight": np.zeros(4, np.uint8)})
    assert_refused(folder, "one payload for each layer and rung")


@pytest.mark.parametrize(
    "shape",
    [
        [10**12],
        [10**6, 10**6, 10**6],
        [2**63, 2**63],
        [10**4000],
        [30, 40, 1000],
        [0],
        [-30, -40],
        [-1],
        [1e400],
        [float("nan")],
        ["many"],
        None,
        5,
        {},
        [[30, 40]],
    ],
)
def test_impossible_shapes_are_refused(folder, shape):
    layers = metadata_of(folder)["layers"]
    layers["0.weight"] = shape
    rewrite(folder, layers=json.dumps(layers))
    assert_refused(folder)


@pytest.mark.parametrize("shape", [[40, 30], [1200], [30, 41], [29, 40], [30, 40, 1], []])
def test_shapes_that_are_not_the_models_are_refused(folder, shape):
    layers = metadata_of(folder)["layers"]
    layers["0.weight"] = shape
    rewrite(folder, layers=json.dumps(layers))
    assert_refused(folder)


def test_names_that_are_not_the_models_are_refused(tmp_path):
    other = nn.Sequential(nn.Sequential(nn.Linear(40, 30), nn.ReLU()), nn.Linear(30, 20))
    Ticket(prune(other, sparsity=0.5)).save_pretrained(tmp_path)
    assert_refused(tmp_path, r"0\.0\.weight")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rungs", "[]"),
        ("rungs", "{}"),
        ("rungs", "5"),
        ("rungs", "null"),
        ("rungs", "[1, 2, 3]"),
        ("rungs", '[{"kept": 5}]'),
        ("rungs", '[{"kept": Infinity, "digest": "a"}]'),
        ("rungs", '[{"kept": NaN, "digest": "a"}]'),
        ("rungs", '[{"kept": "few", "digest": "a"}]'),
        ("rungs", '[{"kept": -1, "digest": "a"}]'),
        ("rungs", '[{"kept": 100, "digest": "a"}, {"kept": 200, "digest": "b"}]'),
        ("rungs", '[{"kept": 99999, "digest": "a"}]'),
        ("rungs", "[" * 100_000),
        ("rungs", "not json"),
        ("rungs", None),
        ("layers", "{}"),
        ("layers", "[]"),
        ("layers", '{"a": {"b": 1}}'),
        ("layers", "[" * 100_000),
        ("layers", "not json"),
        ("layers", None),
    ],
)
def test_damaged_metadata_is_refused(folder, key, value):
    rewrite(folder, **{key: value})
    assert_refused(folder, LADDER_FILE)


# Provenance from strangers decides nothing but what to match.


@pytest.mark.parametrize(
    "pruning",
    [
        {"scope": "everything"},
        {"scope": 5},
        {"target_modules": 5},
        {"target_modules": "("},
        {"exclude_modules": [1]},
        {"target_modules": ["nowhere"]},
    ],
)
def test_a_scope_that_cannot_be_is_refused(folder, pruning):
    values = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(values | {"pruning": pruning}))
    assert_refused(folder)


@pytest.mark.parametrize("pruning", [{"criterion": "from the future"}, {"amount": "some"}, {"unheard_of": 1}])
def test_what_does_not_bear_on_the_scope_is_no_obstacle(folder, masks, pruning):
    values = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(values | {"pruning": pruning}))
    assert assert_refused_or_right(folder, masks)


def test_a_lazily_found_error_is_found_again(folder):
    """A ticket that failed once must not give a half-read mask the second time."""
    rungs = metadata_of(folder)["rungs"]
    rungs[2]["digest"] = "1" * 64
    rewrite(folder, rungs=json.dumps(rungs))
    ticket = Ticket.from_pretrained(folder)
    for _ in range(2):
        with pytest.raises(TicketFileError):
            assert ticket.mask
