"""Edge: SQLite, and the only code that speaks to it."""

from ringq.store.history import RECEIPT_COLUMNS
from ringq.store.lock import OwnerLock
from ringq.store.store import Previous, Store
from ringq.store.submissions import SpecRow

__all__ = ["RECEIPT_COLUMNS", "OwnerLock", "Previous", "SpecRow", "Store"]
