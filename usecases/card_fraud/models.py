"""Three opinions: one listens to the customer's behaviour, one to the terminal, one to everything and to both."""

from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from riskflow.declare import Model

CHANNELS = [-1.0, 0.0, 1.0, 2.0]  # codes; -1 is a channel that is not known


def _logistic_regression(inputs):
    numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    return make_pipeline(_by_kind(inputs, numbers), LogisticRegression(max_iter=300))


def _random_forest(inputs):
    """A forest refuses nothing, but ONNX forests know no missing values: -1, which no input ever is."""
    numbers = SimpleImputer(strategy="constant", fill_value=-1.0, keep_empty_features=True)
    forest = RandomForestClassifier(60, max_depth=10, min_samples_leaf=3, max_features=0.3, random_state=0, n_jobs=2)
    return make_pipeline(_by_kind(inputs, numbers), forest)


def _hist_gradient_boosting():
    return HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=120, max_leaf_nodes=6, min_samples_leaf=10, l2_regularization=1.0,
        early_stopping=False, random_state=0,
    )  # fmt: skip


def _by_kind(inputs, numbers):
    channel = [i for i, name in enumerate(inputs) if name == "channel"]
    rest = [i for i in range(len(inputs)) if i not in channel]
    encoder = OneHotEncoder(categories=[CHANNELS] * len(channel), handle_unknown="ignore", sparse_output=False)
    return ColumnTransformer([("numbers", numbers, rest), *([("channel", encoder, channel)] if channel else [])])


_OF_CUSTOMER = ["customer_activity_*", "customer_usual_*", "customer_memory_*", "suspicious", "is_night"]
_OF_TERMINAL = [
    "terminal_activity_*", "terminal_reports_*", "terminal_last_*", "terminal_unusual_*", "report_rate_7d",
]  # fmt: skip
_OF_PAYMENT = ["amount", "channel", "amount_to_usual"]

behaviour = Model(
    uses=[*_OF_PAYMENT, *_OF_CUSTOMER],
    candidates={"hist_gradient_boosting": _hist_gradient_boosting},
)

place = Model(
    uses=["amount", *_OF_TERMINAL],
    candidates={"hist_gradient_boosting": _hist_gradient_boosting},
)

fraud = Model(
    uses=["behaviour", "place", *_OF_PAYMENT, *_OF_CUSTOMER, *_OF_TERMINAL],
    candidates={
        "random_forest": _random_forest,
        "hist_gradient_boosting": _hist_gradient_boosting,
        "logistic_regression": _logistic_regression,
    },
)
