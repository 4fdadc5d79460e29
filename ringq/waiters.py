"""Face: who waits for which tasks - nearly always one question for many of them, and nobody else for the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, Protocol

from ringq.connection import Connection
from ringq.maps import MapRows
from ringq.receipts import ReceiptRow

END = itemgetter(0, 4, 5, 11, 12)  # task id, status, reason, result, error


class Receipts(MapRows, Protocol):
    """What the listener needs of the store, to answer those who wait for tasks that have ended already."""

    @property
    def stored_below(self) -> int: ...
    def find_receipts(self, ranges: Sequence[tuple[int, int]], limit: int, bytes_max: int) -> list[tuple[Any, ...]]: ...
    def missing_tasks(self, ranges: Sequence[tuple[int, int]]) -> int | None: ...


class Question:
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
        self._question_of: dict[int, Question] = {}  # the first who asked for a task
        self._others: dict[int, list[Question]] = {}  # … and who else did
        self._questions: dict[Connection, dict[int, Question]] = {}

    def add(self, connection: Connection, number: int, task_ids: Sequence[int]) -> None:
        """From now on this question waits for these tasks, none of which it waits for already."""
        questions = self._questions.setdefault(connection, {})
        question = questions.get(number)
        if question is None:
            question = questions[number] = Question(connection, number)
        question.asked.append(task_ids)
        question.left += len(task_ids)
        connection.waiting += len(task_ids)
        if self._question_of.keys().isdisjoint(task_ids):
            self._question_of.update(dict.fromkeys(task_ids, question))
            return
        for task_id in task_ids:
            if self._question_of.setdefault(task_id, question) is not question:
                self._others.setdefault(task_id, []).append(question)

    def take(self, receipts: Iterable[ReceiptRow]) -> dict[Question, list[tuple[Any, ...]]]:
        """Whom to tell of which ends: (task id, status, reason, result, error). They wait for them no longer."""
        told: dict[Question, list[tuple[Any, ...]]] = {}
        if not self._question_of:
            return told
        pop = self._question_of.pop
        for row in receipts:
            question = pop(row[0], None)
            if question is None:
                continue
            told.setdefault(question, []).append(END(row))
            for other in self._others.pop(row[0], ()) if self._others else ():
                told.setdefault(other, []).append(END(row))
        for question, rows in told.items():
            question.connection.waiting -= len(rows)
            question.left -= len(rows)
            if question.left == 0:
                del self._questions[question.connection][question.number]
        return told

    def forget(self, connection: Connection) -> None:
        """This client is gone."""
        questions = self._questions.pop(connection, {})
        if not self._questions:  # as when the only client leaves: 200,000 ids one by one take 25 ms
            self._question_of.clear()
            self._others.clear()
            return
        for question in questions.values():
            for task_ids in question.asked:
                for task_id in task_ids:
                    self._drop(task_id, question)

    def _drop(self, task_id: int, question: Question) -> None:
        others = self._others.get(task_id)
        if others and question in others:
            others.remove(question)
        elif self._question_of.get(task_id) is question:
            del self._question_of[task_id]
            if others:
                self._question_of[task_id] = others.pop(0)
        if not others:
            self._others.pop(task_id, None)
