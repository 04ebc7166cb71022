"""The Airflow DAG `card_fraud_retrain`, as usecases/card_fraud/pipeline.yaml describes it."""

from retrain_dag import retrain_dag

dag = retrain_dag("card_fraud")
