"""From and to the tables that others use: JSON, JSON lines and parquet, in the form of the released data."""
