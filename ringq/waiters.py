"""Face: who waits for which tasks - nearly always one request for many of them, and nobody else for the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from ringq.connection import Connection
from ringq.receipts import ReceiptRow

END = itemgetter(0, 4, 5, 11, 12)  # task id, status, reason, result, error


class Request:
    """One client's question for the ends of tasks."""

    __slots__ = ("asked", "connection", "left", "number")

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.asked: list[Iterable[int]] = []  # ids, of which it may have been told
        self.left = 0  # of them it has not


class Waiters:
    """Requests by the task they wait for. What they cost is bounded by what connections may ask for."""

    def __init__(self) -> None:
        self._request_of: dict[int, Request] = {}  # the first who asked for a task
        self._others: dict[int, list[Request]] = {}  # … and who else did
        self._requests: dict[Connection, dict[int, Request]] = {}

    def add(self, connection: Connection, number: int, task_ids: Sequence[int]) -> None:
        """From now on this request waits for these tasks, none of which it waits for already."""
        requests = self._requests.setdefault(connection, {})
        request = requests.get(number)
        if request is None:
            request = requests[number] = Request(connection, number)
        request.asked.append(task_ids)
        request.left += len(task_ids)
        connection.waiting += len(task_ids)
        if self._request_of.keys().isdisjoint(task_ids):
            self._request_of.update(dict.fromkeys(task_ids, request))
            return
        for task_id in task_ids:
            if self._request_of.setdefault(task_id, request) is not request:
                self._others.setdefault(task_id, []).append(request)

    def take(self, receipts: Iterable[ReceiptRow]) -> dict[Request, list[tuple[Any, ...]]]:
        """Whom to tell of which ends: (task id, status, reason, result, error). They wait for them no longer."""
        told: dict[Request, list[tuple[Any, ...]]] = {}
        if not self._request_of:
            return told
        pop = self._request_of.pop
        for row in receipts:
            request = pop(row[0], None)
            if request is None:
                continue
            told.setdefault(request, []).append(END(row))
            for other in self._others.pop(row[0], ()) if self._others else ():
                told.setdefault(other, []).append(END(row))
        for request, rows in told.items():
            request.connection.waiting -= len(rows)
            request.left -= len(rows)
            if request.left == 0:
                del self._requests[request.connection][request.number]
        return told

    def forget(self, connection: Connection) -> None:
        """This client is gone."""
        for request in self._requests.pop(connection, {}).values():
            for task_ids in request.asked:
                for task_id in task_ids:
                    self._drop(task_id, request)

    def _drop(self, task_id: int, request: Request) -> None:
        others = self._others.get(task_id)
        if others and request in others:
            others.remove(request)
        elif self._request_of.get(task_id) is request:
            del self._request_of[task_id]
            if others:
                self._request_of[task_id] = others.pop(0)
        if not others:
            self._others.pop(task_id, None)
