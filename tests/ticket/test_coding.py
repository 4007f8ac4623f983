"""The entropy coder: exact, near the entropy bound, and safe with bytes and counts from strangers."""

import contextlib
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from hf_tickets.errors import TicketFileError
from hf_tickets.ticket.coding import MAXIMUM_EXPANSION, decode, encode

BERT_LAYER = 768 * 768


def independent_bits(count, kept, seed=0):
    return np.random.default_rng(seed).random(count) < kept


def bound_in_bytes(bits):
    kept = bits.mean()
    return len(bits) * entropy([kept, 1 - kept], base=2) / 8


def raw_deflate(data, strategy=zlib.Z_DEFAULT_STRATEGY):
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
    return compressor.compress(data) + compressor.flush()


def read_entry_by_entry(payload, count):
    """The format as its description says it, without numpy and without checks."""
    symbols = zlib.decompress(payload[1:], -15)
    if payload[0] == 0:
        return [bool(symbols[place // 8] >> (7 - place % 8) & 1) for place in range(count)]
    rare = payload[0] == 1
    bits = []
    for symbol in symbols:
        bits += [not rare] * symbol
        if symbol < 255:
            bits.append(rare)
    return bits[:-1]


runs = st.lists(st.tuples(st.booleans(), st.integers(1, 2000)), max_size=12).map(
    lambda parts: np.repeat([value for value, _ in parts], [length for _, length in parts]).astype(bool)
)
bernoulli = st.builds(
    independent_bits,
    st.integers(0, 5000),
    st.sampled_from([0, 0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 0.93, 0.99, 0.999, 1]),
    st.integers(0, 2**32),
)
short = st.lists(st.booleans(), max_size=40).map(lambda values: np.array(values, dtype=bool))


@given(st.one_of(runs, bernoulli, short))
def test_every_mask_comes_back(bits):
    payload = encode(bits)
    decoded = decode(payload, len(bits))
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, bits)
    np.testing.assert_array_equal(decode(memoryview(payload), len(bits)), bits)


@given(st.one_of(runs, bernoulli, short))
def test_payloads_follow_the_written_format(bits):
    assert read_entry_by_entry(encode(bits), len(bits)) == bits.tolist()


@given(st.one_of(runs, bernoulli, short))
def test_no_payload_stands_for_more_entries_than_the_stated_maximum(bits):
    assert len(bits) <= MAXIMUM_EXPANSION * len(encode(bits))


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("count", [0, 1, 254, 255, 256, 509, 510, 511, 100_000, 3_000_001])
def test_a_layer_all_of_one_value_comes_back_from_one_bit_for_255_entries(kept, count):
    bits = np.full(count, kept)
    payload = encode(bits)
    np.testing.assert_array_equal(decode(payload, count), bits)
    assert count <= MAXIMUM_EXPANSION * len(payload)
    assert len(payload) <= count / 255 / 8 + 32


@pytest.mark.parametrize(
    "kept",
    [
        *(0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.08, 0.082, 0.085, 0.09, 0.1, 0.15, 0.2, 0.3, 0.4),
        *(0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.91, 0.918, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995),
    ],
)
@pytest.mark.parametrize(("count", "constant"), [(500, 80), (20_000, 120), (BERT_LAYER, 0)])
def test_independent_entries_take_at_most_five_percent_more_than_their_entropy(kept, count, constant):
    bits = independent_bits(count, kept)
    assert len(encode(bits)) <= 1.05 * bound_in_bytes(bits) + constant


def uneven_rows(kept, seed):
    generator = np.random.default_rng(seed)
    densities = generator.beta(2 * kept, 2 * (1 - kept), size=(768, 1))
    return (generator.random((768, 768)) < densities).ravel()


def alternating_blocks(kept, seed):
    generator = np.random.default_rng(seed)
    densities = np.where(np.arange(768) // 8 % 2, min(1, 2 * kept), max(0, 2 * kept - 1))
    return (generator.random((768, 768)) < densities).ravel()


@pytest.mark.parametrize("kept", [0.01, 0.05, 0.09, 0.2, 0.5, 0.8, 0.91, 0.95, 0.99])
@pytest.mark.parametrize("layer", [uneven_rows, alternating_blocks])
def test_uneven_layers_take_no_more_than_even_ones(layer, kept):
    bits = layer(kept, seed=1)
    assert len(encode(bits)) <= 1.05 * bound_in_bytes(bits)
    assert len(encode(bits)) <= 1.01 * len(bits) / 8


@pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.98, 1])
def test_another_count_is_refused(kept):
    payload = encode(independent_bits(4000, kept))
    for count in (-1, 0, 1, 8, 3992, 4001, 4255, 8000, 4000 * 255):
        with pytest.raises(TicketFileError):
            decode(payload, count)


@pytest.mark.parametrize("kept", [0, 0.02, 0.98, 1])
def test_counts_one_off_are_refused_by_gaps(kept):
    payload = encode(independent_bits(4000, kept))
    for count in (3999, 4001):
        with pytest.raises(TicketFileError, match="gaps"):
            decode(payload, count)


@pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.98, 1])
def test_a_payload_cut_anywhere_or_followed_by_anything_is_refused(kept):
    bits = independent_bits(3000, kept)
    payload = encode(bits)
    for length in range(len(payload)):
        with pytest.raises(TicketFileError):
            decode(payload[:length], 3000)
    for tail in (b"\0", b"\xff", payload):
        with pytest.raises(TicketFileError):
            decode(payload + tail, 3000)


def test_an_unknown_method_is_refused():
    with pytest.raises(TicketFileError, match="method 3"):
        decode(b"\x03" + encode(np.ones(8, dtype=bool))[1:], 8)


def test_set_padding_bits_are_refused():
    assert decode(b"\0" + raw_deflate(b"\xff\xe0"), 11).all()
    with pytest.raises(TicketFileError, match="padding"):
        decode(b"\0" + raw_deflate(b"\xff\xf0"), 11)


@pytest.mark.parametrize("method", [1, 2])
def test_gaps_that_do_not_end_at_the_count_are_refused(method):
    def payload(*symbols):
        return bytes([method]) + raw_deflate(bytes(symbols), zlib.Z_HUFFMAN_ONLY)

    rare = method == 1
    np.testing.assert_array_equal(decode(payload(2, 1), 4) == rare, [False, False, True, False])
    assert len(decode(payload(255, 0, 3), 259)) == 259
    unfinished, short, long = ((), 0), ((3,), 4), ((4, 0), 4)
    ends_in_escape = ((255,), 254)
    for symbols, count in (unfinished, short, long, ends_in_escape, ((255, 255), 509), ((255, 0, 3), 260)):
        with pytest.raises(TicketFileError, match="gaps"):
            decode(payload(*symbols), count)


@given(st.binary(max_size=200), st.integers(-10, 10_000))
def test_random_bytes_give_a_mask_of_that_count_or_the_library_s_error(payload, count):
    try:
        bits = decode(payload, count)
    except TicketFileError:
        return
    assert bits.dtype == np.bool_
    assert bits.shape == (count,)


@given(st.sampled_from([0.01, 0.5, 0.99]), st.data())
def test_a_changed_byte_gives_a_mask_of_that_count_or_the_library_s_error(kept, data):
    payload = bytearray(encode(independent_bits(2000, kept)))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(TicketFileError):
        assert decode(bytes(payload), 2000).shape == (2000,)


def peak_memory_of_refusal(payload, count):
    tracemalloc.start()
    try:
        with pytest.raises(TicketFileError):
            decode(payload, count)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.98, 1])
@pytest.mark.parametrize("factor", [2, 250, MAXIMUM_EXPANSION, MAXIMUM_EXPANSION + 1, 10**12])
def test_a_hostile_count_is_refused_before_the_mask_is_allocated(kept, factor):
    payload = encode(independent_bits(50_000, kept))
    assert peak_memory_of_refusal(payload, max(50_001, factor * len(payload))) <= 100 * len(payload) + 100_000


@pytest.mark.parametrize("method", [0, 1, 2])
@pytest.mark.parametrize("symbol", [b"\0", b"\x80", b"\xff"])
def test_a_deflate_bomb_is_refused_in_little_memory(method, symbol):
    """Matches, which the coder never writes, would give a thousand bytes for one."""
    payload = bytes([method]) + raw_deflate(50_000_000 * symbol)
    assert len(payload) < 100_000
    for count in (10_000, 8 * len(payload), MAXIMUM_EXPANSION * len(payload)):
        assert peak_memory_of_refusal(payload, count) <= 100 * len(payload) + 100_000


@pytest.mark.parametrize("method", [1, 2])
def test_the_most_gaps_that_huffman_codes_can_give_stay_in_bounded_memory(method):
    payload = bytes([method]) + raw_deflate(bytes(4_000_000), zlib.Z_HUFFMAN_ONLY)
    assert 7 * len(payload) < 4_000_000
    assert peak_memory_of_refusal(payload, 4_000_001) <= 100 * len(payload) + 100_000
