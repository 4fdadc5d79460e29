"""Children, finalize and follow-ups by real workers, which die in every step of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import wait_for

import ringq

Serve = Callable[..., Any]

ALBUMS = """
from __future__ import annotations

import os, signal, time
from typing import Any

import ringq

app = ringq.App("album")

@app.task
def picture(number: int) -> int:
    return number

@app.task
def announce(album: int) -> None: ...

@app.task
def album(ctx: ringq.Context, pictures: int) -> int:
    ctx.spawn_many(picture.submission(number) for number in range(pictures))
    return pictures

@album.finalize
def bind(ctx: ringq.Context, memo: int, results: list[int]) -> int:
    assert results == list(range(memo))
    ctx.follow_up(announce.submission(ctx.task_id))
    return sum(results)

@app.task
def page(ctx: ringq.Context, number: int) -> list[Any]:
    if number == 0:
        ctx.spawn_sibling(page.submission(1))
    return [number, ctx.parent_id, ctx.tags.get("book")]

@app.task
def book(ctx: ringq.Context) -> Any:
    now = ctx.spawn(page.submission(7), at_once=True)
    ctx.spawn(page.options(depends_on=now.id).submission(0))
    return [now.id]

@book.finalize
async def close_book(ctx: ringq.Context, memo: list[int], results: list[list[Any]]) -> Any:
    return [memo, [child.task_id for child in ctx.children()], results, ctx.memo(list)]

@app.task
def dies(ctx: ringq.Context, path: str) -> str:
    ctx.spawn(picture.submission(1))
    ctx.spawn(picture.submission(2), at_once=True)
    return path

@dies.finalize
def dies_again(memo: str, results: list[int]) -> list[int]:
    if not os.path.exists(memo):
        open(memo, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return results

@app.task
def stays(ctx: ringq.Context, path: str, number: int) -> None:
    ctx.spawn_many([])

@stays.finalize
def stays_on(memo: None, results: list[int]) -> None:
    time.sleep(100)

@stays.on_cancel
def leaves(ctx: ringq.Context, path: str, number: int) -> None:
    try:
        ctx.follow_up(picture.submission(3))
    except ringq.InvalidSubmission as error:
        with open(path, "w") as file:
            file.write(f"{number}: {error}")
"""


def count(client: Any, kind: str) -> int:
    return len(client.query.tasks(kind=kind, limit=1000))


def check(client: Any, albums: list[int], pictures: list[int]) -> None:
    """Each album has been put together once, of so many pictures, and announced once."""
    assert [client.handle(one).result(100) for one in albums] == [sum(range(number)) for number in pictures]
    wait_for(lambda: count(client, "album::announce") >= len(albums))
    assert count(client, "album::announce") == len(albums)
    assert count(client, "album::picture") == sum(pictures)
    for one in albums:
        assert [attempt.reason for attempt in client.query.task(one).attempts].count("waiting") == 1


@pytest.mark.parametrize("point", ["worker.running", "worker.before_receipt", "worker.after_receipt"])
def test_whatever_worker_dies_each_album_has_its_pictures_once_and_is_finalized_once(serve: Serve, point: str) -> None:
    served = serve(ALBUMS, env={"RINGQ_FAILPOINT": f"{point}=kill:9"})
    with served.client() as client:
        pictures = [number % 5 for number in range(10)]
        check(client, [client.submit("album::album", {"pictures": number}).id for number in pictures], pictures)
        assert served.health()["worker_deaths"] >= 3


def test_whenever_the_server_dies_each_album_has_its_pictures_once_and_is_finalized_once(
    serve: Serve, tmp_path: Any
) -> None:
    albums = []
    with ringq.connect(tmp_path / "tasks.db") as client:
        for point in ("writer.before_commit", "writer.after_commit", "dispatch.after_publish"):
            albums.append(client.submit("album::album", {"pictures": 6}).id)
            serve(ALBUMS, ready=False, env={"RINGQ_FAILPOINT": f"{point}=kill:3"}).wait()
        serve()
        check(client, albums, [6] * 3)


def test_a_worker_that_dies_in_finalize_is_followed_by_one_that_finalizes(serve: Serve, tmp_path: Any) -> None:
    served = serve(ALBUMS)
    with served.client() as client:
        handle = client.submit("album::dies", {"path": str(tmp_path / "died")})
        assert handle.result(30) == [2, 1]
        assert count(client, "album::picture") == 2
        assert [one.reason for one in client.query.task(handle.id).attempts][:2] == ["waiting", "crash"]


def test_a_handler_knows_its_family_and_what_fits_no_ring_goes_by_a_file(serve: Serve) -> None:
    served = serve(ALBUMS)
    with served.client() as client:
        handle = client.submit("album::book", {}, tags={"book": "red"})
        parent = handle.id
        first, last = parent + 1, parent + 3
        results = [[number, parent, "red"] for number in (7, 0, 1)]
        assert handle.result(30) == [[first], [first, first + 1, last], results, [first]]
        assert client.submit("album::album", {"pictures": 3000}).result(60) == sum(range(3000))
        with pytest.raises(ringq.TaskFailed, match="submit each call"):
            list(client.map("album::book", [{}, {}]))


def test_a_cancel_in_finalize_tidies_up_with_the_arguments_of_the_call(serve: Serve, tmp_path: Any) -> None:
    served = serve(ALBUMS)
    with served.client() as client:
        number = ringq.result_of(client.submit("album::picture", {"number": 5}))
        handle = client.submit("album::stays", {"path": str(tmp_path / "tidied"), "number": number})
        wait_for(lambda: [one.reason for one in client.query.task(handle.id).attempts] == ["waiting"])
        wait_for(lambda: client.query.task(handle.id).status == "running")
        handle.cancel()
        with pytest.raises(ringq.TaskCancelled):
            handle.result(30)
        assert (tmp_path / "tidied").read_text().startswith("5: album::stays (task 2): on_cancel cannot spawn")


@pytest.mark.stress
@pytest.mark.parametrize("point", ["claimed", "running", "before_receipt", "after_receipt"])
def test_ten_workers_that_die_at_one_point_cost_no_album_anything(serve: Serve, point: str) -> None:
    served = serve(ALBUMS, env={"RINGQ_FAILPOINT": f"worker.{point}=kill:13"})
    with served.client() as client:
        pictures = [number % 5 for number in range(60)]
        check(client, [client.submit("album::album", {"pictures": number}).id for number in pictures], pictures)
        assert served.health()["worker_deaths"] >= 10


@pytest.mark.stress
@pytest.mark.parametrize(
    "point",
    ["writer.before_commit", "writer.after_commit", "writer.after_free", "dispatch.before_publish",
     "dispatch.after_publish"],
)  # fmt: skip
def test_ten_servers_that_die_at_one_point_cost_no_album_anything(serve: Serve, tmp_path: Any, point: str) -> None:
    with ringq.connect(tmp_path / "tasks.db") as client:
        albums = []
        for death in range(10):
            albums += [client.submit("album::album", {"pictures": 6}).id for _ in range(2)]
            serve(ALBUMS, ready=False, env={"RINGQ_FAILPOINT": f"{point}=kill:{death % 4 + 1}"}).wait()
        serve()
        check(client, albums, [6] * 20)
