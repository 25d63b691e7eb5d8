"""`pixel-reasoner export-data`: a data set to JSON lines or parquet in the released form, for use without JAX."""

from __future__ import annotations

import argparse

from data_pipeline.exchange.exporting import export_table


def run(args: argparse.Namespace) -> None:
    count = export_table(args.dataset, args.out)
    print(f"exported: {count} rows to {args.out}")
