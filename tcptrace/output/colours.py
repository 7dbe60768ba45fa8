"""The colour of each group of stages, everywhere: figures, time lines in pages, time lines in terminals.

In each theme every colour has a contrast of 3:1 with the background, and any two stay apart for people with
protanopia, deuteranopia and tritanopia (tests/unit/test_colours.py measures it). Colour never stands
alone: what it shows is named beside it as well.
"""

# Group of analysis.stages.GROUPS -> (light theme, dark theme). Blue is the kernel, orange is Nagle.
PAGES = {
    "application": ("#bb8e0e", "#bbb127"),
    "scheduler": ("#6a025d", "#ae77a1"),
    "kernel": ("#1136bb", "#44a9f6"),
    "nagle": ("#b64e12", "#d1450e"),
    "flow control": ("#5a3800", "#fbd9a2"),
    "network": ("#2b9c6e", "#7daa7e"),
    "loss recovery": ("#874c4c", "#9b5e5c"),
    "peer": ("#a087c5", "#7a59c7"),
    "transfer": ("#237189", "#7aedfe"),
    "unattributed": ("#8f9499", "#b3b6b8"),
}

# Nobody tells us the background of a terminal: these can be seen on black and on white.
TERMINAL = {
    "application": "#6b5103",
    "scheduler": "#823073",
    "kernel": "#1e52d6",
    "nagle": "#f77f1e",
    "flow control": "#a9703a",
    "network": "#79a579",
    "loss recovery": "#a94355",
    "peer": "#b57df8",
    "transfer": "#1db0b2",
    "unattributed": "#7b7d7f",
}

# What stands for a group where there is no room for its name. Capitals are what one can switch off.
LETTERS = {
    "application": "a",
    "scheduler": "s",
    "kernel": "k",
    "nagle": "N",
    "flow control": "F",
    "network": "w",
    "loss recovery": "L",
    "peer": "p",
    "transfer": "t",
    "unattributed": "?",
}


def variable(group: str) -> str:
    """A group's name as that of a CSS variable or class: `flow_control`."""
    return group.replace(" ", "_")


PALETTE = {variable(group): colours for group, colours in PAGES.items()}
"""The colours of pages by the names of their variables, to be joined with figures.PALETTE."""
