"""Import from and export to tables (JSON, JSON lines, parquet) in the form of Pixel Reasoner's released data."""
