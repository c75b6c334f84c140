"""Imports Qiskit in a thread that stays.

Qiskit 2.6 crashes the process when the thread that imported it first has ended and another one
makes a gate with a parameter. Threads of brokers, of pools and of users come and go; this one does
not.
"""

import importlib
import sys
import threading
from concurrent.futures import Future

__all__ = ["import_qiskit"]


def import_qiskit() -> None:
    """Import Qiskit, from whichever thread this is called."""
    if "qiskit" in sys.modules or threading.current_thread() is threading.main_thread():
        importlib.import_module("qiskit")
        return
    imported: Future[None] = Future()

    def stay() -> None:
        try:
            importlib.import_module("qiskit")
        except BaseException as error:
            imported.set_exception(error)
            return
        imported.set_result(None)
        threading.Event().wait()

    threading.Thread(target=stay, name="hybridflow-qiskit", daemon=True).start()
    imported.result()
