"""Define how MLflow's UI shows an experiment of nnexp: its description, and a view with useful columns.

MLflow's own table of runs shows neither params nor metrics until they are picked, one by one. The UI keeps a
view in a tag of the experiment: JSON, in which the state is compressed as it is here.
"""

from __future__ import annotations

import base64
import json
import zlib

from nnexp.tracking.runs import now

VIEW = "nnexp"  # the view's name in the UI's list, and its key in an address
# The columns in order, each with its width in pixels. The first two and the duration are always shown.
WIDTHS = {
    "attributes.`Run Name`": 290,
    "runDateAndNestInfo": 140,
    "metrics.`loss`": 120,
    "metrics.`accuracy`": 90,
    "params.`dataset`": 90,
    "params.`init`": 90,
    "params.`learning_rate`": 110,
    "params.`hidden`": 80,
    "params.`seed`": 70,
    "params.`epochs`": 80,
    "tags.`nnexp.outcome`": 110,
    "attributes.`Dataset`": 260,
    "attributes.`Models`": 100,
    "duration": 80,
}
# The charts, each with the scale of its y axis.
CHARTS = {
    "loss": "log",
    "accuracy": "linear",
    "val_loss": "log",
    "val_accuracy": "linear",
    "grad_norm": "log",
}
# The prefix of a sweep's copies of its best run's curves. MLflow's view keeps all sweeps folded, and without
# such copies it would have no charts. Their own names keep them out of a table that is sorted by `loss`.
BEST = "best_"
ALWAYS = ("attributes.`Run Name`", "runDateAndNestInfo", "duration")
DESCRIPTION = (
    "A sweep is one row, its runs nested under it (+): open it for its question, its best settings, figures "
    f"and `report.html`. **Views > {VIEW}** shows loss, accuracy and what was set."
)


def experiment_tags() -> dict[str, str]:
    """Return the tags that an experiment of nnexp is created with."""
    created = now()
    state = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [column for column in WIDTHS if column not in ALWAYS],
        "columnOrder": list(WIDTHS),
        "columnWidths": WIDTHS,
        "runsHiddenMode": "FIRST_10_RUNS",
        "compareRunSections": [{"uuid": VIEW, "name": "Curves", "display": True}],
        "compareRunCharts": [
            _chart(f"{prefix}{metric}", scale) for prefix in ("", BEST) for metric, scale in CHARTS.items()
        ],
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": VIEW, "createdAt": created, "updatedAt": created, "state": f"deflate;{packed}"}
    return {
        "mlflow.note.content": DESCRIPTION,
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }


def _chart(metric: str, scale: str) -> dict[str, object]:
    """Describe the chart of a metric against completed epochs, which are the metric's steps."""
    chart: dict[str, object] = {"uuid": f"{VIEW}-{metric}", "metricSectionId": VIEW, "type": "LINE"}
    chart |= {"metricKey": metric, "displayName": metric, "runsCountToCompare": 10}
    chart |= {"xAxisKey": "step", "xAxisScaleType": "linear", "yAxisKey": "metric", "scaleType": scale}
    chart |= {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "lineSmoothness": 0}
    return chart | {
        "selectedXAxisMetricKey": "",
        "yAxisExpressions": [],
        "range": {},
        "ignoreOutliers": False,
    }


def page(experiment_id: str) -> str:
    """Return the path, after the server's address, of the experiment's runs in this view."""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning"
