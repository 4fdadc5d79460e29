"""Flow: the pending tasks in the parent's memory, between commit and publish: a lane for each place.

All tasks of a lane share what decides whether they may start: one that may not costs one look, however long it is.
When something is said of a group or kind whose tasks had no lane of their own, lanes are sorted anew, a part in each
turn: to look at 10^6 tasks at once would stop the loop for a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from ringq.entries import Admitted
from ringq.lane import Lane, LoadRows
from ringq.places import SEPARATOR, Place, Places
from ringq.runs import consecutive

SORT_IDS = 8192  # looked at in one turn: some 4 ms
# Of the tasks of these runs of ids that are active.
PlacesOf = Callable[[Sequence[tuple[int, int]]], Mapping[int, Place]]


class Backlog:
    """All lanes of the server.

    Attributes: `places`, which tasks have lanes of their own.
    """

    def __init__(
        self, load: LoadRows, window_rows_max: int, window_bytes_max: int, places_of: PlacesOf | None = None
    ) -> None:
        """`places_of` is needed where lanes are sorted anew."""
        self._load = load
        self._window_rows_max = window_rows_max
        self._window_bytes_max = window_bytes_max
        self._places_of = places_of
        self._lanes: dict[Place, Lane] = {}
        self._unsorted: list[Lane] = []
        self.places = Places()

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def lane(self, place: Place) -> Lane:
        """The lane of the tasks of this place, made when new."""
        place = self.places.narrow(place)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(place, self._load)
        return lane

    def append(self, *admitted: Admitted) -> None:
        """Add what one transaction has committed. There may be as many lanes as tasks: the window is looked at once."""
        if not admitted:
            return
        room = self._window_rows_max - sum(lane.held for lane in self._lanes.values())
        room_bytes = self._window_bytes_max - sum(lane.held_bytes for lane in self._lanes.values())
        for tasks in admitted:
            lane = self.lane(tasks.place)
            rows, size = lane.held, lane.held_bytes
            lane.append(tasks, max(0, room), room_bytes)
            room -= lane.held - rows
            room_bytes -= lane.held_bytes - size

    def remove(self, place: Place, task_id: int) -> None:
        """Leave this task, which is in the lane of this place, out of it; `give_back` puts it back."""
        lane = self._lanes.get(self.places.narrow(place))
        for unsorted in self._unsorted:
            if unsorted.place[:2] == place[:2] and unsorted.holds_unsorted(task_id):
                lane = unsorted
        if lane is not None:
            lane.remove(task_id)

    def lanes(self) -> Iterator[Lane]:
        """The lanes that have tasks; those that have none are forgotten: any client may name a new queue."""
        for key, lane in list(self._lanes.items()):
            if len(lane):
                yield lane
            else:
                del self._lanes[key]

    def finds(self, place: Place, task_id: int) -> bool | None:
        """Whether a task of this place waits in its lane; None: it has not been looked at yet."""
        if any(lane.holds_unsorted(task_id) for lane in self._unsorted):
            return None
        lane = self._lanes.get(self.places.narrow(place))
        return lane is not None and task_id in lane

    def min_task_id(self) -> int | None:
        """The smallest pending id."""
        oldest = (lane.oldest for lane in self.lanes())
        return min((task_id for task_id in oldest if task_id is not None), default=None)

    def tell_apart(self, scope: str, name: str) -> None:
        """Tasks of this group, kind or domain have lanes of their own from now on."""
        if self.places.tell_apart(scope, name):
            self._sort_anew()

    def tell_groups_apart(self) -> None:
        """Each group has a lane of its own from now on."""
        if self.places.tell_groups_apart():
            self._sort_anew()

    @property
    def is_sorted(self) -> bool:
        """Whether every task is in the lane in which it belongs."""
        return not self._unsorted

    def sort(self) -> None:
        """Look at some of the tasks that may be in a wrong lane."""
        left = SORT_IDS
        while self._unsorted and left > 0:
            lane = self._unsorted[0]
            runs = lane.take_unsorted(left)
            left -= sum(last - first + 1 for first, last in runs)
            self._bring_home(runs)
            if lane.is_sorted:
                del self._unsorted[0]

    def _bring_home(self, runs: Sequence[tuple[int, int]]) -> None:
        assert self._places_of is not None
        places = self._places_of(runs)
        ids = (task_id for first, last in runs for task_id in range(first, last + 1) if task_id in places)
        for place, own in groupby(ids, key=places.__getitem__):
            lane = self.lane(place)
            for first, last in consecutive(own):
                lane.add_sorted(first, last)

    def _sort_anew(self) -> None:
        """Lanes whose tasks are not all of one group and kind may hold some that belong elsewhere."""
        for lane in self.lanes():
            if lane.place.group is None or not lane.place.kind or lane.place.kind.endswith(SEPARATOR):
                lane.begin_sorting()
                if lane not in self._unsorted:
                    self._unsorted.append(lane)
