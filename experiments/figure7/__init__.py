"""Whether better masks teach more: the paper's Figure 7 by this project's own build, report and trainer."""
