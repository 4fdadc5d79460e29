"""The other task queues as `perf peers` runs them.

`sides` says which there are and starts one; each `with_NAME` is the program that a user of that queue would write: its
app with the task, and `many` and `one`, which submit and wait for the results. Client and workers import the same
module, which reads from the environment where the broker is (PEERS_PLACE) and whether it shall be durable
(PEERS_DURABLE).
"""

import os

PLACE = os.environ.get("PEERS_PLACE", "")
DURABLE = os.environ.get("PEERS_DURABLE") == "yes"
WAIT_S = 120
