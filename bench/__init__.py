"""Benchmarks: figures side by side from one run, on a server of their own. Never part of a test."""
