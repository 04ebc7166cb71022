"""Three opinions and a judge: the customer's behaviour, the terminal's past, both together; `fraud` weighs them.

A factory imports what it needs itself, because workers load this file too and need no scikit-learn.
"""

from riskflow.declare import Model

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


def _boosted():
    """early_stopping is off: above 10,000 rows it would set a part of the few frauds aside."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=120,
        max_leaf_nodes=6,
        min_samples_leaf=10,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,
    )


def _forest():
    """Missing is -1, which no input ever is."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    missing = SimpleImputer(strategy="constant", fill_value=-1.0, keep_empty_features=True)
    trees = RandomForestClassifier(40, max_depth=8, min_samples_leaf=3, max_features=0.3, random_state=0, n_jobs=2)
    return make_pipeline(missing, trees)


def _linear(inputs):
    """Numbers filled and scaled, the channel as one column for each of its values."""
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
    return make_pipeline(columns, LogisticRegression(max_iter=500))


def _weighing():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from riskflow.estimators import LogOdds

    return make_pipeline(LogOdds(), LogisticRegression(C=1.0))


behaviour = Model(uses=_BEHAVIOUR, candidates={"hist_gradient_boosting": _boosted})
terminal_risk = Model(uses=_TERMINAL, candidates={"hist_gradient_boosting": _boosted})
_LATELY = [
    "channel",
    "customer_activity_events_count_1h",
    "terminal_activity_events_count_1h",
    "terminal_lately_amount_mean_1h",
]

joint = Model(
    uses=[*(name for name in [*_BEHAVIOUR, *_TERMINAL] if name not in ("large_amount", "high_ratio")), *_LATELY],
    candidates={"random_forest": _forest, "hist_gradient_boosting": _boosted, "logistic_regression": _linear},
)
fraud = Model(uses=["behaviour", "terminal_risk", "joint"], candidates={"weighing": _weighing})
