"""Public helpers for other people's tests: a fake QPU, and the conformance test of backends."""
