"""Which pairs of a run count, and how much: the band of a window, the masks of chunks, `once`, dropout.

In a group, rows stand in time order, so a window is a band in sorted order and needs no positions (design, section 2,
identity 3). Chunks mix groups and times, and compare documents and tokens.
"""

import numpy as np

from reformer.ops.cpu.jit import kernel
from reformer.ops.cpu.products import ROWS
from reformer.ops.cpu.rows import QUERIES
from reformer.ops.cpu.tiles import HIGH, LOW


@kernel
def mask_pairs(scores, rows, run, key, count, query_tokens, key_tokens, queries, options, bounds):
    """Set the scores of pairs that are not offered to -inf, those of keys that only fill a block up too."""
    scores[count * QUERIES : (count + ROWS - 1) // ROWS * ROWS * QUERIES] = -np.inf
    if options.window >= 0:
        _mask_band(scores, rows, run, key, count, queries, options, bounds)
    else:
        _mask_chunk(scores, rows, count, query_tokens, key_tokens, queries, options)


@kernel
def _mask_band(scores, rows, run, key, count, queries, options, bounds):
    behind = np.int64(rows.runs[run, 2]) + key - np.int64(rows.runs[run, 0])
    outside = scores.dtype.type(-np.inf)
    for j in range(count):
        first, last, at = bounds[LOW, j // ROWS], bounds[HIGH, j // ROWS], j * QUERIES
        seen_from = behind + j + 1 - options.include_self if options.causal else behind + j - options.window
        for i in range(first, min(seen_from, last)):
            scores[at + i] = outside
        for i in range(max(behind + j + options.window + 1, first), last):
            scores[at + i] = outside
        if not options.include_self and first <= behind + j < last:
            scores[at + behind + j] = outside


@kernel
def _mask_chunk(scores, rows, count, query_tokens, key_tokens, queries, options):
    outside = scores.dtype.type(-np.inf)
    documents = np.empty(QUERIES, np.int32)
    tokens = np.empty(QUERIES, np.int32)
    for i in range(queries):
        tokens[i] = query_tokens[i]
        documents[i] = rows.document[query_tokens[i]] if query_tokens[i] >= 0 else -2
    tokens[queries:], documents[queries:] = -1, -2
    for j in range(count):
        token = np.int32(key_tokens[j])
        document = rows.document[token] if token >= 0 else np.int32(-1)
        for i in range(QUERIES):
            together = documents[i] == document
            if options.causal:
                together &= (token < tokens[i]) | ((options.include_self != 0) & (token == tokens[i]))
            else:
                together &= (options.include_self != 0) | (token != tokens[i])
            scores[j * QUERIES + i] = scores[j * QUERIES + i] if together else outside


@kernel
def share_of_offers(scores, rows, run, key, count, queries, options):
    """Divide every score by how often its pair is offered in all, over all rounds and slots (`once`)."""
    n = rows.tokens.size
    for j in range(count):
        key_name = rows.names[(rows.runs[run, 2] + key + j) % n]
        for i in range(queries):
            query_name = rows.names[rows.runs[run, 0] + i]
            offers = 0
            for one in range(options.rounds):
                at = np.int64(rows.place[one, query_name])
                if options.window >= 0:
                    distance = abs(at - np.int64(rows.place[one, key_name]))
                    same = rows.group[one, query_name] == rows.group[one, key_name] and rows.group[one, key_name] >= 0
                    offers += same and distance <= options.window
                else:
                    for two in range(options.rounds):
                        offers += _slots(at, np.int64(rows.place[two, key_name]), n, options)
            scores[j * QUERIES + i] /= max(offers, 1)


@kernel
def _slots(query, key, n, options):
    """How many slots of a query at one place of the ring of chunks show the key at another."""
    chunks, seen = n // options.chunk, (options.before + options.after) // options.chunk + 1
    behind = (key // options.chunk - query // options.chunk + options.before // options.chunk) % chunks
    return max(seen - behind + chunks - 1, 0) // chunks


@kernel
def mix(x):
    """A bijection of 32 bits with full avalanche; `reformer.ops.dropout` in numba."""
    x = np.uint32(x)
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@kernel
def drop_pairs(scores, rows, run, key, count, query_tokens, key_tokens, queries, options, bounds):
    """Zeros in place of the pairs that dropout takes away."""
    streams = np.zeros(QUERIES, np.uint32)
    hash_round = 0 if options.once else rows.runs[run, 4]
    for i in range(queries):
        streams[i] = mix(mix(np.uint32(options.stream) ^ np.uint32(hash_round)) ^ np.uint32(query_tokens[i]))
    threshold = np.int32(options.threshold)
    for j in range(count):
        slot = 0 if options.once or options.window >= 0 else (key + j) // options.chunk
        stream = np.uint32(np.uint32(key_tokens[j]) * np.uint32(0x9E3779B1) + np.uint32(slot) * np.uint32(0x85EBCA77))
        for i in range(bounds[LOW, j // ROWS], bounds[HIGH, j // ROWS]):
            dropped = np.int32(mix(streams[i] ^ stream)) < threshold
            scores[j * QUERIES + i] = 0 if dropped else scores[j * QUERIES + i]
