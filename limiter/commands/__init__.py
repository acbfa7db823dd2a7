"""The commands that look after the data, each a module; `limiter.cli` puts them on the command
line. They work beside a running service, and without one.
"""
