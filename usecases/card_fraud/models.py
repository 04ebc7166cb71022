"""Three opinions and a judge: the customer's behaviour, the terminal's past, both together; `fraud` weighs them.

A factory imports what it needs itself, because workers load this file too and need no scikit-learn. Its keyword
arguments are what a search may change, within the ranges beside it; their defaults are what counts without one.
"""

from riskflow.declare import Between, Model, OneOf

_BEHAVIOUR = [
    "amount",
    "large_amount",
    "amount_to_usual",
    "high_ratio",
    "customer_activity_events_count_1d",
    "customer_activity_events_count_30d",
    "customer_memory_suspicious_count_8d",
    "customer_memory_amount_to_usual_max_8d",
    "customer_reports_fraud_report_count_30d",
]
_TERMINAL = [
    "last_report_unexplained",
    "last_report_age",
    "terminal_reports_unexplained_report_count_8d",
    "terminal_reports_unexplained_report_count_14d",
    "terminal_reports_unexplained_report_count_30d",
    "terminal_reports_clean_report_count_8d",
    "terminal_reports_clean_report_count_14d",
    "terminal_reports_clean_report_count_30d",
    "terminal_memory_clean_report_time_since_last_30d",
    "terminal_memory_unexplained_report_time_since_last_30d",
    "first_unexplained_age",
    "terminal_activity_events_count_30d",
]

_CHANNEL_CODES = [-1.0, 0.0, 1.0, 2.0]  # not known, chip, contactless, online


def _boosted(learning_rate=0.05, max_iter=120, max_leaf_nodes=6, min_samples_leaf=10, l2_regularization=1.0):
    """early_stopping is off: above 10,000 rows it would set a part of the few frauds aside."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        learning_rate=learning_rate,
        max_iter=max_iter,
        max_leaf_nodes=max_leaf_nodes,
        min_samples_leaf=min_samples_leaf,
        l2_regularization=l2_regularization,
        early_stopping=False,
        random_state=0,
    )


_BOOSTED_SPACE = {
    "learning_rate": Between(0.02, 0.2, log=True),
    "max_iter": Between(60, 240),
    "max_leaf_nodes": Between(3, 15),
    "min_samples_leaf": Between(5, 60, log=True),
    "l2_regularization": Between(0.01, 100.0, log=True),
}


def _forest(max_depth=8, min_samples_leaf=3, max_features=0.3, class_weight=None):
    """Missing is -1, which no input ever is."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    missing = SimpleImputer(strategy="constant", fill_value=-1.0, keep_empty_features=True)
    trees = RandomForestClassifier(
        40,
        max_depth=max_depth,
        min_samples_leaf=min_samples_leaf,
        max_features=max_features,
        class_weight=class_weight,
        random_state=0,
        n_jobs=2,
    )
    return make_pipeline(missing, trees)


_FOREST_SPACE = {
    "max_depth": Between(4, 14),
    "min_samples_leaf": Between(1, 20, log=True),
    "max_features": Between(0.15, 0.8),
    "class_weight": OneOf(None, "balanced_subsample"),
}


def _linear(inputs, strength=1.0, class_weight=None):
    """Numbers filled and scaled, the channel as one column for each of its values; strength: how freely it fits."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    words = [i for i, name in enumerate(inputs) if name == "channel"]
    rest = [i for i in range(len(inputs)) if i not in words]
    numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    codes = OneHotEncoder(categories=[_CHANNEL_CODES], handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer([("numbers", numbers, rest), ("channel", codes, words)])
    return make_pipeline(columns, LogisticRegression(C=strength, class_weight=class_weight, max_iter=500))


_LINEAR_SPACE = {"strength": Between(0.001, 10.0, log=True), "class_weight": OneOf(None, "balanced")}


def _weighing():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from riskflow.estimators import LogOdds

    return make_pipeline(LogOdds(), LogisticRegression(C=1.0))


_BOOSTED = {"hist_gradient_boosting": _boosted}
_SEARCH = {
    "random_forest": _FOREST_SPACE,
    "hist_gradient_boosting": _BOOSTED_SPACE,
    "logistic_regression": _LINEAR_SPACE,
}

behaviour = Model(uses=_BEHAVIOUR, candidates=_BOOSTED, search={"hist_gradient_boosting": _BOOSTED_SPACE})
terminal_risk = Model(uses=_TERMINAL, candidates=_BOOSTED, search={"hist_gradient_boosting": _BOOSTED_SPACE})
_LATELY = [
    "channel",
    "customer_activity_events_count_1h",
    "terminal_activity_events_count_1h",
    "terminal_lately_amount_mean_1h",
]

joint = Model(
    uses=[*(name for name in [*_BEHAVIOUR, *_TERMINAL] if name not in ("large_amount", "high_ratio")), *_LATELY],
    candidates={"random_forest": _forest, "hist_gradient_boosting": _boosted, "logistic_regression": _linear},
    search=_SEARCH,
)
fraud = Model(uses=["behaviour", "terminal_risk", "joint"], candidates={"weighing": _weighing})
