"""Who waits for which tasks: each is told of each of its tasks once, and costs nothing when it is gone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ringq.connection import Connection
from ringq.model import Status
from ringq.receipts import ReceiptRow
from ringq.waiters import Waiters


@pytest.fixture
def clients() -> Iterator[list[Connection]]:
    pairs = [socket.socketpair() for _ in range(3)]
    yield [Connection(mine, 1 << 16) for mine, _ in pairs]
    for pair in pairs:
        for end in pair:
            end.close()


def receipt(task_id: int) -> ReceiptRow:
    return (task_id, 9, 1, 1, Status.COMPLETED.code, 0, 5, 7, 0, None, None, str(task_id), None)


def told(waiters: Waiters, *task_ids: int) -> list[tuple[Connection, int, list[int]]]:
    found = waiters.take([receipt(task_id) for task_id in task_ids])
    return [(request.connection, request.number, [row[0] for row in rows]) for request, rows in found.items()]


def test_each_task_is_told_once_to_each_who_waits_for_it(clients: list[Connection]) -> None:
    first, second, third = clients
    waiters = Waiters()
    waiters.add(first, 7, range(1, 6))
    waiters.add(second, 8, [2, 4])
    waiters.add(third, 9, [4])
    assert told(waiters, 9, 2) == [(first, 7, [2]), (second, 8, [2])]
    assert told(waiters, 4, 2) == [(first, 7, [4]), (second, 8, [4]), (third, 9, [4])]
    assert told(waiters, 1, 2, 3, 4, 5) == [(first, 7, [1, 3, 5])]
    assert [client.waiting for client in clients] == [0, 0, 0]


def test_what_is_told_is_how_the_task_ended(clients: list[Connection]) -> None:
    waiters = Waiters()
    waiters.add(clients[0], 1, [3])
    assert list(waiters.take([receipt(3)]).values()) == [[(3, Status.COMPLETED.code, 0, "3", None)]]


@pytest.mark.parametrize("leaver", [0, 1])
def test_who_is_gone_is_told_of_nothing_and_takes_nothing_from_others(clients: list[Connection], leaver: int) -> None:
    waiters = Waiters()
    for client in clients[:2]:
        waiters.add(client, 1, range(1, 6))
    waiters.add(clients[2], 2, [4, 9])
    assert len(told(waiters, 2)) == 2
    waiters.forget(clients[leaver])
    stays = clients[1 - leaver]
    assert told(waiters, 1, 2, 3) == [(stays, 1, [1, 3])]
    waiters.forget(stays)
    assert told(waiters, 4, 5, 9) == [(clients[2], 2, [4, 9])]


def test_when_all_are_gone_nobody_is_told_and_who_comes_then_is(clients: list[Connection]) -> None:
    waiters = Waiters()
    for client in clients[:2]:
        waiters.add(client, 1, range(1, 4))
        waiters.add(client, 2, [2])
    for client in clients[:2]:
        waiters.forget(client)
    assert told(waiters, 1) == []
    waiters.add(clients[2], 3, [2])
    assert told(waiters, 2, 3) == [(clients[2], 3, [2])]


def test_nothing_is_held_for_those_who_were_told_everything_or_are_gone(clients: list[Connection]) -> None:
    waiters = Waiters()
    for number in range(100):
        waiters.add(clients[0], number, [number, 1000 + number])
        waiters.add(clients[1], number, [number])
        told(waiters, number, 1000 + number)
    waiters.add(clients[2], 1, range(1, 1000))
    waiters.add(clients[1], 1, range(1, 1000))
    waiters.forget(clients[2])
    waiters.forget(clients[1])
    assert (waiters._question_of, waiters._others) == ({}, {})
    assert not any(waiters._questions.values())


def test_one_request_may_ask_in_parts(clients: list[Connection]) -> None:
    waiters = Waiters()
    waiters.add(clients[0], 5, [1])
    waiters.add(clients[0], 5, [2, 3])
    assert clients[0].waiting == 3
    assert told(waiters, 3, 1) == [(clients[0], 5, [3, 1])]
    assert clients[0].waiting == 1
