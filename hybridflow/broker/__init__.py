"""The broker: the process that owns a slot's backend. Queue → batches → vendor jobs → results."""

from hybridflow.broker.base import Connection, Ticket

__all__ = ["Connection", "Ticket"]
