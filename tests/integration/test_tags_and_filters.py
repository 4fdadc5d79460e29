"""Tags and labels in the database, and the one filter by which tasks are listed, cancelled, retried and purged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from store_rows import opened, receipt, submit

import ringq
from ringq import Filter, Status, protocol
from ringq.store import Store, cancels, dead, questions
from ringq.testing import Inline, inline

app = ringq.App("shop", tags={"team": "sales"})
other = app.domain("shopping")
broken = [True]


@app.task(retry=1, tags={"level": "kind"})
def price(article: str) -> int:
    if broken[0]:
        raise ValueError("no")
    return len(article)


@app.task(retry=1)
def stock(article: str) -> int:
    return len(article)


@other.task
def visit(n: int) -> int:
    return n


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Inline]:
    broken[0] = True
    with inline(app, tmp_path) as run:
        yield run


def repaired() -> None:
    broken[0] = False


def listed(run: Inline, **which: Any) -> list[int]:
    return [one.id for one in run.client.query.tasks(Filter(**which))][::-1]


def rows(run: Inline, sql: str) -> list[Any]:
    with closing(sqlite3.connect(run.database)) as db:
        return db.execute(sql).fetchall()


# -- tags and labels --------------------------------------------------------------------------------


def test_tags_and_label_are_kept_with_a_task_for_life(run: Inline) -> None:
    repaired()
    given = price.options(tags={"order": "7", "team": "post"}, label="price of tea")
    given.submit("tea")
    stock.submit("tea")
    for records in (run.pending(), run.run_all()):
        assert [one.tags for one in records] == [{"level": "kind", "order": "7", "team": "post"}, {"team": "sales"}]
        assert [one.label for one in records] == ["price of tea", "shop::stock"]
    assert [one.label for one in run.client.query.history()] == ["shop::stock", "price of tea"]
    assert rows(run, "SELECT label, tags FROM task_v WHERE id = 1") == [
        ("price of tea", '{"level":"kind","order":"7","team":"post"}')
    ]


def test_tasks_without_tags_and_labels_write_no_row_for_them(run: Inline) -> None:
    run.client.submit_many(visit.submission(n) for n in range(100))
    assert rows(run, "SELECT (SELECT COUNT(*) FROM tag), (SELECT COUNT(*) FROM label)") == [(0, 0)]


def test_each_task_of_a_batch_has_its_own_tags(run: Inline) -> None:
    repaired()
    batch = [visit.options(tags={"n": str(n)}, label=f"visit {n}").submission(n) for n in range(3000)]
    run.client.submit_many([*batch, visit.submission(1), stock.submission("tea")])
    assert listed(run, tags={"n": "2999"}) == [3000]
    assert rows(run, "SELECT COUNT(*), COUNT(DISTINCT task_id) FROM tag") == [(3001, 3001)]
    assert rows(run, "SELECT text FROM label WHERE task_id = 77") == [("visit 76",)]


def test_all_tasks_of_a_batch_share_their_tags(run: Inline) -> None:
    given = visit.options(tags={f"key{n}": "v" for n in range(32)})
    run.client.submit_many(given.submission(n) for n in range(200))
    assert rows(run, "SELECT COUNT(*), COUNT(DISTINCT task_id) FROM tag") == [(6400, 200)]


def test_duplicates_leave_the_tags_as_they_were_and_superseding_has_its_own(run: Inline) -> None:
    first = visit.options(key="k", tags={"by": "first"}).submit(1)
    visit.options(key="k", tags={"by": "second"}, priority=0).submit(1)
    assert [one.tags for one in run.pending()] == [{"by": "first"}]
    new = visit.options(key="k", tags={"by": "third"}, on_duplicate="supersede").submit(1)
    assert [one.tags for one in run.pending()] == [{"by": "third"}]
    assert run.client.query.task(first.id).tags == {"by": "first"}
    assert listed(run, tags={"by": None}) == [first.id, new.id]


def test_the_tasks_of_a_schedule_and_of_a_map_have_their_tags(run: Inline) -> None:
    run.client.schedule("often", visit, {"n": 1}, every=60, tags={"from": "schedule"}, label="often", ttl=3600)
    task = run.client.run_schedule("often")
    record = run.client.query.task(task.id)
    assert (record.tags, record.label) == ({"from": "schedule"}, "often")
    assert list(run.client.map(visit, range(10), tags={"from": "map"}, label="a map")) == list(range(10))
    chunk, *_ = run.client.query.tasks(Filter(tags={"from": "map"}))
    assert chunk.label == "a map"


def test_the_keys_and_values_that_tags_have_are_told(run: Inline) -> None:
    for n, customer in enumerate(["acme", "beta", "acme"]):
        visit.options(tags={"customer": customer, "cust%mer": "x", f"key{n}": ""}).submit(n)
    query = run.client.query
    assert query.tag_keys() == ["cust%mer", "customer", "key0", "key1", "key2"]
    assert query.tag_keys("cust") == ["cust%mer", "customer"]
    assert query.tag_keys("cust%") == ["cust%mer"]
    assert query.tag_keys("k_") == query.tag_keys("z") == []
    assert list(query.tag_values("customer").items()) == [("acme", 2), ("beta", 1)]
    with pytest.raises(ringq.InvalidOption, match="prefix: expected text"):
        query.tag_keys(7)  # type: ignore[arg-type]


# -- one filter ---------------------------------------------------------------------------------------


def goods(run: Inline) -> None:
    """Six tasks: 1 to 6."""
    stock.options(queue="bulk", group="a", tags={"customer": "acme", "size%": "1"}).submit("tea")
    stock.options(queue="bulk", group="b", tags={"customer": "beta"}).submit("tea")
    stock.options(key="k").submit("tea")
    run.clock.advance(60)
    visit.options(tags={"customer": "acme", "sizes": "1"}).submit(1)
    visit.options(key="k").submit(2)
    visit.options(run_after=3600, tags={"customer": "acme"}).submit(3)


CASES: list[tuple[dict[str, Any], list[int]]] = [
    ({"kind": "shop::stock"}, [1, 2, 3]),
    ({"kind": visit}, [4, 5, 6]),
    ({"domain": "shop"}, [1, 2, 3]),
    ({"domain": "shopping"}, [4, 5, 6]),
    ({"kind_prefix": "shop"}, [1, 2, 3, 4, 5, 6]),
    ({"kind_prefix": "shop::st"}, [1, 2, 3]),
    ({"kind_prefix": "shop_"}, []),
    ({"queue": "bulk"}, [1, 2]),
    ({"group": "b"}, [2]),
    ({"kind": "shop::stock", "key": "k"}, [3]),
    ({"kind": "shop::stock", "key": "other"}, []),
    ({"kind": "never::heard", "key": "k"}, []),
    ({"tags": {"customer": "acme"}}, [1, 4, 6]),
    ({"tags": {"customer": "acme"}, "queue": "bulk"}, [1]),
    ({"tags": {"customer": "acme", "team": "sales"}}, [1]),
    ({"tags": {"customer": "acme", "team": None}}, [1]),
    ({"tags": {"customer": None}}, [1, 2, 4, 6]),
    ({"tags": {"customer": "a%"}}, []),
    ({"tag_prefix": "size"}, [1, 4]),
    ({"tag_prefix": "size%"}, [1]),
    ({"tag_prefix": "size_"}, []),
    ({"status": "pending"}, [1, 2, 3, 4, 5, 6]),
    ({"status": "running"}, []),
]


@pytest.mark.parametrize(("which", "meant"), CASES)
def test_a_filter_means_the_same_tasks_to_a_list_and_to_a_cancel(
    run: Inline, which: dict[str, Any], meant: list[int]
) -> None:
    goods(run)
    assert listed(run, **which) == meant
    assert run.client.cancel_all(Filter(**which)) == (len(meant), 0)
    assert listed(run, status="cancelled") == meant
    assert run.client.cancel_all(Filter(**which)) == (0, 0)


def test_a_filter_means_times_too(run: Inline) -> None:
    start = run.clock.now()
    goods(run)
    between = start + timedelta(seconds=60)
    assert listed(run, submitted_before=between) == [1, 2, 3]
    assert listed(run, submitted_after=between) == [4, 5, 6]
    assert listed(run, submitted_after=between, submitted_before=between) == []
    assert run.client.cancel_all(submitted_before=between, queue="bulk") == (2, 0)
    assert run.client.cancel_all(submitted_after=between) == (3, 0)
    assert [one.id for one in run.pending()] == [3]


@pytest.mark.parametrize("few", [0, 1, 3, 4])
def test_what_many_or_few_tasks_have_is_listed_alike(run: Inline, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(questions, "FEW", few)
    goods(run)
    assert listed(run, tags={"customer": None}) == [1, 2, 4, 6]
    assert listed(run, tag_prefix="cust", tags={"team": None}) == [1, 2]
    run.client.cancel(4)
    assert listed(run, tags={"customer": None}, status="pending") == [1, 2, 6]
    assert listed(run, tag_prefix="size", status="cancelled") == [4]


@pytest.mark.parametrize("which", [{}, {"kind_prefix": "shop::"}, {"tags": {"size": "1"}}])
def test_a_cancel_by_status_ends_what_is_listed_with_it(run: Inline, which: dict[str, Any]) -> None:
    for queue in ("default", "bulk", "bulk"):
        stock.options(queue=queue, tags={"size": "1"}).submit("tea")
    run.client.pause_queue("bulk")
    assert listed(run, status="pending", **which) == [1]
    assert run.client.cancel_all(status="pending", **which) == (1, 0)
    assert listed(run, status="cancelled") == [1]
    assert listed(run, status="paused", **which) == [2, 3]
    assert run.client.cancel_all(status="paused", queue="default", **which) == (0, 0)
    assert run.client.cancel_all(status="paused", **which) == (2, 0)
    run.client.resume_queue("bulk")
    stock.options(tags={"size": "1"}).submit("tea")
    assert run.client.cancel_all(status="paused", **which) == (0, 0)
    assert run.client.cancel_all(status="pending", **which) == (1, 0)


@pytest.mark.parametrize("which", [{}, {"kind_prefix": "shop::"}, {"tags": {"size": "1"}}])
def test_a_cancel_of_what_is_blocked_leaves_what_is_pending_and_the_other_way_round(
    run: Inline, which: dict[str, Any]
) -> None:
    sized = stock.options(tags={"size": "1"})
    first = sized.submit("tea")
    after = stock.options(tags={"size": "1"}, depends_on=first)
    after.submit("tea")
    after.submit("tea")
    assert listed(run, status="blocked", **which) == [2, 3]
    assert listed(run, status="pending", **which) == [1]
    run.client.pause_queue("default")
    assert (listed(run, status="paused", **which), listed(run, status="pending", **which)) == ([1], [])
    assert run.client.cancel_all(status="pending", **which) == (0, 0)
    assert run.client.cancel_all(status="waiting", **which) == (0, 0)
    assert run.client.cancel_all(status="blocked", **which) == (2, 0)
    assert run.client.cancel_all(status="blocked", **which) == (0, 0)
    assert run.client.cancel_all(status="paused", **which) == (1, 0)


@pytest.mark.parametrize("status", list(Status))
def test_a_list_of_tagged_tasks_knows_every_status(run: Inline, status: Status) -> None:
    goods(run)
    run.run_all()
    run.client.cancel(6)
    ended = {Status.COMPLETED: [1, 4], Status.CANCELLED: [6]}
    assert listed(run, tags={"customer": "acme"}, status=status) == ended.get(status, [])


def test_what_a_verb_cannot_do_is_told(run: Inline) -> None:
    client: Any = run.client
    for call, told in (
        (client.cancel_all, "say which tasks"),
        (lambda: client.cancel_all(Filter()), "say which tasks"),
        (lambda: client.cancel_all(queue="bulk", all=True), "say which tasks"),
        (
            lambda: client.cancel_all(status="completed"),
            "nothing that is completed can be cancelled: expected pending, running, paused",
        ),
        (lambda: client.retry_dead(status="failed"), "what is failed is no dead letter"),
        (lambda: client.purge_dead(1, queue="bulk"), "name tasks, or say which"),
        (lambda: client.query.tasks(Filter(), queue="bulk"), "in the filter"),
        (lambda: client.query.tasks("bulk"), r"expected a ringq\.Filter"),
    ):
        with pytest.raises(ringq.InvalidOption, match=told):
            call()


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_pages_of_any_size_find_the_same(run: Inline, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr("ringq.client.cancel.AT_ONCE", page)
    monkeypatch.setattr(cancels, "LED", page)
    monkeypatch.setattr(cancels, "SPAN", page)
    goods(run)
    run.client.cancel(4)
    run.run_next()
    assert run.client.cancel_all(tags={"customer": "acme"}) == (1, 0)
    assert run.client.cancel_all(tags={"customer": None}) == (1, 0)
    assert [one.id for one in run.pending()] == [3, 5]


# -- dead letters -----------------------------------------------------------------------------------


def graves(run: Inline) -> None:
    """Four dead letters, and a task that has not died."""
    for n in range(4):
        given = price.options(
            queue="bulk", priority=9, group="g", key=f"k{n}", ttl=100, label=f"price {n}", tags={"n": str(n % 2)}
        )
        given.submit("tea")
    run.run_all(raises=False)
    visit.submit(1)


@pytest.mark.parametrize(
    ("which", "meant"),
    [
        ({"tags": {"n": "0"}}, [1, 3]),
        ({"kind": price, "key": "k1"}, [2]),
        ({"domain": "shop", "tag_prefix": "n"}, [1, 2, 3, 4]),
        ({"kind_prefix": "shop::p", "group": "g", "queue": "bulk", "status": "dead_letter"}, [1, 2, 3, 4]),
        ({"domain": "shopping"}, []),
        ({"tags": {"n": "2"}}, []),
    ],
)
@pytest.mark.parametrize("page", [1, 1000])
def test_a_filter_means_the_same_dead_letters_to_every_verb(
    run: Inline, monkeypatch: pytest.MonkeyPatch, which: dict[str, Any], meant: list[int], page: int
) -> None:
    monkeypatch.setattr("ringq.client.dead.AT_ONCE", page)
    monkeypatch.setattr(dead, "LED", page)
    graves(run)
    assert listed(run, **{"status": "dead_letter", **which}) == meant
    assert run.client.retry_dead(**which) == len(meant)
    assert listed(run, status="pending", kind_prefix="shop::") == meant
    run.run_all(raises=False)
    run.clock.advance(1)
    assert run.client.purge_dead(filter=Filter(**which)) == len(meant)
    assert listed(run, status="dead_letter") == [n for n in (1, 2, 3, 4) if n not in meant]
    gone = rows(run, "SELECT task_id FROM tag UNION SELECT task_id FROM label UNION SELECT task_id FROM renewal")
    assert not {task_id for (task_id,) in gone} & set(meant)


def test_a_dead_letter_that_lives_again_keeps_all_but_its_limits(run: Inline) -> None:
    graves(run)
    before = run.client.query.task(1)
    run.client.retry_dead(1)
    after = run.client.query.task(1)
    for name in ("kind", "queue", "priority", "group", "key", "label", "tags", "payload", "retry", "submitted_at"):
        assert getattr(after, name) == getattr(before, name), name
    assert (after.status, after.group, after.tags["n"]) == (Status.PENDING, "g", "0")


def test_the_time_to_live_of_a_dead_letter_begins_anew(run: Inline) -> None:
    graves(run)
    run.clock.advance(90)
    run.client.retry_dead(1)
    run.clock.advance(95)  # of 100
    repaired()
    assert [one.status for one in run.run_all()] == [Status.COMPLETED, Status.COMPLETED]


# -- the store ------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "a.db") as store:
        yield store


def test_the_page_of_a_tag_leads_past_those_that_have_ended(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancels, "LED", 10)
    ids = submit(store, 25)
    with store.transaction():
        store.insert_tags([(task_id, "a", "b") for task_id in ids])
        store.insert_receipts([receipt(task_id) for task_id in ids[:24]])
    selection = protocol.Selection(tags=[("a", "b")])
    pages = [store.find_active(selection, None, 0, 5)]
    while pages[-1][1]:
        pages.append(store.find_active(selection, None, pages[-1][1], 5))
    assert pages == [([], 10), ([], 20), ([25], 0)]


def test_a_task_that_goes_on_as_others_leaves_them_its_tags(store: Store) -> None:
    ids = submit(store, 3)
    with store.transaction():
        store.insert_tags([(1, "a", "b"), (1, "c", "d")])
        store.insert_labels([(1, "the whole")])
        store.copy_tags(1, ids[1:])
    assert store.tasks_of_tag("a", "b", 0, 10) == store.tasks_of_tag("c", "d", 0, 10) == [1, 2, 3]


def test_of_equal_keys_in_a_batch_the_last_one_has_its_tags_stored(run: Inline) -> None:
    batch = [visit.options(key=f"k{n % 2}", tags={"n": str(n)}).submission(n) for n in range(6)]
    outcome = run.client.submit_many(batch)
    assert [handle.id for handle in outcome] == [1, 2] * 3
    assert [one.tags for one in run.pending()] == [{"n": "4"}, {"n": "5"}]
    assert (len(outcome.inserted), len(outcome.duplicates), len(outcome.upgraded + outcome.rejected)) == (2, 4, 0)
