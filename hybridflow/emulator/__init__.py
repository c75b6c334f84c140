"""An emulated QPU as a service: the results of Aer with the behaviour of a real device."""
