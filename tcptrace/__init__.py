"""tcptrace: where did this TCP connection's time go?"""

__version__ = "0.1.0"
