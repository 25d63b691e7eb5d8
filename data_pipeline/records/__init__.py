"""Trajectories and queries on disk: TFDS data sets of numbered ArrayRecord shards, written without TensorFlow.

What is stored is plain columns, JSON text and the bytes of media files: nothing is pickled. `tensorflow_datasets` reads
a finished folder by itself (`tfds.builder_from_directory`), `RecordSource` as trajectories and queries.
"""

from data_pipeline.records.examples import KINDS, SCHEMA
from data_pipeline.records.shards import METADATA, RecordError, RecordShards, read_description
from data_pipeline.records.source import RecordSource
from data_pipeline.records.writer import RecordWriter, write_records

__all__ = [
    "KINDS",
    "METADATA",
    "SCHEMA",
    "RecordError",
    "RecordShards",
    "RecordSource",
    "RecordWriter",
    "read_description",
    "write_records",
]
