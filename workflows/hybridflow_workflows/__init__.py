"""Hybrid workflows that people run as they are: ``hybridflow run NAME``, one package each."""
