"""Replays a real trace through a running service, and audits every counter afterwards.

    trace     reads the file
    plan      which request goes where, what it costs, which limits bind: all before the first call
    api       HTTP, with repeats that carry the same ids
    run       sends the pairs
    watch     what single answers may say
    tally     what the counters must be, kept apart from the service
    audit     asks for the counters and compares
    report    the result, as it is written as JSON
    tables    the result, for people
    progress  how far it is
    command   options in, exit status out

It speaks to the service through HTTP alone, and imports nothing that runs inside it.
"""
