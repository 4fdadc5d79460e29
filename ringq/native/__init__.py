"""Edge: the ring of task slots in shared memory, in C. Public through `ringq.ring`."""

from ringq.native._ring import (
    INLINE_BYTES_MAX,
    LAYOUT_VERSION,
    RESULT_INLINE_BYTES_MAX,
    Parent,
    Recovery,
    RingDamaged,
    Worker,
    crc32c,
    process_start_ticks,
    segment_size,
    set_death_signal,
    watch_parent,
)

__all__ = [
    "INLINE_BYTES_MAX",
    "LAYOUT_VERSION",
    "RESULT_INLINE_BYTES_MAX",
    "Parent",
    "Recovery",
    "RingDamaged",
    "Worker",
    "crc32c",
    "process_start_ticks",
    "segment_size",
    "set_death_signal",
    "watch_parent",
]
