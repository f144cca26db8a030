"""What the stand-in for AWS promises to the tests and the demo, tried with real boto3 clients."""

from __future__ import annotations

import base64
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from tests.stand_ins.aws import PROJECT, AwsStandIn, Close, Delay, Error, Fault, Hang, Reply, Reset, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from types_boto3_ecr import ECRClient
    from types_boto3_ecr.type_defs import GetAuthorizationTokenResponseTypeDef
    from types_boto3_sts import STSClient

OWNER = """
from threading import Event
from tests.stand_ins.aws import AwsStandIn
with AwsStandIn.running() as aws:
    print(aws.url, flush=True)
    Event().wait()
"""
ACCOUNT = "123456789012"  # moto's own
OTHER_ACCOUNT = "210987654321"
ROLE_ARN = f"arn:aws:iam::{OTHER_ACCOUNT}:role/puller"
ONE_TRY = Config(read_timeout=5, retries={"total_max_attempts": 1})
IMPATIENT = ONE_TRY.merge(Config(read_timeout=0.3))


@pytest.fixture(scope="module")
def server() -> Iterator[AwsStandIn]:
    with AwsStandIn.running() as aws:
        yield aws


@pytest.fixture
def aws(server: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> AwsStandIn:
    """The stand-in as if just started, and this process led to it."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in server.environment(region_name="us-east-1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers the credentials that it found first
    server.reset()
    return server


def build_ecr(region_name: str | None = None, config: Config = ONE_TRY) -> ECRClient:
    return boto3.client("ecr", region_name=region_name, config=config)


def build_sts() -> STSClient:
    return boto3.client("sts", config=ONE_TRY)


def connect(url: str) -> socket.socket:
    """A bare connection, for what boto3 does not tell apart."""
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port or 0), timeout=5)


def password_in(token: GetAuthorizationTokenResponseTypeDef) -> str:
    login = base64.b64decode(token["authorizationData"][0]["authorizationToken"]).decode()
    username, _, password = login.partition(":")
    assert username == "AWS"
    return password


def request_token(region_name: str | None = None) -> str:
    return password_in(build_ecr(region_name).get_authorization_token())


class TestTokens:
    @pytest.mark.usefixtures("aws")
    def test_a_token_has_the_size_of_a_real_one(self) -> None:
        """A password is as long as ECR's are, and every call mints another."""
        passwords = {request_token() for _ in range(5)}
        assert len(passwords) == 5
        assert all(2300 <= len(password) <= 2900 for password in passwords)

    @pytest.mark.usefixtures("aws")
    @pytest.mark.parametrize(
        ("region", "suffix"),
        [
            ("eu-west-3", "amazonaws.com"),
            ("us-gov-west-1", "amazonaws.com"),
            ("cn-north-1", "amazonaws.com.cn"),
            ("eusc-de-east-1", "amazonaws.eu"),
            ("us-isob-east-1", "sc2s.sgov.gov"),
        ],
    )
    def test_the_endpoint_is_the_regions(self, region: str, suffix: str) -> None:
        """The registry in the answer is the caller's own, in the region asked and under its partition's suffix."""
        (data,) = build_ecr(region).get_authorization_token()["authorizationData"]
        assert data["proxyEndpoint"] == f"https://{ACCOUNT}.dkr.ecr.{region}.{suffix}"

    def test_ecr_public(self, aws: AwsStandIn) -> None:
        """ECR Public answers with one object that names no registry."""
        data = boto3.client("ecr-public").get_authorization_token()["authorizationData"]
        assert data.keys() == {"authorizationToken", "expiresAt"}
        password = base64.b64decode(data["authorizationToken"]).decode().removeprefix("AWS:")
        assert aws.authorise("AWS", password, service="ecr-public").valid

    def test_an_assumed_role_brings_its_account(self, aws: AwsStandIn) -> None:
        """A token minted with a role's credentials belongs to the role's account."""
        credentials = build_sts().assume_role(RoleArn=ROLE_ARN, RoleSessionName="test")["Credentials"]
        ecr = boto3.client(
            "ecr",
            aws_access_key_id=credentials["AccessKeyId"],
            aws_secret_access_key=credentials["SecretAccessKey"],
            aws_session_token=credentials["SessionToken"],
        )
        (data,) = ecr.get_authorization_token()["authorizationData"]
        assert data["proxyEndpoint"] == f"https://{OTHER_ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
        assert aws.calls(service="ecr")[0].account == OTHER_ACCOUNT

    def test_a_web_identity_brings_its_account(
        self, aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A pod's service account mints for the account of its role, and only its mint is signed."""
        (tmp_path / "token").write_text("a.web.identity")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE_ARN)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        request_token()
        assume, get = aws.calls()
        assert (assume.operation, assume.access_key_id) == ("AssumeRoleWithWebIdentity", "")
        assert (get.operation, get.account) == ("GetAuthorizationToken", OTHER_ACCOUNT)

    def test_life(self, aws: AwsStandIn) -> None:
        """A token lives for as long as the setting says at its birth, twelve hours at first."""
        for lifetime, expected in ((None, 12 * 3600), (900, 900), (-60, -60)):
            aws.set(token_lifetime=lifetime)
            (data,) = build_ecr().get_authorization_token()["authorizationData"]
            left = data["expiresAt"] - datetime.now(timezone.utc)
            assert left.total_seconds() == pytest.approx(expected, abs=2)

    def test_clock_offset(self, aws: AwsStandIn) -> None:
        """AWS's clock moves the Date header and expiresAt together, and leaves the token's real life alone."""
        aws.set(token_lifetime=-1, clock_offset=3600)
        answer = build_ecr().get_authorization_token()
        date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        assert date.timestamp() == pytest.approx(time.time() + 3600, abs=2)
        assert answer["authorizationData"][0]["expiresAt"].timestamp() == pytest.approx(date.timestamp() - 1, abs=2)
        assert aws.authorise("AWS", password_in(answer)) == Verdict(valid=False, reason="expired")


class TestAuthorise:
    def test_alive(self, aws: AwsStandIn) -> None:
        """A token within its life opens the registries of its region and service."""
        assert aws.authorise("AWS", request_token("eu-west-3"), region="eu-west-3", service="ecr") == Verdict(
            valid=True
        )

    def test_expired(self, aws: AwsStandIn) -> None:
        """A token opens nothing once its life is over."""
        aws.set(token_lifetime=0.5)
        password = request_token()
        assert aws.authorise("AWS", password).valid
        time.sleep(0.5)
        assert aws.authorise("AWS", password) == Verdict(valid=False, reason="expired")

    @pytest.mark.parametrize(
        "login",
        [
            {"username": "aws"},
            {"password": "QVdTIGl0IGlzIG5vdA=="},
            {"region": "us-east-2"},
            {"service": "ecr-public"},
        ],
        ids=lambda login: next(iter(login)),
    )
    def test_unknown(self, aws: AwsStandIn, login: dict[str, str]) -> None:
        """A login that is wrong in one point is as good as none."""
        right = {"username": "AWS", "password": request_token(), "region": "us-east-1", "service": "ecr"}
        assert aws.authorise(**(right | login)) == Verdict(valid=False, reason="unknown")


class TestFaults:
    def test_error_as_json(self, aws: AwsStandIn) -> None:
        """An error from ECR reaches the client with its code, message and status."""
        aws.script(Error("AccessDeniedException", "You may not.", 403))
        with pytest.raises(ClientError) as caught:
            build_ecr().get_authorization_token()
        assert caught.value.response["Error"] == {"Code": "AccessDeniedException", "Message": "You may not."}
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert caught.value.response["ResponseMetadata"]["RequestId"]

    def test_error_as_xml(self, aws: AwsStandIn) -> None:
        """An error from STS reaches the client as well, which reads XML there."""
        aws.script(Error("AccessDenied", "Not <you>, & not now."))
        with pytest.raises(ClientError) as caught:
            build_sts().assume_role(RoleArn=ROLE_ARN, RoleSessionName="test")
        assert caught.value.response["Error"]["Code"] == "AccessDenied"
        assert caught.value.response["Error"]["Message"] == "Not <you>, & not now."

    def test_hang(self, aws: AwsStandIn) -> None:
        """A call that hangs runs into the client's own timeout."""
        aws.script(Hang(5))
        with pytest.raises(ReadTimeoutError):
            build_ecr(config=IMPATIENT).get_authorization_token()

    def test_a_hang_is_bounded(self) -> None:
        """A hang of more than a minute is refused where it is written."""
        with pytest.raises(ValueError, match="60 s at most, not 61"):
            Hang(61)

    def test_a_hang_ends_without_an_answer(self, aws: AwsStandIn) -> None:
        """A client with patience sees the connection end after the hang."""
        aws.script(Hang(0.1))
        with pytest.raises(ConnectionClosedError):
            build_ecr().get_authorization_token()

    def test_delay(self, aws: AwsStandIn) -> None:
        """A delayed call is answered, later."""
        aws.script(Delay(0.2))
        begin = time.monotonic()
        assert aws.authorise("AWS", request_token()).valid
        assert time.monotonic() - begin >= 0.2

    @pytest.mark.parametrize("fault", [Reset(), Close()], ids=["reset", "close"])
    def test_broken_connections(self, aws: AwsStandIn, fault: Close) -> None:
        """A connection that breaks looks to boto3 like what it is."""
        aws.script(fault)
        with pytest.raises(ConnectionClosedError):
            build_ecr().get_authorization_token()

    def test_reset_and_close_on_the_wire(self, aws: AwsStandIn) -> None:
        """A reset is one of TCP's, and a close is not."""
        aws.script(Close(times=1), Reset(times=1))
        with connect(aws.url) as closed:
            closed.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert closed.recv(1) == b""
        with connect(aws.url) as reset, pytest.raises(ConnectionResetError):  # noqa: PT012
            reset.sendall(b"GET / HTTP/1.0\r\n\r\n")
            reset.recv(1)

    @pytest.mark.parametrize(
        ("body", "seen"),
        [
            ("<p>Sign in to the hotel's network</p>", None),
            ("{}", None),
            ('{"authorizationData": []}', []),
            ('{"authorizationData": [{"authorizationToken": "no base64"}]}', [{"authorizationToken": "no base64"}]),
        ],
        ids=["not JSON", "nothing in it", "no token", "not base64"],
    )
    def test_reply(self, aws: AwsStandIn, body: str, seen: object) -> None:
        """A reply is passed on to the client as it stands; boto3 finds in it what it can."""
        aws.script(Reply(body))
        assert build_ecr().get_authorization_token().get("authorizationData") == seen

    def test_reply_from_a_proxy(self, aws: AwsStandIn) -> None:
        """A reply may have any status and type of content."""
        aws.script(Reply("<h1>Bad gateway</h1>", 502, "text/html"))
        with pytest.raises(ClientError) as caught:
            build_ecr().get_authorization_token()
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 502
        assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["content-type"] == "text/html"

    def test_reply_in_place_of_xml(self, aws: AwsStandIn) -> None:
        """A reply that STS would never give breaks the client's parser."""
        aws.script(Reply("no XML"))
        with pytest.raises(ResponseParserError):
            build_sts().get_caller_identity()


class TestScript:
    def test_rules_are_used_up(self, aws: AwsStandIn) -> None:
        """A rule is used as often as it says, and then AWS is well again."""
        aws.script(Error("ThrottlingException", times=2))
        for _ in range(2):
            with pytest.raises(ClientError, match="ThrottlingException"):
                request_token()
        assert request_token()

    def test_a_client_that_tries_again_gets_through(self, aws: AwsStandIn) -> None:
        """A client's own retries are calls like any other, and use rules up."""
        aws.script(Close(times=1))
        boto3.client("ecr", config=Config(retries={"total_max_attempts": 2})).get_authorization_token()
        assert len(aws.calls(operation="GetAuthorizationToken")) == 2

    def test_rules_hold_until_settled(self, aws: AwsStandIn) -> None:
        """A rule without a number holds for every call until the script is settled."""
        aws.script(Error("ServerException"))
        for _ in range(3):
            with pytest.raises(ClientError):
                request_token()
        aws.settle()
        assert request_token()

    def test_rules_may_be_for_one_operation(self, aws: AwsStandIn) -> None:
        """A rule for one operation leaves the others alone."""
        aws.script(Error("AccessDenied", operation="AssumeRole"))
        assert request_token()
        with pytest.raises(ClientError, match="AccessDenied"):
            build_sts().assume_role(RoleArn=ROLE_ARN, RoleSessionName="test")

    def test_rules_may_be_for_one_region(self, aws: AwsStandIn) -> None:
        """A rule for one region leaves the others alone."""
        aws.script(Error("ServerException", region="us-east-1"))
        assert request_token("eu-west-3")
        with pytest.raises(ClientError, match="ServerException"):
            request_token("us-east-1")

    def test_rules_are_taken_in_their_order(self, aws: AwsStandIn) -> None:
        """The first rule that matches decides, and the next one has its turn when that is used up."""
        aws.script(Error("First", times=1), Error("Second", times=1))
        for code in ("First", "Second"):
            with pytest.raises(ClientError, match=code):
                request_token()
        assert request_token()

    def test_a_delay_leaves_the_decision_to_the_next_rule(self, aws: AwsStandIn) -> None:
        """A delay and an error together are a late error."""
        aws.script(Delay(0.1), Delay(0.1), Error("ServerException"))
        begin = time.monotonic()
        with pytest.raises(ClientError, match="ServerException"):
            request_token()
        assert time.monotonic() - begin >= 0.2

    def test_a_crowd_shares_the_rules(self, aws: AwsStandIn) -> None:
        """A rule that is good for ten calls meets ten of a crowd, no more and no fewer."""
        aws.script(Error("ThrottlingException", times=10))
        ecr = build_ecr()

        def succeeds(_: int) -> bool:
            try:
                ecr.get_authorization_token()
            except ClientError:
                return False
            return True

        with ThreadPoolExecutor(40) as crowd:
            assert sum(crowd.map(succeeds, range(40))) == 30


class TestRecord:
    def test_a_call(self, aws: AwsStandIn) -> None:
        """A call is remembered with all that tells who asked for what."""
        begin = time.time()
        boto3.client("ecr", config=Config(user_agent_extra="me/1.0")).get_authorization_token(registryIds=[ACCOUNT])
        (call,) = aws.calls()
        assert (call.operation, call.service, call.region) == ("GetAuthorizationToken", "ecr", "us-east-1")
        assert (call.access_key_id, call.account) == (aws.access_key_id, ACCOUNT)
        assert call.user_agent.endswith("me/1.0")
        assert call.host == urlsplit(aws.url).netloc
        assert begin <= call.time <= time.time()
        assert call.parameters == {"registryIds": [ACCOUNT]}

    def test_parameters_of_assume_role(self, aws: AwsStandIn) -> None:
        """What a role was assumed with is remembered by the API's names."""
        build_sts().assume_role(RoleArn=ROLE_ARN, RoleSessionName="me", ExternalId="a&b", DurationSeconds=900)
        (call,) = aws.calls(operation="AssumeRole", service="sts")
        expected = {"RoleArn": ROLE_ARN, "RoleSessionName": "me", "ExternalId": "a&b", "DurationSeconds": "900"}
        assert call.parameters == expected

    def test_calls_that_fail(self, aws: AwsStandIn) -> None:
        """A call counts when it arrives, whatever becomes of it."""
        aws.script(Reset())
        with pytest.raises(ConnectionClosedError):
            request_token()
        assert len(aws.calls()) == 1

    def test_calls_can_be_told_apart(self, aws: AwsStandIn) -> None:
        """Calls can be asked for by operation, service and region, and come in their order."""
        regions = ["eu-west-3", "us-east-1", "eu-west-3"]
        for region in regions:
            request_token(region)
        build_sts().get_caller_identity()
        assert [call.region for call in aws.calls(service="ecr")] == regions
        assert len(aws.calls(region="eu-west-3")) == 2
        assert [call.service for call in aws.calls(operation="GetCallerIdentity")] == ["sts"]

    def test_secrets(self, aws: AwsStandIn) -> None:
        """Every secret that went out is known, for others to look for in their logs."""
        token = build_ecr().get_authorization_token()
        credentials = build_sts().assume_role(RoleArn=ROLE_ARN, RoleSessionName="me")["Credentials"]
        assert aws.secrets() >= {
            password_in(token),
            token["authorizationData"][0]["authorizationToken"],
            credentials["SecretAccessKey"],
            credentials["SessionToken"],
            os.environ["AWS_SECRET_ACCESS_KEY"],
        }

    def test_reset(self, aws: AwsStandIn) -> None:
        """A reset forgets calls, script and settings, but no token that is out in the world."""
        password = request_token()
        aws.script(Error("ServerException"))
        aws.set(token_lifetime=-1)
        aws.reset()
        assert aws.calls() == []
        assert aws.authorise("AWS", request_token()).valid
        assert aws.authorise("AWS", password).valid
        assert password in aws.secrets()


class TestServer:
    @pytest.mark.usefixtures("aws")
    def test_the_rest_of_aws_is_motos(self) -> None:
        """Other services, and ECR's other operations, work as moto has them."""
        ssm: Any = boto3.client("ssm")
        ssm.put_parameter(Name="/airflow/variables/colour", Value="blue", Type="String", Overwrite=True)
        assert ssm.get_parameter(Name="/airflow/variables/colour")["Parameter"]["Value"] == "blue"
        ecr = build_ecr("eu-west-3")
        ecr.create_repository(repositoryName="app")
        assert [found["repositoryName"] for found in ecr.describe_repositories()["repositories"]] == ["app"]

    def test_the_handle_is_light(self) -> None:
        """The handle costs its users neither moto nor boto3."""
        code = "import sys, tests.stand_ins.aws; print({'moto', 'boto3', 'botocore'} & sys.modules.keys())"
        assert subprocess.check_output([sys.executable, "-c", code], cwd=PROJECT, text=True) == "set()\n"

    def test_the_handle_travels(self, aws: AwsStandIn) -> None:
        """The handle can be sent to other processes, and shows no secret on the way."""
        assert pickle.loads(pickle.dumps(aws)) == aws  # noqa: S301
        assert aws.secret_access_key not in repr(aws)

    def test_a_fault_of_no_kind(self, aws: AwsStandIn) -> None:
        """A request that the server cannot follow fails where it was made."""
        with pytest.raises(RuntimeError, match="answered 500 to POST settings"):
            aws.script(Fault())

    def test_a_port_in_use(self, aws: AwsStandIn) -> None:
        """A server that cannot start says so at once."""
        port = urlsplit(aws.url).port or 0
        with pytest.raises(RuntimeError, match="exit code 1 before it was ready"), AwsStandIn.running(port=port):
            pass

    def test_the_command(self, tmp_path: Path) -> None:
        """The server can be had by command, says on standard output where it is, and ends at SIGTERM."""
        command = [
            sys.executable,
            "-m",
            "tests.stand_ins.aws",
            "--token-lifetime=7",
            f"--port-file={tmp_path / 'port'}",
        ]
        with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            assert urlsplit(url).port == int((tmp_path / "port").read_text())
            assert AwsStandIn(url).calls() == []
            process.terminate()
        assert process.returncode == 0

    def test_no_server_is_left_behind(self) -> None:
        """The server ends with the process that runs it, even if that is killed."""
        owner = subprocess.Popen([sys.executable, "-c", OWNER], cwd=PROJECT, text=True, stdout=subprocess.PIPE)
        with owner:
            assert owner.stdout is not None
            with connect(owner.stdout.readline().strip()) as connection:
                owner.kill()
                with suppress(ConnectionResetError):  # that, or an orderly end, but no timeout
                    assert connection.recv(1) == b""
