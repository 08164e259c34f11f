"""Preloaded by the kernels that tests start: figures are drawn from fewer points into fewer pixels; nothing else differs."""

import matplotlib

from rastudy.analysis import style
from rastudy.boundaries import figures

style.DPI, figures.DRAWN = 80, 9
matplotlib.rcParamsDefault["figure.dpi"] = 40  # of what a notebook shows
