"""Submit and run: what can be called (kinds and domains), and what is asked for when it is (submissions)."""

from __future__ import annotations

from ringq.kinds.app import App, Domain, TaskDecorator
from ringq.kinds.chains import chain, gather, result_of
from ringq.kinds.filters import Filter
from ringq.kinds.options import PAYLOAD
from ringq.kinds.report import KindReport
from ringq.kinds.submission import Submission
from ringq.kinds.submitted import Ended, MapCall, Stored, Submitted, failure_of
from ringq.kinds.task import AsyncTask, Task
from ringq.kinds.task_options import TaskOptions
from ringq.kinds.waits import Member

__all__ = [
    "PAYLOAD",
    "App",
    "AsyncTask",
    "Domain",
    "Ended",
    "Filter",
    "KindReport",
    "MapCall",
    "Member",
    "Stored",
    "Submission",
    "Submitted",
    "Task",
    "TaskDecorator",
    "TaskOptions",
    "chain",
    "failure_of",
    "gather",
    "result_of",
]
