"""One model on the amount and the sixteen windows: 100 boosted trees."""

from riskflow.declare import Model

_FEATURES = [
    f"{variable}_{what}_{window}"
    for variable in ("of_customer", "of_terminal")
    for window in ("1h", "1d", "7d", "30d")
    for what in ("events_count", "amount_sum")
]


def _boosted():
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=31, early_stopping=False, random_state=0)


risk = Model(uses=["amount", *_FEATURES], candidates={"boosted": _boosted})
