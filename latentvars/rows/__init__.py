"""The data of a fit: ``Rows`` is all of it, frozen; ``Batch`` is some of it; ``Design`` codes covariates."""

from latentvars.rows.batch import ROWS_PLATE, Batch
from latentvars.rows.column import Column
from latentvars.rows.design import Design
from latentvars.rows.overview import Overview
from latentvars.rows.rows import Rows
from latentvars.rows.schema import Schema
from latentvars.rows.streams import Parquet

__all__ = ["ROWS_PLATE", "Batch", "Column", "Design", "Overview", "Parquet", "Rows", "Schema"]
