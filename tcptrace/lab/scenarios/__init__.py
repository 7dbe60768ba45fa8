"""The scenarios, one module each, found by being here. See :mod:`tcptrace.lab.scenario`."""
