"""External jobs of Airflow tasks: submitted once, waited for together, explained on failure."""
