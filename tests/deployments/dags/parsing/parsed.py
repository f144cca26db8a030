"""A DAG file that looks up a connection while it is read, as none should, and tries the token at once."""

import json
import os
from pathlib import Path

from airflow.sdk import BaseHook
from airflow.sdk.execution_time.cache import SecretCache

from tests.stand_ins.aws import AwsStandIn

password = str(BaseHook.get_connection("docker_parsing").password)
is_valid = AwsStandIn(os.environ["STAND_IN_URL"]).authorise("AWS", password, region="ap-south-1").valid
SecretCache.get_connection_uri("docker_parsing")  # fails if Airflow does not cache the connection
with Path(os.environ["AIRFLOW_HOME"], "parsed.jsonl").open("a") as record:
    record.write(json.dumps({"token": password[:16], "is_valid": is_valid}) + "\n")
