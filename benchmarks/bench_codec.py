"""What the payload codec adds to AES-256-GCM itself. Run: ``python -m benchmarks.bench_codec [--output FILE]``.

Three things are timed for each size, best of several rounds, microseconds a payload of encode + decode together:

* ``bare``: ``AESGCM.encrypt`` with a fresh random nonce, then ``AESGCM.decrypt``, bytes in, bytes out.
* ``sample``: the smallest real codec, shaped like the one of Temporal's own samples: a ``Payload`` in and out through ``encode`` and
``decode``, key id
  in the metadata, no associated data, no checks.
* ``codec``: ours, through ``encode`` and ``decode`` as the SDK calls them, in a context.

``codec/bare`` and ``codec/sample`` are shares of throughput. What lies between ``bare`` and ``sample`` is protobuf: a message holds its
bytes by copy, and copying a payload costs about as much as AES-GCM in hardware does, so no codec comes near ``bare`` for a single
payload.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import WorkflowSerializationContext

from cleanroom.temporal.codec import PayloadCodec
from cleanroom.temporal.keyring import Keyring

SIZES = (512, 4096, 16_384, 65_536, 262_144, 1_048_576)


def best(run: Callable[[int], None], size: int, rounds: int = 15) -> float:
    """Microseconds a payload, best of ``rounds``."""
    count = max(8, min(2000, 20_000_000 // size))
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run(count)
        times.append((time.perf_counter() - started) / count)
    return min(times) * 1e6


class SampleCodec:
    """AES-256-GCM and a key id, nothing else."""

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


def measure(size: int) -> dict[str, float]:
    """One row."""
    data = os.urandom(size)
    cipher = AESGCM(os.urandom(32))
    payload = Payload(metadata={"encoding": b"json/plain"}, data=data)
    codec = PayloadCodec(Keyring.generate()).with_context(WorkflowSerializationContext("default", "cr/flights/query/delays"))

    def bare(count: int) -> None:
        for _ in range(count):
            nonce = os.urandom(12)
            cipher.decrypt(nonce, cipher.encrypt(nonce, data, None), None)

    def through(codec: PayloadCodec | SampleCodec) -> Callable[[int], None]:
        async def loop(count: int) -> None:
            batch = [payload]
            for _ in range(count):
                await codec.decode(await codec.encode(batch))

        return lambda count: asyncio.run(loop(count))

    row = {
        "size": size,
        "bare_us": best(bare, size),
        "sample_us": best(through(SampleCodec()), size),
        "codec_us": best(through(codec), size),
    }
    row["codec/bare"] = row["bare_us"] / row["codec_us"]
    row["codec/sample"] = row["sample_us"] / row["codec_us"]
    return {key: round(value, 3) for key, value in row.items()}


def main() -> None:
    """Print the table and, with ``--output``, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    rows = [measure(size) for size in SIZES]
    print(" ".join(f"{name:>14}" for name in rows[0]))
    for row in rows:
        print(" ".join(f"{value:>14}" for value in row.values()))
    if arguments.output:
        with open(arguments.output, "w") as file:
            json.dump(rows, file, indent=2)


if __name__ == "__main__":
    main()
