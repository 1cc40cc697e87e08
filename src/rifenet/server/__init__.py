"""`rifenet serve`: the page and the HTTP API over one model. `create_app` makes the application, `serve` runs it.

What comes over the network is bounded before it is worked on (`limits.py`), judged by `guard.py`, decoded by
`uploads.py`, and run by the one thread of `worker.py` that uses the model. Each browser has a project of its own.
"""
