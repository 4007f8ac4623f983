"""The entropy coder of masks: bool arrays to bytes close to their entropy, and back.

A payload is one method byte and one raw deflate stream of literals without matches (Huffman codes only):

- ``PACKED``: eight entries a byte, the first in the highest bit, the last byte padded with zero bits;
- ``KEPT_GAPS``, ``PRUNED_GAPS``: the places of the kept (pruned) entries, each as the number of other entries
  before it; the last gap ends at the end of the mask. A byte below 255 ends a gap; the byte 255 stands for
  255 other entries, and the gap goes on.

Independent entries are the worst case: of all gaps with one mean the geometric ones have the highest entropy,
and of all bytes with one share of set bits those with independent bits. So a mask whose rows or blocks differ
in density takes no more bytes than an even one.
"""

import zlib

import numpy as np
import numpy.typing as npt

from hf_tickets.errors import TicketFileError

PACKED, KEPT_GAPS, PRUNED_GAPS = range(3)
ESCAPE = 255

# Of the rarer value. With less, packed bytes are nearly all equal and still take a bit each; with more, there
# are so many gaps that packed bytes are faster. From 7 to 30 % both are within 2 % of the entropy.
LEAST_SHARE_PACKED = 1 / 12

# A Huffman code is at least one bit, and its byte covers at most 255 entries.
SYMBOLS_PER_PAYLOAD_BYTE = 8
MAXIMUM_EXPANSION = ESCAPE * SYMBOLS_PER_PAYLOAD_BYTE

RAW_DEFLATE = -zlib.MAX_WBITS
# The largest blocks (32,768 symbols): the fewest code tables.
MEMORY_LEVEL = 9


def encode(bits: npt.NDArray[np.bool_]) -> bytes:
    """Code a mask in at most 1.05 times its entropy, n · H(share kept) / 8 bytes, and about 100 bytes.

    A mask (nearly) all of one value takes one bit for 255 entries: ``len(bits)`` is never above
    ``MAXIMUM_EXPANSION`` times the length of the payload.

    Args:
        bits: bool array of shape (n,), True = kept.

    Returns:
        The payload that ``decode`` reads, given ``len(bits)``.
    """
    kept = int(np.count_nonzero(bits))
    pruned = len(bits) - kept
    if min(kept, pruned) >= LEAST_SHARE_PACKED * len(bits):
        return bytes([PACKED]) + _deflate(np.packbits(bits))
    if kept < pruned:
        return bytes([KEPT_GAPS]) + _deflate(_gaps(bits))
    return bytes([PRUNED_GAPS]) + _deflate(_gaps(~bits))


def decode(payload: bytes | memoryview, count: int) -> npt.NDArray[np.bool_]:
    """Read a mask that ``encode`` wrote; safe for payloads and counts from strangers.

    The mask is allocated only when the payload is known to hold exactly ``count`` entries. Until then memory
    is at most about 100 bytes for each byte of the payload.

    Args:
        payload: the bytes, or a contiguous memory view of unsigned bytes.
        count: number of entries that the mask must have.

    Returns:
        Bool array of shape (count,), True = kept.

    Raises:
        TicketFileError: the payload is damaged, or does not hold ``count`` entries.
    """
    if not 0 <= count <= MAXIMUM_EXPANSION * len(payload) or len(payload) == 0:
        raise _damaged(f"{len(payload)} bytes cannot hold {count} entries")
    method, stream = payload[0], memoryview(payload)[1:]
    if method == PACKED:
        return _unpack(stream, count)
    if method in (KEPT_GAPS, PRUNED_GAPS):
        return _fill(stream, count, rare=method == KEPT_GAPS)
    raise _damaged(f"unknown coding method {method}")


def _gaps(rare: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """The bytes of the gaps before each True entry and before the end."""
    places = np.append(np.flatnonzero(rare), len(rare))
    escapes, remainders = np.divmod(np.diff(places, prepend=-1) - 1, ESCAPE)
    ends = np.cumsum(escapes + 1)
    symbols = np.full(ends[-1], ESCAPE, dtype=np.uint8)
    symbols[ends - 1] = remainders
    return symbols


def _unpack(stream: memoryview, count: int) -> npt.NDArray[np.bool_]:
    size = -(-count // 8)
    packed = np.frombuffer(_inflate(stream, size), dtype=np.uint8)
    if len(packed) != size:
        raise _damaged(f"{len(packed)} packed bytes where {count} entries take {size}")
    padding = 8 * size - count
    if padding and packed[-1] & ((1 << padding) - 1):
        raise _damaged("padding bits are not zero")
    return np.unpackbits(packed, count=count).view(np.bool_)


def _fill(stream: memoryview, count: int, rare: bool) -> npt.NDArray[np.bool_]:
    symbols = np.frombuffer(_inflate(stream, count + 1), dtype=np.uint8)
    escaped = symbols == ESCAPE
    # The byte that ends a gap also covers the rare entry after it; an escape covers its 255 entries alone.
    places = (symbols + ~escaped).astype(np.intp)
    np.cumsum(places, out=places)
    places -= 1
    if len(places) == 0 or escaped[-1] or places[-1] != count:
        raise _damaged(f"its gaps do not end after {count} entries")
    bits = np.full(count, not rare)
    bits[places[:-1]] = escaped[:-1] != rare
    return bits


def _deflate(symbols: npt.NDArray[np.uint8]) -> bytes:
    compressor = zlib.compressobj(zlib.Z_BEST_SPEED, zlib.DEFLATED, RAW_DEFLATE, MEMORY_LEVEL, zlib.Z_HUFFMAN_ONLY)
    return compressor.compress(symbols.data) + compressor.flush()


def _inflate(stream: memoryview, most: int) -> bytes:
    """The whole stream, of at most ``most`` bytes and of no more than Huffman codes alone can give."""
    most = min(most, SYMBOLS_PER_PAYLOAD_BYTE * len(stream))
    decompressor = zlib.decompressobj(RAW_DEFLATE)
    try:
        # Room for one byte more tells a stream that is too long from one that ends in time.
        symbols = decompressor.decompress(stream, most + 1)
    except zlib.error as error:
        raise _damaged(str(error)) from error
    if len(symbols) > most:
        raise _damaged("it decompresses beyond its declared size")
    if not decompressor.eof:
        raise _damaged("it is cut short")
    if decompressor.unused_data:
        raise _damaged("bytes follow its end")
    return symbols


def _damaged(what: str) -> TicketFileError:
    return TicketFileError(f"the data of a mask is damaged ({what}); download or save the ticket again")
