import pytest

from dpscale.errors import InputError
from dpscale.sweep.launchers.protocol import Resources


def test_resources_are_read_from_a_table() -> None:
    needs = Resources.from_dict({"CPU": 1.5, "TPU": 4, "hosts": 2}, where="s")
    assert needs == Resources(hosts=2, amounts={"CPU": 1.5, "TPU": 4.0})
    assert needs.cores == 2
    assert needs.describe() == "2 hosts of 1.5 CPU, 4 TPU"
    assert Resources.from_dict({}, where="s") == Resources()
    assert Resources().cores == 1
    assert Resources().describe() == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"CPU": "2"}, "s.CPU: expected a number from 0, found '2'."),
        ({"CPU": -1}, "s.CPU: expected a number from 0, found -1."),
        ({"TPU": True}, "s.TPU: expected a number from 0, found True."),
        ({"TPU": float("nan")}, "s.TPU: expected a number from 0, found nan."),
        ({"hosts": 0}, "s.hosts: expected at least 1, found 0."),
        ({"hosts": 1.5}, "s.hosts: expected at least 1, found 1.5."),
    ],
)
def test_what_is_no_amount_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        Resources.from_dict(fields, where="s")
    assert str(error.value) == message
