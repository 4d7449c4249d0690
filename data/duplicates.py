"""Which clips are the same: by their bytes, or by how they look.

Enters: the fingerprints of all clips. Leaves: groups of clips.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from . import frames

#: Two clips look alike if at most this many of the 1,024 bits of their fingerprints differ. Among 60
#: synthetic clips the smallest distance was 131; from a clip to its copy as H.264 it was at most 55, and
#: 43 (median) to 103 at about half the size. docs/how-to/check-data.md has the table.
ALIKE_BITS = 80
#: Clips that are compared with all others at once; bounds the memory.
_ROWS = 64


def groups(looks: Sequence[frames.Inspection]) -> list[list[int]]:
    """Returns the connected groups, of two clips or more, of clips with equal bytes or similar frames."""
    first: dict[bytes, int] = {}
    edges = [(first.setdefault(look.digest, i), i) for i, look in enumerate(looks)]
    places = [i for i, look in enumerate(looks) if look.fingerprint]
    prints = b"".join(looks[i].fingerprint for i in places)
    words = np.frombuffer(prints, np.uint64).reshape(len(places), frames.FINGERPRINT_BYTES // 8)
    edges += [(places[i], places[j]) for i, j, _ in alike(words)]
    rows, columns = np.array(edges, int).reshape(-1, 2).T
    graph = sparse.coo_array((np.ones(len(edges)), (rows, columns)), shape=(len(looks),) * 2)
    found: dict[int, list[int]] = {}
    for i, group in enumerate(csgraph.connected_components(graph)[1].tolist()):
        found.setdefault(group, []).append(i)
    return [group for group in found.values() if len(group) > 1]


def alike(
    fingerprints_NW: np.ndarray, max_bits: int = ALIKE_BITS
) -> Iterator[tuple[int, int, int]]:
    """Yields i < j and the number of bits in which their fingerprints differ, if at most max_bits.

    Args:
      fingerprints_NW: uint64 [N, W].
      max_bits: largest number of differing bits.
    """
    for start in range(0, len(fingerprints_NW), _ROWS):
        rows = fingerprints_NW[start : start + _ROWS]
        differing = np.bitwise_count(rows[:, None] ^ fingerprints_NW[None, start:]).sum(axis=-1)
        for i, j in zip(*np.nonzero(differing <= max_bits), strict=True):
            if i < j:
                yield start + int(i), start + int(j), int(differing[i, j])
