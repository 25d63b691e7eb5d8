"""Trajectories and queries on disk: TFDS data sets of numbered ArrayRecord shards, written without TensorFlow.

Stored are plain columns, JSON text and the bytes of media files; nothing is pickled. `tfds.builder_from_directory`
reads a finished folder as columns, `RecordSource` as trajectories and queries.
"""

from data_pipeline.reader import RecordError
from data_pipeline.records.examples import RECORD_KINDS, SCHEMA
from data_pipeline.records.shards import DATASET_INFO, RecordShards, read_description
from data_pipeline.records.source import RecordSource
from data_pipeline.records.writer import RecordWriter, write_records

__all__ = [
    "RECORD_KINDS",
    "DATASET_INFO",
    "SCHEMA",
    "RecordError",
    "RecordShards",
    "RecordSource",
    "RecordWriter",
    "read_description",
    "write_records",
]
