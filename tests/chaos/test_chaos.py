"""The chaos run in small: what is acknowledged survives kills, a log that is away and a full disk."""

from pathlib import Path

import pytest

from tests.chaos.run import Plan, run
from tests.contracts.conftest import kafka_servers

SMALL = Plan(count=1_500, kills=1, away_s=3, full_s=1)


@pytest.mark.alone
@pytest.mark.parametrize("kafka", [False, pytest.param(True, marks=pytest.mark.kafka)], ids=["sqlite", "kafka"])
def test_nothing_acknowledged_is_lost_or_doubled_while_everything_is_killed(tmp_path: Path, kafka: bool) -> None:
    if kafka:
        kafka_servers()  # a broker of the run's own is killed; this only says that there is Kafka on this machine
    report = run(tmp_path, Plan(**{**vars(SMALL), "kafka": kafka}))
    assert not report.faults, report.show()
    assert report.facts["acknowledged"] == SMALL.count
