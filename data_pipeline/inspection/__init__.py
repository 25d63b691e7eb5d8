"""Looking at a data set: figures, and some records with the loss mask in colors, in a terminal or as a page."""
