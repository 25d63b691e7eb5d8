"""Tables of one's own data and of released ones: read as they are, imported into data sets, exported from them."""
