"""Many runs as one table, one page and one recommended cut; imports neither torch nor transformers."""

from splitlearn.report.budgets import Budgets, Recommendation, recommend
from splitlearn.report.columns import COLUMNS
from splitlearn.report.frame import Runs, collect_runs, read_runs
from splitlearn.report.groups import group_runs, pareto_front
from splitlearn.report.tables import print_report, runs_csv, runs_markdown
from splitlearn.report.writing import Report, write_report

__all__ = [
    "COLUMNS",
    "Budgets",
    "Recommendation",
    "Report",
    "Runs",
    "collect_runs",
    "group_runs",
    "pareto_front",
    "print_report",
    "read_runs",
    "recommend",
    "runs_csv",
    "runs_markdown",
    "write_report",
]
