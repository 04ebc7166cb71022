"""What a worker counts, in Prometheus' words. No ids as labels."""

from prometheus_client import Counter, Gauge, Histogram

EVENTS_SCORED = Counter("risk_events_scored", "Scores sent", ["use_case", "decision"])
REJECTED = Counter("risk_events_rejected", "Messages that could not be taken", ["use_case", "stage", "kind"])
DUPLICATES = Counter("risk_events_duplicate", "Events seen before, without effect", ["use_case"])
PARKED = Counter("risk_labels_parked", "Rows that wait to be completed with ids", ["use_case"])
LATE = Counter("risk_observations_late", "Observations older than their ring", ["use_case", "entity"])
SWEPT = Counter("risk_records_swept", "Records of dead entities that were deleted", ["use_case", "entity"])
FAILURES = Counter("risk_calculation_failures", "Rows for which a function raised", ["use_case", "function"])
BATCH_S = Histogram(
    "risk_batch_seconds", "One batch of a stage, from load to commit", ["use_case", "stage"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)  # fmt: skip
POSITION = Gauge("risk_stage_position", "Next offset to apply", ["use_case", "stage", "partition"])
MODEL_INFO = Gauge("risk_model_info", "1 for a bundle that scores", ["use_case", "version", "alias"])
MODEL_LOADED = Gauge("risk_model_loaded_timestamp_seconds", "When the live bundle was loaded", ["use_case"])
SWAP_REFUSED = Counter("risk_bundle_refused", "Bundles that were not taken", ["use_case"])
LEFT_OUT = Counter("risk_bundle_left_out", "Bundles beside the champion that could not be used", ["use_case", "alias"])
OPINIONS = Counter("risk_opinions", "Events that a bundle scored without deciding them", ["use_case", "alias"])
READY = Gauge("risk_worker_ready", "1 when this worker can score", ["use_case"])
DRIFT_PSI = Gauge(
    "risk_drift_psi_ratio", "Of the inputs that are furthest from training, and of the score", ["use_case", "feature"]
)
DRIFT_MISSING = Gauge(
    "risk_drift_missing_ratio", "Share not known, of the inputs where it has changed most", ["use_case", "feature"]
)
DRIFT_PSI_MAX = Gauge("risk_drift_psi_max_ratio", "The largest of all inputs", ["use_case"])
DRIFT_PSI_MEAN = Gauge("risk_drift_psi_mean_ratio", "The mean of all inputs", ["use_case"])
DRIFT_COUNTED = Gauge("risk_drift_counted_events", "Events that the drift gauges are made of", ["use_case"])
DRIFT_FAILURES = Counter("risk_drift_failures", "Times that counting or sending failed", ["use_case"])
