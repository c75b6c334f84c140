"""The durable record of a run's requests, vendor jobs, results and QPU seconds.

It lives in the folder ``ledger`` of the run's folder: a file for each broker, which only that
broker appends to and all read, and a file for the results of each vendor job. Nothing is locked, so
that it works on storage that is shared between machines.

``journal.py`` is what a broker writes through; ``state.py`` what the steps of all files come to.
"""
