"""The log of an interrupted run is continued, unless it is damaged."""

import pytest

from diffsight.errors import InputError
from diffsight.training.logs import CsvLog

WHOLE = "step,name,value\r\n1,loss,0.5\r\n2,loss,0.4\r\n3,loss,0.3\r\n"


def test_a_resumed_run_deletes_log_rows_from_its_first_step_on(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(WHOLE.encode())
    CsvLog(path, first_step=3)
    assert path.read_bytes() == WHOLE.replace("3,loss,0.3\r\n", "").encode()


@pytest.mark.parametrize(
    "content",
    [
        b"step,name,value\nten,loss,0.5\n",
        b"step,name,value\n\0,loss,0.5\n",
        b"step,name,value\n" + b"7" * 5000 + b",loss,0.5\n",
        b"step,name,value\n" + b"x" * 200_000,
        b"name,value\nloss,0.5\n",
        b"step,name,value\n1,\xfc,0.5\n",
    ],
)
def test_the_error_of_a_damaged_log_is_one_line(tmp_path, content):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"metrics\.csv: damaged \(.*\): delete it") as error:
        CsvLog(path, first_step=3)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content
