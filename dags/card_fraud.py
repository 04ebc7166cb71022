"""The Airflow DAGs of card_fraud, as usecases/card_fraud/pipeline.yaml describes them."""

from riskflow_dags import usecase_dags

globals().update(usecase_dags("card_fraud"))
