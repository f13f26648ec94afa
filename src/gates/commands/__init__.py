"""The commands of `python -m gates`, one module each: its options and what it runs.

`options` is not a command: it declares options that several commands share.
"""
