"""Which pairs of a run count, and how much: the band of a window, the masks of chunks, `once`, dropout.

In a group, rows stand in time order, so a window is a band in sorted order and needs no positions (`docs/rule.md`,
identity 3). Chunks mix groups and times, and compare documents and tokens.
"""

import numpy as np

from reformer.ops.cpu.jit import kernel
from reformer.ops.cpu.products import ROWS
from reformer.ops.cpu.rows import QUERIES
from reformer.ops.cpu.simd import keep_by_mix, lanes, load, mix, store
from reformer.ops.cpu.tiles import HIGH, LOW


@kernel
def mask_pairs(scores, rows, run, key, count, query_tokens, key_tokens, queries, options, bounds):
    """Set the scores of pairs that are not offered to -inf, those of keys that only fill a block up too."""
    for x in range(count * QUERIES, (count + ROWS - 1) // ROWS * ROWS * QUERIES):
        scores[x] = -np.inf
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
    documents, tokens = np.empty(QUERIES, np.int32), np.empty(QUERIES, np.int32)
    for i in range(QUERIES):
        token = query_tokens[i] if i < queries else np.int32(-1)
        tokens[i], documents[i] = token, rows.document[token] if token >= 0 else -2
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
    n, rounds = np.int64(rows.tokens.size), options.rounds
    places, groups = np.empty((rounds, QUERIES), np.int32), np.empty((rounds, QUERIES), np.int32)
    unit = 1 if options.window >= 0 else options.chunk  # places go by rows in a band, else by chunks
    for i in range(QUERIES):
        for one in range(rounds):
            if i < queries:
                name = rows.names[rows.runs[run, 0] + i]
                places[one, i], groups[one, i] = rows.place[one, name] // unit, rows.group[one, name]
            else:
                places[one, i], groups[one, i] = 0, -2
    offers = np.empty(QUERIES, np.int32)
    for j in range(count):
        name = rows.names[(rows.runs[run, 2] + key + j) % n]
        for i in range(QUERIES):
            offers[i] = 0
        for one in range(rounds):
            if options.window >= 0:
                _count_band(places[one], groups[one], rows.place[one, name], rows.group[one, name], options, offers)
            else:
                for two in range(rounds):
                    _count_slots(places[one], rows.place[two, name] // unit, np.int32(n // unit), options, offers)
        for i in range(QUERIES):
            scores[j * QUERIES + i] /= max(offers[i], np.int32(1))


@kernel
def _count_band(places, groups, place, group, options, offers):
    """Add 1 where the key stands in the query's group of a round, within the window."""
    window = np.int32(options.window)
    for i in range(QUERIES):
        distance = places[i] - place
        offers[i] += (groups[i] == group) & (distance <= window) & (distance >= -window)


@kernel
def _count_slots(query_chunks, key_chunk, chunks, options, offers):
    """Add how many slots of queries in chunks of the ring show a key in another chunk."""
    before = options.before // options.chunk
    seen, ahead = np.int32(before + options.after // options.chunk + 1), np.int32(key_chunk + before)
    if chunks >= seen:
        for i in range(QUERIES):
            behind = ahead - query_chunks[i]
            behind = behind + chunks if behind < 0 else behind
            behind = behind - chunks if behind >= chunks else behind
            offers[i] += behind < seen
    else:  # a short ring shows a chunk in several slots
        for i in range(QUERIES):
            behind = (ahead - query_chunks[i]) % chunks
            offers[i] += max(seen - behind + chunks - 1, 0) // chunks


@kernel
def drop_pairs(scores, rows, run, key, count, query_tokens, key_tokens, queries, options, bounds):
    """Zeros in place of the pairs that dropout takes away: `reformer.ops.dropout`, a vector of queries at a time."""
    streams = np.empty(QUERIES, np.uint32)
    hash_round = 0 if options.once else rows.runs[run, 4]
    for i in range(QUERIES):
        token = query_tokens[i] if i < queries else np.int32(0)
        streams[i] = mix(mix(np.uint32(options.stream) ^ np.uint32(hash_round)) ^ np.uint32(token))
    n = lanes(scores)
    for j in range(count):
        slot = 0 if options.once or options.window >= 0 else (key + j) // options.chunk
        stream = np.uint32(np.uint32(key_tokens[j]) * np.uint32(0x9E3779B1) + np.uint32(slot) * np.uint32(0x85EBCA77))
        for i in range(bounds[LOW, j // ROWS], bounds[HIGH, j // ROWS], n):
            at = j * QUERIES + i
            store(keep_by_mix(load(scores, at), streams, i, stream, np.int32(options.threshold)), scores, at)
