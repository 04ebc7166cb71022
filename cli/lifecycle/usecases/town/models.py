"""One model. The town begins with the candidate that sees a week's count alone; later the trees race."""

from riskflow.declare import Model

_INPUTS = [
    "customer_activity_events_count_7d",
    "customer_activity_events_count_1h",
    "amount",
    "amount_to_usual",
    "customer_activity_events_count_1d",
    "customer_amounts_amount_max_7d",
    "terminal_reports_is_fraud_sum_7d",
    "terminal_reports_is_fraud_sum_14d",
    "channel",
]


def _first_guess():
    """Looks at one column: what a team has on its first day."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(ColumnTransformer([("count", SimpleImputer(), [0])]), LogisticRegression())


def _boosted():
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=8, min_samples_leaf=10, early_stopping=False, random_state=0
    )


fraud = Model(uses=_INPUTS, candidates={"boosted": _boosted, "first_guess": _first_guess})
