"""Measures the overhead of the payload codec over AES-256-GCM.

It prints microseconds of CPU per payload, for encoding and decoding together. The columns are measured in turns, so that other load on the
machine affects all of them, and each is the best of several rounds. The process keeps freed memory, as workers do.

* ``bare``: ``AESGCM.encrypt`` with a random nonce, then ``AESGCM.decrypt``, on bytes.
* ``empty``: a codec without a cipher, which copies the bytes of a ``Payload`` into a new one, twice. Every codec has this cost, because
  protobuf messages copy their bytes.
* ``sample``: AES-GCM in a codec like the one of Temporal's samples: key ID in the metadata, no associated data, no checks.
* ``codec``: the project's codec, through ``encode`` and ``decode`` as the SDK calls them, in a context.

``codec/sample`` and ``codec/floor`` (``bare`` + ``empty``) are ratios of throughput, with a target of 0.9 or more from 4 KiB
(docs/decisions/). ``codec/bare`` is for information.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import WorkflowSerializationContext

from benchmarks.framework import Benchmark, at_least, reported
from cleanroom.temporal.codec import PayloadCodec
from cleanroom.temporal.keyring import Keyring
from cleanroom.temporal.memory import keep_freed_memory

SIZES = (512, 4096, 16_384, 65_536, 262_144, 1_048_576)


def best(runs: dict[str, Callable[[int], None]], size: int, rounds: int = 25) -> dict[str, float]:
    """Return microseconds per payload of each run: the best of ``rounds``, in which the runs take turns."""
    count = max(8, min(1000, 20_000_000 // size))
    times = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.thread_time()
            run(count)
            times[name] = min(times[name], (time.thread_time() - started) / count)
    return {name: seconds * 1e6 for name, seconds in times.items()}


class EmptyCodec:
    """Copies bytes out of a payload and into a new one, as every codec does."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload(metadata={"encoding": payload.metadata["encoding"]}, data=payload.data) for payload in payloads]

    decode = encode


class SampleCodec:
    """AES-256-GCM and a key ID."""

    def __init__(self) -> None:
        self.cipher = AESGCM(os.urandom(32))

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload(metadata={"encoding": b"binary/encrypted", "encryption-key-id": b"k1"}, data=self.encrypt(payload.SerializeToString()))
            for payload in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        opened = []
        for payload in payloads:
            if payload.metadata.get("encoding") != b"binary/encrypted":
                opened.append(payload)
            else:
                opened.append(Payload.FromString(self.decrypt(payload.data)))
        return opened

    def encrypt(self, data: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + self.cipher.encrypt(nonce, data, None)

    def decrypt(self, data: bytes) -> bytes:
        return self.cipher.decrypt(data[:12], data[12:], None)


def measure_size(size: int) -> dict[str, float]:
    """Return the times and ratios of one size."""
    data = os.urandom(size)
    cipher = AESGCM(os.urandom(32))
    payload = Payload(metadata={"encoding": b"json/plain"}, data=data)
    codec = PayloadCodec(Keyring.generate()).with_context(WorkflowSerializationContext("default", "cr/flights/query/delays"))

    def bare(count: int) -> None:
        for _ in range(count):
            nonce = os.urandom(12)
            cipher.decrypt(nonce, cipher.encrypt(nonce, data, None), None)

    def through(codec: PayloadCodec | SampleCodec | EmptyCodec) -> Callable[[int], None]:
        async def loop(count: int) -> None:
            batch = [payload]
            for _ in range(count):
                await codec.decode(await codec.encode(batch))

        return lambda count: asyncio.run(loop(count))

    row = best({"bare": bare, "empty": through(EmptyCodec()), "sample": through(SampleCodec()), "codec": through(codec)}, size)
    row |= {
        "codec/sample": row["sample"] / row["codec"],
        "codec/floor": (row["bare"] + row["empty"]) / row["codec"],
        "codec/bare": row["bare"] / row["codec"],
    }
    return {"size": size, **{key: round(value, 3) for key, value in row.items()}}


def measure() -> dict[str, float]:
    """Print the times, and return the ratios."""
    keep_freed_memory()
    found: dict[str, float] = {}
    for size in SIZES:
        row = measure_size(size)
        print("  ".join(f"{name} {value:.5g}" for name, value in row.items()))
        found |= {f"{size:,} bytes, {name}": row[key] for name, key in RATIOS.items()}
    return found


RATIOS = {"against the sample": "codec/sample", "against the floor": "codec/floor", "against bare AES-GCM": "codec/bare"}
BENCHMARK = Benchmark(
    "throughput of the payload codec, against AES-GCM behind the same interface",
    measure,
    [
        reported(name, "x") if size < 4096 or key == "codec/bare" else at_least(name, 0.9, "x")
        for size in SIZES
        for label, key in RATIOS.items()
        for name in [f"{size:,} bytes, {label}"]
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
