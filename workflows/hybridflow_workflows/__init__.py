"""Hybrid workflows that people run as they are: ``hybridflow run NAME``, a file or package each.

``sqd/`` has its own way through its many steps. The short ones (``vqe.py``, ``sweep.py``,
``zne.py``, ``cutting.py``) compute what ``ising.py`` describes. What is the same for each is in
``running.py`` (pools, result), ``folder.py`` (the run's folder) and ``options.py`` (the command
line).
"""
