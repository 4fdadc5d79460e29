"""Submit: tasks that take each other's results - one after the other, or many and then one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from ringq.codec import ResultOf
from ringq.errors import InvalidOption
from ringq.kinds.submission import Submission
from ringq.kinds.submitted import Stored
from ringq.kinds.task import Task
from ringq.kinds.task_options import TaskOptions

A = TypeVar("A")
B = TypeVar("B")

Part = Submission[A] | Sequence[Submission[Any]]
"""A submission, or several of which the last one's result counts."""
Step = Submission[Any] | Callable[[A], Submission[B]]
"""What comes next: a submission, or what makes one of the result that will be there by then."""


def result_of(task: Submission[A] | Stored[A]) -> A:
    """Stands for the result of another task, as an argument of a submission or in a list or tuple that is one.

    That submission depends on the task, a Submission of the same batch or a handle; its worker calls the handler with
    the result. If the task does not complete and the dependent has on_dependency_failure="ignore", it gets None. For a
    type checker this is the result itself; its hints are checked by the worker.

    Raises InvalidOption for what is neither.
    """
    if not isinstance(task, (Submission, Stored)):
        raise InvalidOption(f"result_of: expected a submission or a handle, got {task!r:.100}")
    return cast(A, ResultOf(task))


def chain(first: Part[Any], *then: Step[Any, Any]) -> list[Submission[Any]]:
    """Submissions of which each depends on the one before: for `submit_many`, whose last handle has the result.

    `first`: a submission, or what `chain` or `gather` gave. `then`: what makes the next submission of the result of the
    one before, as `resize.submission`, a function of one parameter; or a submission, which begins after it and takes
    nothing. Such a one is copied, since it depends on one more now.

    Raises InvalidOption for what is none of these.
    """
    batch = _members("chain", first)
    for step in then:
        batch.append(_next("chain", step, batch[-1], [batch[-1]]))
    return batch


def gather(parts: Iterable[Part[A]], then: Step[list[A], Any]) -> list[Submission[Any]]:
    """Submissions, and one that depends on all of them: for `submit_many`, whose last handle has the result.

    `parts`: submissions, or what `chain` or `gather` gave, at most 10,000. `then`: what makes the last submission of
    the list of their results, as `merge.submission`; or a submission, which begins after them and takes nothing.

    Raises InvalidOption for what is none of these, or no parts; InvalidSubmission for too many.
    """
    groups = [_members("gather", part) for part in parts]
    if not groups:
        raise InvalidOption("gather: expected at least one submission")
    ends = [members[-1] for members in groups]
    batch = list({id(one): one for members in groups for one in members}.values())
    return [*batch, _next("gather", then, ends, ends)]


def _next(verb: str, step: Any, before: Any, tasks: Sequence[Submission[Any]]) -> Submission[Any]:
    """`before`: the submission, or the list of them, whose results the step takes."""
    if isinstance(step, Submission):
        return step.after(*tasks)
    if isinstance(step, (Task, TaskOptions)):
        step = step.submission
    if not callable(step):
        raise InvalidOption(f"{verb}: expected a submission, or what makes one of a result, got {step!r:.100}")
    made = step([result_of(one) for one in before] if isinstance(before, list) else result_of(before))
    if not isinstance(made, Submission):
        raise InvalidOption(f"{verb}: expected a submission, {step!r:.100} made {made!r:.100}")
    return made if made.waits is not None else made.after(*tasks)


def _members(verb: str, part: Any) -> list[Submission[Any]]:
    members = [part] if isinstance(part, Submission) else list(part) if isinstance(part, Sequence) else []
    if not members or not all(isinstance(one, Submission) for one in members):
        raise InvalidOption(f"{verb}: expected a submission, or several, got {part!r:.100}")
    return members
