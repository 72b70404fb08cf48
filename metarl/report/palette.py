"""The colours of all pictures: readers tell them apart with every kind of colour vision.

They are those of Okabe & Ito (2008, "Color Universal Design") but the yellow, which is too light for a line; ``WINE``
and ``OLIVE`` are from Paul Tol's schemes.
"""

BLACK = "#000000"
ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
GREEN = "#009E73"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PINK = "#CC79A7"
WINE = "#882255"
OLIVE = "#999933"

GREY = "#666666"  # what is not in the foreground
LIGHT_GREY = "#dddddd"  # grids
