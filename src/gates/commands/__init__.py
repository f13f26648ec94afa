"""The commands of `python -m gates`, a module each: how to call it, and what it runs.

`options` is none: it is what they declare alike.
"""
