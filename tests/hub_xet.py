"""The storage behind the test Hub's Xet side: xorbs and shards come in, files go out.

Written from the Xet protocol's specification (huggingface.co/docs/xet) and from what hf_xet 1.8 asks:

    POST /v1/xorb-grants/default/XORB          {length, checksum} -> 201 {id, method, url, headers}; 200: already there
    PUT  the grant's url                       the xorb: for each chunk a header of 8 bytes and its data
    POST /v1/xorb-commits/default/XORB/grant/ID
    POST /v2/shards                            which chunks of which xorbs make which file -> {"type": "result"}
    GET  /v2/reconstructions/FILE              the same, for a download; the client then fetches ranges of the xorbs
    GET  /v1/chunks/default/CHUNK              404: no deduplication against other repositories

A hash is written as four little-endian numbers of 64 bits, each in hexadecimal.
"""

import hashlib
import itertools
import json
import struct

ENTRY = 48  # bytes: every header and entry of a shard
VERIFIED, WITH_SHA256 = 1 << 31, 1 << 30


def hexadecimal(digest):
    return "".join(f"{part:016x}" for part in struct.unpack("<4Q", digest))


class Cas:
    """Files by their Xet hash and their sha256. Not thread-safe: the Hub holds its lock."""

    def __init__(self):
        self.xorbs = {}  # hash -> bytes
        self.granted = {}  # grant id -> (hash, length)
        self.received = {}  # grant id -> bytes
        self.files = {}  # hash -> [(xorb, unpacked bytes, first chunk, chunk after the last), ...]
        self.by_sha256 = {}  # sha256 -> hash
        self.numbers = itertools.count(1)

    def grant(self, xorb, length):
        """The id of a permission to send a xorb, or None when it is there already."""
        if xorb in self.xorbs:
            return None
        number = f"grant-{next(self.numbers)}"
        self.granted[number] = (xorb, length)
        return number

    def receive(self, number, content):
        """A xorb under its grant: whether it has the length that was promised."""
        if len(content) != self.granted[number][1]:
            return False
        self.received[number] = content
        return True

    def commit(self, xorb, number):
        """Whether the xorb of a grant has arrived, and is kept now."""
        if self.granted.get(number, ("",))[0] != xorb or number not in self.received:
            return False
        self.xorbs[xorb] = self.received[number]
        return True

    def add_shard(self, shard):
        """Keep the files that a shard describes; ValueError when one is not what its sha256 says."""
        position = ENTRY  # the shard's own header
        while (digest := shard[position : position + 32]) != b"\xff" * 32:
            flags, count = struct.unpack_from("<II", shard, position + 32)
            position += ENTRY
            terms = []
            for _ in range(count):
                unpacked, first, after = struct.unpack_from("<III", shard, position + 36)
                terms.append((hexadecimal(shard[position : position + 32]), unpacked, first, after))
                position += ENTRY
            position += ENTRY * count * bool(flags & VERIFIED)
            file = hexadecimal(digest)
            self.files[file] = terms
            if flags & WITH_SHA256:
                sha256 = hexadecimal(shard[position : position + 32])
                position += ENTRY
                if hashlib.sha256(self.content(file)).hexdigest() != sha256:
                    raise ValueError(f"{file} is not {sha256}")
                self.by_sha256[sha256] = file

    def content(self, file):
        """The bytes of a file."""
        return b"".join(
            unpacked(kind, data, size)
            for xorb, _, first, after in self.files[file]
            for _, kind, data, size in list(chunks(self.xorbs[xorb]))[first:after]
        )

    def reconstruction(self, file, url, start, end):
        """How to make the bytes `start` to `end` (exclusive) of a file; `url(xorb)` is where a xorb is read."""
        terms, fetch, position, offset = [], {}, 0, 0
        for xorb, size, first, after in self.files[file]:
            if position < end and position + size > start:
                offset = offset if terms else start - position
                terms.append({"hash": xorb, "unpacked_length": size, "range": {"start": first, "end": after}})
                places = [place for place, *_ in chunks(self.xorbs[xorb])] + [len(self.xorbs[xorb])]
                found = {
                    "chunks": {"start": first, "end": after},
                    "bytes": {"start": places[first], "end": places[after] - 1},
                }
                ranges = fetch.setdefault(xorb, [{"url": url(xorb), "ranges": []}])[0]["ranges"]
                if found not in ranges:
                    ranges.append(found)
            position += size
        return {"offset_into_first_range": offset, "terms": terms, "xorbs": fetch}

    def size(self, file):
        return sum(size for _, size, _, _ in self.files[file])


def chunks(xorb):
    """Yield (place, kind of compression, data, unpacked size) of each chunk."""
    place = 0
    while place < len(xorb):
        packed = int.from_bytes(xorb[place + 1 : place + 4], "little")
        size = int.from_bytes(xorb[place + 5 : place + 8], "little")
        yield place, xorb[place + 4], xorb[place + 8 : place + 8 + packed], size
        place += 8 + packed


def unpacked(kind, data, size):
    """A chunk's bytes: stored (0), LZ4 (1), or LZ4 of the bytes 0, 4, 8..., then 1, 5, 9... (2)."""
    if kind == 0:
        return data
    plain = lz4_frame(data)
    if kind == 2:
        grouped, plain = plain, bytearray(size)
        position = 0
        for lane in range(4):
            count = len(range(lane, size, 4))
            plain[lane::4] = grouped[position : position + count]
            position += count
    if len(plain) != size:
        raise ValueError(f"a chunk of {len(plain)} bytes instead of {size}")
    return bytes(plain)


def lz4_frame(data):
    """The content of an LZ4 frame (github.com/lz4/lz4, doc/lz4_Frame_format.md)."""
    flags = data[4]
    position = 7 + 8 * bool(flags & 8) + 4 * bool(flags & 1)
    plain = bytearray()
    while size := int.from_bytes(data[position : position + 4], "little"):
        length, stored = size & 0x7FFFFFFF, size >> 31
        block = data[position + 4 : position + 4 + length]
        if stored:
            plain += block
        else:
            lz4_block(block, plain)
        position += 4 + length + 4 * bool(flags & 16)
    return plain


def lz4_block(block, plain):
    """Append the content of an LZ4 block to `plain`, which earlier blocks may be copied from."""
    position = 0

    def length(start):
        nonlocal position
        if start == 15:
            while (more := block[position]) == 255:
                start, position = start + 255, position + 1
            start, position = start + more, position + 1
        return start

    while position < len(block):
        token = block[position]
        position += 1
        literals = length(token >> 4)
        plain += block[position : position + literals]
        position += literals
        if position >= len(block):
            return
        back = int.from_bytes(block[position : position + 2], "little")
        position += 2
        for _ in range(length(token & 15) + 4):
            plain.append(plain[-back])


def shard_answer():
    return json.dumps({"type": "result"}).encode() + b"\n"
