"""Run: handlers that come along - `echo`, `exec`, `lines`. Nothing of ringq imports them."""
