"""The runner island: executes a pytest suite in the user's interpreter, driven over sockets.

Standard library and pytest 7 to 9 only, Python 3.8 to 3.13. It is loaded as the package ``_fleetest_runner`` by a
worker, without touching that interpreter's ``sys.path``; ``docs/design/runner-protocol.md`` is its contract.
"""
