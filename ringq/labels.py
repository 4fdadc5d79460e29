"""Values: what workers are called by those who watch many of them. Pure."""

from __future__ import annotations

import hashlib

from ringq.config import Config


def label_of(config: Config, uuid: bytes, index: int) -> str:
    """`{prefix}-worker-{version}-{id}`, without the version if none is said; nothing without a prefix.

    `uuid` is the database's, `index` the worker's place. An id that was said is that of the first place, the others add
    their number. Else it is four hexadecimal digits, the same for each process in this place of this database, and
    others in each other place.
    """
    if not config.worker_prefix:
        return ""
    if config.worker_id:
        own = f"{config.worker_id}.{index}" if index else config.worker_id
    else:
        first = int.from_bytes(hashlib.blake2b(uuid, digest_size=2).digest(), "big")
        own = f"{(first + index) % 0x10000:04x}"
    return "-".join(filter(None, (config.worker_prefix, "worker", config.worker_version, own)))
