import pytest

from dpscale.data.assets import EMBEDDED, resolve
from dpscale.errors import InputError


def test_every_embedded_name_is_a_file_in_the_package() -> None:
    for name in EMBEDDED:
        assert resolve(f"embedded:{name}").is_file()


def test_an_unknown_embedded_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"embedded:nothing: .*embedded:sotu"):
        resolve("embedded:nothing")
