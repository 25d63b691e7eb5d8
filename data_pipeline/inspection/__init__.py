"""What a data set holds: figures, and some of its records with the mask in colors, in a terminal or as a page."""
