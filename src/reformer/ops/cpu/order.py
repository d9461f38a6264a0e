"""Sorted rows of one (batch, head), and the runs that attend over them.

Rows of `rule="bucket"` are laid out document by document and octave by octave, each with all tokens of the document
up to the octave's end in time order; the place of a row in that layout is its name. A counting sort by bucket keeps
time order, and of the rows that are keys only it keeps a bucket's last `window`.
"""

import numpy as np

from reformer.ops.cpu.jit import entry_kernel, kernel
from reformer.ops.cpu.rows import QUERIES


@kernel
def octave_of(rank, bucket_size, last_octave):
    """`Octaves.octave_of`."""
    octave, quotient = np.int64(0), rank // bucket_size
    while quotient and octave < last_octave:
        quotient >>= 1
        octave += 1
    return octave


@kernel
def octave_rows(octave, last, length, bucket_size):
    """Rows of a document in one octave: its tokens up to the octave's end."""
    return length if octave == last else min(bucket_size << octave, length)


@entry_kernel
def documents_of(document):
    """Slots of real tokens in order, and where in them each document starts (and the last one ends)."""
    slots = np.empty(document.size, np.int32)
    starts = np.empty(document.size + 1, np.int64)
    count, documents, previous = 0, 0, -1
    for t in range(document.size):
        if document[t] < 0:
            continue
        if document[t] != previous:
            starts[documents] = count
            documents += 1
            previous = document[t]
        slots[count] = t
        count += 1
    starts[documents] = count
    return slots[:count], starts[: documents + 1]


@entry_kernel
def successors_of(document):
    """The slot of the token behind each in its document, -1 for the last and for padding."""
    out, behind = np.empty(document.size, np.int32), np.int64(-1)
    for t in range(document.size - 1, -1, -1):
        out[t] = -1
        if document[t] < 0:
            continue
        if behind >= 0 and document[behind] == document[t]:
            out[t] = behind
        behind = t
    return out


@entry_kernel
def count_rows(starts, bucket_size, last_octave, causal):
    """Rows of a sequence in all octaves of all documents."""
    rows = np.int64(0)
    for d in range(starts.size - 1):
        length = starts[d + 1] - starts[d]
        last = octave_of(length - 1, bucket_size, last_octave)
        for octave in range(0 if causal else last, last + 1):
            rows += octave_rows(octave, last, length, bucket_size)
    return rows


@kernel
def _add_runs(runs, count, start, first_query, end, window, causal, include_self, hash_round, pass_number):
    """The runs of one group, rows [start, end) of which those from `first_query` on are queries."""
    for query in range(first_query, end, QUERIES):
        query_end = min(query + QUERIES, end)
        key = max(start, query - window)
        key_end = query_end - 1 + include_self if causal else min(end, query_end + window)
        if key < key_end:
            runs[count, 0], runs[count, 1], runs[count, 2], runs[count, 3] = query, query_end, key, key_end
            runs[count, 4], runs[count, 5] = hash_round, pass_number
            count += 1
    return count


@entry_kernel
def sort_buckets(buckets, slots, starts, bucket_size, last_octave, causal, window, once):
    """Sort the rows of every round by (document, octave, bucket, time).

    Returns tokens and names of the sorted rows, runs, and for `once` the place and the group of each name.
    """
    rounds, n = buckets.shape
    tokens, names = np.empty(rounds * n, np.int32), np.empty(rounds * n if once else 0, np.int32)
    place, group = np.empty((rounds, n if once else 0), np.int32), np.empty((rounds, n if once else 0), np.int32)
    for i in range(rounds):
        for row in range(n if once else 0):
            place[i, row], group[i, row] = -1, -1
    highest, most_groups = np.int64(0), np.int64(0)
    for d in range(starts.size - 1):
        last = octave_of(starts[d + 1] - starts[d] - 1, bucket_size, last_octave)
        highest, most_groups = max(highest, last), most_groups + (2 << last)
    runs = np.empty((rounds * (slots.size // QUERIES + min(most_groups, slots.size) + 1), 6), np.int32)
    seen, end = np.empty(1 << highest, np.int64), np.empty(1 << highest, np.int64)
    filled, n_runs, groups = np.int64(0), np.int64(0), np.int32(0)
    for i in range(rounds):
        base = np.int64(0)
        for d in range(starts.size - 1):
            length = starts[d + 1] - starts[d]
            last = octave_of(length - 1, bucket_size, last_octave)
            for octave in range(0 if causal else last, last + 1):
                count = octave_rows(octave, last, length, bucket_size)
                only_keys = bucket_size << octave >> 1 if causal and octave else 0
                for bucket in range(1 << octave):
                    seen[bucket], end[bucket] = 0, 0
                for row in range(only_keys):
                    seen[buckets[i, base + row]] += 1
                for row in range(only_keys, count):
                    end[buckets[i, base + row]] += 1
                for bucket in range(1 << octave):
                    kept, queries = min(seen[bucket], window), end[bucket]
                    n_runs = _add_runs(
                        runs, n_runs, filled, filled + kept, filled + kept + queries, window, causal, np.int64(0), i,
                        octave * rounds + i,
                    )  # fmt: skip
                    end[bucket] = filled - max(seen[bucket] - window, 0)  # where its first row would stand, untrimmed
                    seen[bucket] = filled
                    filled += kept + queries
                for row in range(count):
                    bucket = buckets[i, base + row]
                    at = end[bucket]
                    end[bucket] += 1
                    if at >= seen[bucket]:
                        tokens[at] = slots[starts[d] + row]
                        if once:
                            names[at], place[i, base + row], group[i, base + row] = base + row, at, groups + bucket
                groups += 1 << octave
                base += count
    return tokens[:filled], names[:filled], runs[:n_runs], place, group


@entry_kernel
def sort_chunks(buckets, document, chunk, before, after, once):
    """Sort the tokens of every round by (document, bucket, time), padding last, and cut them into chunks on a ring."""
    rounds, length = buckets.shape
    n = (length + chunk - 1) // chunk * chunk
    slots, starts = documents_of(document)
    tokens, names = np.full(rounds * n, -1, np.int32), np.full(rounds * n if once else 0, 0, np.int32)
    place = np.zeros((rounds, n if once else 0), np.int32)
    most = np.int64(0)
    for i in range(rounds):
        for t in range(length):
            most = max(most, np.int64(buckets[i, t]))
    next_place = np.empty(most + 2, np.int64)
    for i in range(rounds):
        filled = i * n
        for d in range(starts.size - 1):
            next_place[:] = 0
            for s in range(starts[d], starts[d + 1]):
                next_place[np.int64(buckets[i, slots[s]]) + 1] += 1
            next_place[0] = filled
            for bucket in range(most + 1):
                next_place[bucket + 1] += next_place[bucket]
            filled = next_place[most + 1]
            for s in range(starts[d], starts[d + 1]):
                bucket = np.int64(buckets[i, slots[s]])
                tokens[next_place[bucket]] = slots[s]
                if once:
                    names[next_place[bucket]], place[i, slots[s]] = slots[s], next_place[bucket]
                next_place[bucket] += 1
    return tokens, names, chunk_runs(rounds, n, chunk, before, after), place


@kernel
def chunk_runs(rounds, n, chunk, before, after):
    """The runs of chunks of rows: every chunk's queries with the keys of the chunks around it, on a ring."""
    runs = np.empty((rounds * (n // chunk) * ((chunk + QUERIES - 1) // QUERIES), 6), np.int32)
    ring, count = rounds * n, 0
    for start in range(0, ring, chunk):
        for query in range(start, start + chunk, QUERIES):
            runs[count, 0], runs[count, 1] = query, min(query + QUERIES, start + chunk)
            runs[count, 2] = (start - before) % ring
            runs[count, 3] = runs[count, 2] + before + chunk + after
            place = start % n
            runs[count, 4] = start // n
            runs[count, 5] = 3 * runs[count, 4] + (0 if place < before else 2 if place + chunk + after > n else 1)
            count += 1
    return runs


@entry_kernel
def window_rows(document, window, causal):
    """Rows and runs of local attention by windows: documents are groups, in time order."""
    slots, starts = documents_of(document)
    runs, count = np.empty((document.size // QUERIES + starts.size, 6), np.int32), np.int64(0)
    zero, one = np.int64(0), np.int64(1)
    for d in range(starts.size - 1):
        count = _add_runs(runs, count, starts[d], starts[d], starts[d + 1], window, causal, one, zero, zero)
    return slots, runs[:count]


@entry_kernel
def local_chunk_rows(document, chunk, before, after):
    """Rows and runs of local attention by chunks: slots where they stand, padding nobody."""
    n = (document.size + chunk - 1) // chunk * chunk
    tokens = np.full(n, -1, np.int32)
    for t in range(document.size):
        tokens[t] = t if document[t] >= 0 else -1
    return tokens, chunk_runs(1, n, chunk, before, after)
