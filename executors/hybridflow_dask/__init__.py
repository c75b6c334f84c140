"""Dask as the engine of hybrid workflows."""
