"""`pixel-reasoner import-data`: tables to a data set, with a report of what could not be read."""

from __future__ import annotations

import argparse

from data_pipeline.exchange.importing import IMPORT_REPORT, import_tables
from pixel_reasoner_jax.files import as_path

SHOWN = 10  # unreadable rows that are printed; the report has all


def run(args: argparse.Namespace) -> None:
    report = import_tables(
        args.tables,
        args.out,
        media_root=args.media_root,
        keep_paths=args.keep_paths,
        mask=args.mask,
        shard_size=args.shard_size,
    )
    for line in report["unreadable"][:SHOWN]:
        print(f"not read: {line['place']}: {line['problem']}")
    left = len(report["unreadable"])
    more = f", {left} could not be read: {as_path(args.out) / IMPORT_REPORT} names them" if left else ""
    print(f"{report['kind']} records in {args.out}: {report['written']} of {report['rows']} rows{more}")
    if report["without_media"]:
        print(f"{report['without_media']} of them have no image and no video")
