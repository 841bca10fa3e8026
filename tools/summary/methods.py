"""How the tables and figures show the training methods."""

# Column titles and colours by `config.method`. The colours are Okabe and Ito's, which remain distinct for
# colour-blind readers.
METHODS = {
    "baseline": ("baseline", "#000000"),
    "ds": ("DS", "#e69f00"),
    "dks": ("DKS", "#0072b2"),
    "top_down": ("top-down", "#009e73"),
    "bottom_up": ("bottom-up", "#cc79a7"),
}
# Methods that always have a column, as in the paper; another method has one if there are runs of it.
PAPER = ("baseline", "ds", "dks")
