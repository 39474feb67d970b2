"""``fleetest coordinator --announce``: capabilities as the operator writes them."""

import pytest

from fleetest.cli.coordinator import parse_announcement
from fleetest.core.matching import matches
from fleetest.core.requirements import parse_options
from fleetest.errors import UserError


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({"gpus": 1, "requires": "cuda>=12"}, True),
        ({"requires": "cuda=12"}, True),
        ({"gpus": 2}, False),
        ({"memory": "64GiB"}, True),
        ({"requires": "browser=chrome, browser=firefox"}, True),
        ({"resources": {"licence": 3}}, True),
        ({"requires": "os=linux"}, False),
    ],
)
def test_what_is_announced_is_matched_like_what_is_there(options, fits):
    announced = parse_announcement("gpus=1, cuda=12.4, memory=64GiB, browser=chrome, browser=firefox, licence=3")
    assert matches(parse_options(options).requirements, announced) is fits


@pytest.mark.parametrize("text", ["", "gpus", "gpus=", "GPU=1", "gpus=1,,cuda=12"])
def test_what_is_no_announcement_is_refused(text):
    with pytest.raises(UserError, match="--announce"):
        parse_announcement(text)
