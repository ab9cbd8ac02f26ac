"""What every panel and every dashboard of catchall has, over grafana-foundation-sdk.

In queries, $S stands for the matchers of the chosen servers, $G for that of the chosen generators, and
$R for the range of a rate.
"""

import string

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.models import common as commons
from grafana_foundation_sdk.models import dashboard as models

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
SCOPE = 'job=~"$job", instance=~"$instance"'
GENERATOR = 'instance=~"$generator"'

REQUESTS = "http_server_request_duration_seconds"
CPU = "rate(process_cpu_seconds_total{$S}[$R])"


def filled(query):
    query = query.replace("$S", SCOPE).replace("$G", GENERATOR)
    return query.replace("$R", "$__rate_interval")


def _panel(builder, title, help_text, unit, queries, thresholds):
    builder = builder.title(title).description(help_text).unit(unit).datasource(SOURCE)
    steps = [models.Threshold(value=None, color="green")]
    steps += [models.Threshold(value=value, color=color) for value, color in thresholds]
    builder.thresholds(
        dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
    )
    for ref, (legend, query) in zip(string.ascii_uppercase, queries.items(), strict=False):
        builder.with_target(
            prometheus.Dataquery()
            .ref_id(ref)
            .datasource(SOURCE)
            .expr(filled(query))
            .legend_format(legend)
            .range()
        )
    return builder


def number(title, help_text, unit, query, thresholds=(), width=4):
    """One number: the last one there is. Green below the first threshold."""
    builder = stat.Panel().height(4).span(width)
    builder.graph_mode(commons.BigValueGraphMode.AREA)
    builder.color_mode(
        commons.BigValueColorMode.VALUE if thresholds else commons.BigValueColorMode.NONE
    )
    builder.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return _panel(builder, title, help_text, unit, {"": query}, thresholds)


def lines(title, help_text, unit, queries, thresholds=(), width=12, log=False, least=0):
    """Lines over time; thresholds are dashed lines."""
    builder = timeseries.Panel().height(8).span(width).min(least)
    builder.line_width(1).fill_opacity(8).show_points(commons.VisibilityMode.NEVER)
    builder.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(commons.LegendDisplayMode.LIST)
        .placement(commons.LegendPlacement.BOTTOM)
        .calcs(["lastNotNull"])
    )
    builder.tooltip(
        common.VizTooltipOptions()
        .mode(commons.TooltipDisplayMode.MULTI)
        .sort(commons.SortOrder.DESCENDING)
    )
    if thresholds:
        builder.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(commons.GraphThresholdsStyleMode.DASHED)
        )
    if log:
        scale = common.ScaleDistributionConfig().type(commons.ScaleDistribution.LOG).log(10)
        builder.scale_distribution(scale)
    return _panel(builder, title, help_text, unit, queries, thresholds)


def lanes(title, help_text, queries, states):
    """A lane for each series, coloured by its state: values with their names and colours."""
    builder = statetimeline.Panel().height(8).span(24).row_height(0.8)
    builder.show_value(commons.VisibilityMode.NEVER)
    builder.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(commons.LegendDisplayMode.LIST)
        .placement(commons.LegendPlacement.BOTTOM)
    )
    builder.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    results = {
        str(value): models.ValueMappingResult(text=name, color=color, index=value)
        for value, (name, color) in states.items()
    }
    builder.mappings([models.ValueMap(options=results)])
    thresholds = [(value, color) for value, (_, color) in states.items()]
    return _panel(builder, title, help_text, "none", queries, thresholds)


def quantiles(metric, matchers):
    """The median and two high quantiles of a histogram, for `lines`."""
    return {
        f"p{percent}": f"histogram_quantile({percent / 100}, "
        f"sum by (le) (rate({metric}_bucket{{{matchers}}}[$R])))"
        for percent in (50, 95, 99)
    }


def _variable(name, label, query):
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "refId": name})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(models.VariableOption(text="All", value="$__all", selected=True))
    )


def board(uid, title, help_text, rows, generators=False):
    """A dashboard: rows by their titles, each with its panels from left to right."""
    builder = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(help_text)
        .tags(["catchall"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
        .with_variable(_variable("job", "Job", "label_values(up{job=~\"catchall.*\"}, job)"))
        .with_variable(
            _variable(
                "instance", "Server", 'label_values(up{job=~"$job"}, instance)'
            )
        )
        .link(
            dashboard.DashboardLink("catchall")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["catchall"])
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
        )
    )
    if generators:
        query = "label_values(create_events_target_rate, instance)"
        builder.with_variable(_variable("generator", "Generator", query))
    for row, panels in rows.items():
        builder.with_row(dashboard.Row(row))
        for panel in panels:
            builder.with_panel(panel)
    built = builder.build()
    for number_, panel in enumerate(built.panels, 1):
        panel.id_val = number_
    return built
