"""Flow: what the handler of one attempt asks for besides its result, until the receipt carries it.

ctx.spawn ──► kept here ──► handler returns ──► Carried, in the receipt ──► one transaction of the parent process
at_once=True ─────────────► the server, over the socket, as any client's
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final

from ringq import failpoint, protocol
from ringq.callback import Callback
from ringq.codec import DependencyResult, ResultCodec
from ringq.config import BATCH_TASKS_MAX, FRAME_BYTES_MAX, MIB
from ringq.errors import BatchTooLarge, InvalidKind, InvalidOption, InvalidSubmission, NoParent, StaleAttempt
from ringq.kin import Role, Spawned
from ringq.kinds import Ended, Submission, Task, failure_of
from ringq.kinds.batch import columns
from ringq.kinds.finalizer import decoded
from ringq.model import Status
from ringq.protocol import CHILD, FOLLOW_UP, SIBLING, Carried

IN_A_CALL: Final = "a call of a map has no task of its own to spawn from: submit the calls one by one"
IN_FINALIZE: Final = "finalize cannot spawn, since nobody would wait for it: ctx.follow_up makes a task of its own"
IN_HOOK: Final = "on_cancel cannot spawn: its task ends as cancelled"
CODES: Final[dict[Role, int]] = {"child": CHILD, "sibling": SIBLING, "follow_up": FOLLOW_UP}


class Offspring:
    """What one attempt has asked for. May be used by several threads of its handler.

    Attributes: `spawned`, all of it, in order; `problem`, why it cannot be carried, once that was found.
    """

    def __init__(
        self, task: Task[..., Any], task_id: int, lease: int, *, server: Callable[[], Any],
        parent: Callable[[], int | None], refuses: str | None = None,
    ) -> None:  # fmt: skip
        """`server`: gives a client. `parent`: asks whose child the task is. `refuses`: why it cannot spawn at all, or
        IN_FINALIZE: then only follow-ups.
        """
        self.spawned: list[Spawned] = []
        self.problem: InvalidSubmission | None = None
        self._task = task
        self._task_id = task_id
        self._lease = lease
        self._server = server
        self._parent = parent
        self._refuses = refuses
        self._lock = threading.Lock()
        self._counts: dict[Role, int] = dict.fromkeys(CODES, 0)
        self._kept: list[tuple[Submission[Any], int]] = []  # with their roles
        self._bytes = 0
        self._waits = self._parks = self._is_over = False
        self._family: protocol.FamilyReply | None = None

    # -- for the handler --------------------------------------------------------------------------

    def spawn(self, submissions: Iterable[Submission[Any]], role: Role, at_once: bool) -> list[Spawned]:
        """Keep these for the receipt, or have them stored. Raises as `Context.spawn` says."""
        self._check(role)
        batch, size = self._taken(submissions)
        ids = self._stored(batch) if at_once else None
        if at_once:
            failpoint.hit("kin.spawned_at_once")
        with self._lock:
            if self._is_over:
                raise StaleAttempt(f"{self._name} cannot spawn any more: the attempt has ended")
            self._waits |= role == "child"
            if ids is None:
                self._keep(batch, size, CODES[role])
            first = self._counts[role]
            self._counts[role] += len(batch)
            found = [
                Spawned(one.kind, one.payload, role, first + place, None if ids is None else ids[place])
                for place, one in enumerate(batch)
            ]
            self.spawned += found
        return found

    def results(self, type_: Any) -> list[Any]:
        """Of what the task depends on, in order. Raises InvalidResult."""
        return list(decoded(self._codec("results", type_), map(_result, self._ends(self._known().dependencies))))

    def result_of(self, place: int, type_: Any) -> Any:
        """Raises IndexError, TaskFailed, InvalidResult."""
        ids = self._known().dependencies
        if not 0 <= place < len(ids):
            raise IndexError(f"{self._name} depends on {len(ids)} tasks, so there is no result of place {place}")
        (ended,) = self._ends([ids[place]])
        if ended.status is not Status.COMPLETED:
            raise failure_of("", ended)
        return decoded(self._codec("result_of", type_), [_result(ended)])[0]

    def children(self) -> list[Ended]:
        """How they have ended, in `finalize`; elsewhere none."""
        return self._ends(self._known().children) if self._refuses == IN_FINALIZE else []

    def memo(self, type_: Any) -> Any:
        """What the handler has returned. Raises InvalidResult."""
        text = self._known().memo
        return None if text is None else self._codec("memo", type_).decode(text)

    def callback(self, timeout: float | timedelta | None) -> Callback:
        """Have somebody outside complete the task. Raises InvalidSubmission, and what asking the server raises."""
        if self._refuses is not None:
            raise InvalidSubmission(
                f"{self._name}: no call of a map, finalize or on_cancel can wait for a callback: submit a task "
                "that does"
            )
        callback: Callback = self._server()._open_callback(self._task_id, self._lease, timeout)
        failpoint.hit("kin.called_back")
        with self._lock:
            if self._is_over:
                raise StaleAttempt(f"{self._name} needs no callback any more: the attempt has ended")
            self._parks = True
        return callback

    # -- for the attempt --------------------------------------------------------------------------

    def to_fill_in(self) -> dict[int, DependencyResult]:
        """How all that the task depends on has ended, by its numbers."""
        family = self._known()
        ends = self._ends(family.dependencies)
        return {place: (end.status.code, end.result) for place, end in zip(family.places, ends, strict=True)}

    def finalize(self, context: Any) -> bytes:
        """Call the function of `finalize`; the result as JSON. Without one the memo is the result.

        Raises InvalidResult, and whatever it raises.
        """
        memo = self._known().memo or "null"
        if self._task.finalizer is None:  # there was one when the handler returned
            return memo.encode()
        failpoint.hit("kin.finalizing")
        result = self._task.run_finalize(context, memo, map(_result, self.children()))
        failpoint.hit("kin.finalized")
        return result

    def drop(self) -> None:
        """The attempt is over: nothing can be asked for any more."""
        with self._lock:
            self._is_over = True

    def carried(self, result: bytes) -> bytes | None:
        """The receipt's body, with the handler's `result` in it; None if that is all there is.

        Nothing can be asked for any more. Raises InvalidSubmission if nobody said whether there are children to
        finalize, and for tasks that do not fit together.
        """
        self.drop()
        try:
            return self._carried(result)
        except InvalidSubmission as error:
            self.problem = error
            raise

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"{self._task.kind} (task {self._task_id})"

    def _carried(self, result: bytes) -> bytes | None:
        finalizes = self._task.finalizer is not None and self._refuses is None
        if finalizes and not self._waits:
            raise InvalidSubmission(
                f"{self._name} has a finalize and has spawned nothing: ctx.spawn_many([]) says that there is "
                "nothing to wait for"
            )
        if self._waits and self._parks:
            raise InvalidSubmission(f"{self._name} waits for its children: let one of them ask for a callback")
        if not (self._waits or self._kept or self._parks):
            return None
        carried = Carried(
            result.decode(), waits=self._waits, finalizes=finalizes, fail_fast=self._task.fail_fast, parks=self._parks
        )  # fmt: skip
        if self._kept:
            carried.batch, carried.roles = columns([one for one, _ in self._kept]), [role for _, role in self._kept]
        return protocol.encode_carried(carried)

    def _check(self, role: Role) -> None:
        if self._refuses is not None and (self._refuses != IN_FINALIZE or role != "follow_up"):
            raise InvalidSubmission(f"{self._name}: {self._refuses}")
        if role == "sibling" and self._parent() is None:
            raise NoParent(f"{self._name} has no parent, so it can have no siblings")

    def _codec(self, asked: str, type_: Any) -> ResultCodec:
        """Raises InvalidOption for a type that JSON cannot carry."""
        try:
            return ResultCodec(self._name, type_, "memo" if asked == "memo" else "result")
        except InvalidKind as error:
            raise InvalidOption(f"{asked}: expected a type that JSON can carry, got {type_!r:.200}") from error

    def _stored(self, batch: list[Submission[Any]]) -> list[int]:
        return [one.id for one in self._server()._submit_batch(batch, (self._task_id, self._lease))] if batch else []

    def _taken(self, submissions: Iterable[Submission[Any]]) -> tuple[list[Submission[Any]], int]:
        """No more of them than may be, however many a generator has; with the size of their payloads."""
        batch: list[Submission[Any]] = []
        size = 0
        for one in submissions:
            if not isinstance(one, Submission):
                raise InvalidSubmission(f"{self._name}: expected what task.submission(...) returns, got {one!r:.200}")
            batch.append(one)
            size += len(one.payload)
            self._check_room(len(batch), size)
        return batch, size

    def _check_room(self, count: int, size: int) -> None:
        """Bounded, as a batch of a client is: the parent takes it in one piece."""
        if count > BATCH_TASKS_MAX or size > FRAME_BYTES_MAX:
            raise BatchTooLarge(
                f"{self._name} has spawned {count:,} tasks with {size:,} bytes of arguments, the limits are "
                f"{BATCH_TASKS_MAX:,} and {FRAME_BYTES_MAX // MIB} MiB: let children spawn, or spawn some at_once"
            )

    def _keep(self, batch: list[Submission[Any]], size: int, role: int) -> None:
        self._check_room(len(self._kept) + len(batch), self._bytes + size)
        self._bytes += size
        self._kept += [(one, role) for one in batch]  # in one step: a signal may come between any two

    def _known(self) -> protocol.FamilyReply:
        """Asked once."""
        if self._family is None:
            self._family = self._server()._ask(protocol.Family(self._task_id), protocol.FamilyReply)
        return self._family

    def _ends(self, ids: list[int]) -> list[Ended]:
        ends: list[Ended] = self._server().wait_many(ids) if ids else []
        return ends


def _result(ended: Ended) -> tuple[int, str | None]:
    return ended.task_id, (ended.result or "null") if ended.status is Status.COMPLETED else None
