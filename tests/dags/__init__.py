"""Tests of DAGs in real Airflow; a package, so that its fixture ends with its last test."""
