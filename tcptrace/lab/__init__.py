"""The lab: network namespaces, links between them and scripted faults, with known ground truth.

Everything here needs root on Linux and touches only namespaces that it made itself.
"""
